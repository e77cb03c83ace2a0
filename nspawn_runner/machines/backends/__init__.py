"""Backends: where a machine's changes go. One module each, with the functions of ``Backend``."""

from __future__ import annotations

from importlib import import_module

from ...errors import HostError
from ...host import trees
from ...light_typing import Protocol, cast
from ...settings.amounts import INFINITY
from ...settings.load import Settings
from ..records import Record


class Backend(Protocol):
    """What a backend's module offers; all of it works from the record and can be repeated."""

    def layer(self, state_folder: str, machine: str) -> str:
        """Return the path on disk that holds the changes of ``machine``."""

    def attach(self, record: Record, settings: Settings) -> None:
        """Make the layer of a machine whose record is written; raises HostError."""

    def detach(self, layer: str) -> None:
        """Remove ``layer`` whatever its state, absent included; raises HostError when something stays."""

    def command(self, record: Record) -> list[str]:
        """Return the start of the unit's command: systemd-nspawn and the options that name its tree."""

    def room_bytes(self, record: Record) -> int | None:
        """Return how much more the machine can write, in bytes; None where that cannot be told."""


def named(name: str) -> Backend:
    """Return the backend ``name`` (overlay, btrfs, tmpfs, in_place)."""
    return cast(Backend, import_module(f".{name}", __name__))


def choose(settings: Settings, root: str) -> str:
    """Return the backend for a machine on the tree ``root``: the one set, else btrfs where a snapshot can be made.

    A machine whose disk is limited is on overlay even so.
    """
    if settings.backend in {"overlay", "tmpfs"}:
        return settings.backend
    if settings.limits.disk_max != INFINITY:
        # Quota groups of btrfs did not hold: after other machines' snapshots had been deleted, a job wrote far beyond
        # its limit (seen with Linux 6.18). Nor do they hold for subvolumes that a job makes.
        return "overlay"
    if trees.is_subvolume(root):
        return "btrfs"
    if settings.backend == "btrfs":
        raise HostError(
            f"{root} is not a btrfs subvolume, so no snapshot can be made of it",
            advice='make the image with chroot-create on btrfs, or set backend = "auto"',
        )
    return "overlay"
