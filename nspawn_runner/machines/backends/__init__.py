"""Backends: where a machine's changes go. One module each, with the functions of ``Backend``."""

from __future__ import annotations

from importlib import import_module

from ...errors import HostError
from ...host import trees
from ...light_typing import NamedTuple, Protocol, cast
from ..records import Record


class NewLayer(NamedTuple):
    """What a backend needs to know of a layer that it makes: the machine's /etc/hosts, and how large a tmpfs may be."""

    hosts: bytes
    tmpfs_size: str


class Backend(Protocol):
    """What a backend's module offers; all of it works from the record and can be repeated."""

    OWNS_LAYER: bool  # the layer goes with the machine
    CAN_KEEP: bool  # the root of a failed job can be kept in it

    def layer(self, state_folder: str, machine: str) -> str:
        """Return the path on disk that holds the changes of ``machine``."""

    def attach(self, record: Record, new: NewLayer) -> None:
        """Make the layer of a machine whose record is written; raises HostError."""

    def detach(self, layer: str) -> None:
        """Remove ``layer`` whatever its state, absent included; raises HostError when something stays."""

    def command(self, record: Record) -> list[str]:
        """Return the start of the unit's command: systemd-nspawn and the options that name its tree."""

    def room_bytes(self, record: Record) -> int | None:
        """Return how much more the machine can write, in bytes; None where that cannot be told."""

    def disk_bytes(self, layer: str, *, seconds: float) -> int | None:
        """Return what ``layer`` takes, in bytes, beyond what it shares with the image; None where that is not told.

        Raises HostError when it takes over ``seconds`` to count, and OSError when the layer goes meanwhile.
        """

    def is_complete(self, record: Record) -> bool:
        """Return whether all that a kept root consists of is there still."""

    def volumes_folder(self, record: Record) -> str:
        """Return the folder on the host for volumes; empty where the machine's tree itself is enough."""

    def try_out(self, root: str, layer: str, folder: str, uid_base: int) -> str:
        """Make a ``layer`` of the empty tree ``root`` as for a machine; return what works, in a few words.

        ``folder`` is for mount points, ``uid_base`` 0 is without a user namespace. Raises HostError; the caller removes
        what was made. Never called for in_place.
        """


def named(name: str) -> Backend:
    """Return the backend ``name`` (overlay, btrfs, tmpfs, in_place)."""
    return cast(Backend, import_module(f".{name}", __name__))


def for_tree(root: str) -> list[str]:
    """Return the names of the backends that can make a layer of the tree ``root``."""
    return ["overlay", "btrfs", "tmpfs"] if trees.is_subvolume(root) else ["overlay", "tmpfs"]


def places(state_folder: str, machine: str) -> dict[str, str]:
    """Return the paths where an unknown ``machine`` may have a layer, by the backend that removes it."""
    # tmpfs has the folder of overlay, and takes it down mounted or not.
    return {name: named(name).layer(state_folder, machine) for name in ("tmpfs", "btrfs")}


def traces(state_folder: str, machine: str) -> list[str]:
    """Return all paths that a layer of ``machine`` may have."""
    from . import overlay

    layers = places(state_folder, machine).values()
    return [*layers, *map(overlay.disk_file, layers)]


def choose(wanted: str, root: str, *, limited_disk: bool, in_place: bool = False) -> str:
    """Return the backend for a machine on the tree ``root``: the ``wanted`` one, with auto btrfs where that can be.

    A machine whose disk is limited is on overlay even so, and one that changes the tree itself has no layer.
    """
    if in_place:
        return "in_place"
    if wanted in {"overlay", "tmpfs"}:
        return wanted
    if limited_disk:
        # Quota groups of btrfs did not hold: after other machines' snapshots had been deleted, a job wrote far beyond
        # its limit (seen with Linux 6.18). Nor do they hold for subvolumes that a job makes.
        return "overlay"
    if trees.is_subvolume(root):
        return "btrfs"
    if wanted == "btrfs":
        raise HostError(
            f"{root} is not a btrfs subvolume, so no snapshot can be made of it",
            advice='make the image with chroot-create on btrfs, or set backend = "auto"',
        )
    return "overlay"
