"""btrfs: a snapshot of the image's subvolume, its root idmapped into the machine's range by systemd-nspawn."""

from __future__ import annotations

import os

from ...host import files, process, trees
from ...light_typing import TYPE_CHECKING
from ...nspawn import uid_ranges
from ...settings import paths
from ..records import Record
from . import own_files

if TYPE_CHECKING:
    from . import NewLayer

OWNS_LAYER = CAN_KEEP = True


def layer(state_folder: str, machine: str) -> str:
    """Return the path of the snapshot."""
    return f"{state_folder}/{paths.SNAPSHOTS}/{machine}"


def attach(record: Record, new: NewLayer) -> None:
    """Make the snapshot."""
    detach(record.layer)
    files.make_private_folder(os.path.dirname(record.layer))
    process.run(["btrfs", "--quiet", "subvolume", "snapshot", record.root, record.layer])
    own_files.write(record.layer, record, new.hosts, uid=0)


def detach(layer: str) -> None:
    """Remove the snapshot, with the subvolumes that the job made in it."""
    trees.remove(layer)


def command(record: Record) -> list[str]:
    """Return systemd-nspawn on the snapshot, idmapped (systemd >= 250, kernel >= 5.15)."""
    users = uid_ranges.mapped(record.uid_base)
    return ["systemd-nspawn", f"--directory={record.layer}", *(users if record.user_namespace else [])]


def room_bytes(record: Record) -> int | None:
    """Return what is left of the disk."""
    return trees.room_bytes(record.layer)


def disk_bytes(layer: str, *, seconds: float) -> int | None:
    """Return what the snapshot takes beyond what it shares."""
    return trees.exclusive_bytes(layer, seconds=seconds)


def is_complete(record: Record) -> bool:
    """Tell that a snapshot needs nothing else."""
    del record
    return True


def volumes_folder(record: Record) -> str:
    """Name none: a job's own overlays can be on the snapshot."""
    del record
    return ""
