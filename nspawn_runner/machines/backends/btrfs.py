"""btrfs: a snapshot of the image's subvolume, its root idmapped into the machine's range by systemd-nspawn."""

from __future__ import annotations

import os
import sys

from ...errors import HostError
from ...host import files, process, trees
from ...light_typing import TYPE_CHECKING
from ...nspawn import uid_ranges
from ...settings import paths
from ..records import Record
from . import overlay, own_files

if TYPE_CHECKING:
    from . import NewLayer

_SHIFT = """
import sys
_, place, source, target, uid_base = sys.argv
sys.path.insert(0, place)
from launcher import mount_idmapped
mount_idmapped(source, target, int(uid_base))
"""

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


def try_out(root: str, layer: str, folder: str, uid_base: int) -> str:
    """Make a snapshot, and shift its users as systemd-nspawn does."""
    trees.copy(root, layer)
    if not trees.is_subvolume(layer):
        raise HostError("btrfs makes no snapshots here", advice="dmesg may say why")
    if not uid_base:
        return "btrfs makes snapshots"
    os.makedirs(folder)
    place = [os.path.dirname(overlay.LAUNCHER), layer, folder, str(uid_base)]
    overlay.in_own_mounts("btrfs", [sys.executable, "-I", "-S", "-c", _SHIFT, *place])
    return "btrfs makes snapshots, with users of its own for each machine"
