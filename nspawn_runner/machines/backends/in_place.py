"""In place: no layer, the machine changes the tree itself. For a tree that is in the making, never for a job."""

from __future__ import annotations

from ...errors import HostError
from ...settings import Settings
from ..records import Record
from . import btrfs

# The record names the tree itself as layer.
command = btrfs.command


def layer(state_folder: str, machine: str) -> str:
    """Refuse: whoever wishes for the machine says which tree it is."""
    del state_folder
    raise HostError(f"the machine {machine} has no layer of its own")


def attach(record: Record, settings: Settings) -> None:
    """Make nothing: the tree is there."""
    del record, settings


def detach(layer: str) -> None:
    """Remove nothing: the tree belongs to whoever makes it."""
    del layer


def room_bytes(record: Record) -> int | None:
    """Tell nothing: no limit holds for a tree that is in the making."""
    del record
    return None
