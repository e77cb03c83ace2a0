"""In place: no layer, the machine changes the tree itself. For drafts only, never for a job."""

from __future__ import annotations

import os

from ...errors import HostError
from ...host import files
from ...light_typing import TYPE_CHECKING
from ..records import Record
from . import btrfs

if TYPE_CHECKING:
    from . import NewLayer

OWNS_LAYER = CAN_KEEP = False


def layer(state_folder: str, machine: str) -> str:
    """Refuse: whoever asks for the machine says which tree it is."""
    del state_folder
    raise HostError(f"the machine {machine} has no layer of its own")


def attach(record: Record, new: NewLayer) -> None:
    """Make the machine's /etc/hosts, beside the tree: what the machine is called is not the tree's affair."""
    path = _hosts_file(record)
    files.write_atomically(path, new.hosts, mode=0o644)
    os.chown(path, record.uid_base, record.uid_base)


def command(record: Record) -> list[str]:
    """Return systemd-nspawn on the tree, which the record names as layer."""
    return [*btrfs.command(record), f"--bind={_hosts_file(record)}:/etc/hosts"]


def _hosts_file(record: Record) -> str:
    return f"{record.folder}/hosts"


def detach(layer: str) -> None:
    """Remove nothing: the tree belongs to whoever makes it."""
    del layer


def room_bytes(record: Record) -> int | None:
    """Tell nothing: no limit holds for a tree that is being made."""
    del record
    return None


def disk_bytes(layer: str, *, seconds: float) -> int | None:
    """Tell nothing: there is no layer."""
    del layer, seconds
    return None


is_complete = btrfs.is_complete
volumes_folder = btrfs.volumes_folder
