"""tmpfs: as overlay, with upper and work directory in memory, at most ``tmpfs_size`` of it.

The tmpfs is mounted on the host, not by the launcher, so that a reboot inside the job keeps the machine's state.
"""

from __future__ import annotations

import os

from ...host import files, process
from ...light_typing import TYPE_CHECKING
from ...settings.amounts import share_bytes
from ...settings.tables import UNLIMITED
from ..records import Record
from . import overlay

if TYPE_CHECKING:
    from . import NewLayer

OWNS_LAYER = True
CAN_KEEP = False  # in memory

command = overlay.command
is_complete = overlay.is_complete
volumes_folder = overlay.volumes_folder
layer = overlay.layer
detach = overlay.detach
room_bytes = overlay.room_bytes
try_out = overlay.try_out


def attach(record: Record, new: NewLayer) -> None:
    """Mount a tmpfs for upper and work directory."""
    detach(record.layer)
    files.make_private_folder(record.layer)
    options = f"size={_size(record, new.tmpfs_size)},mode=0700,nodev"
    process.run(["mount", "--types=tmpfs", f"--options={options}", "nspawn-runner", record.layer])
    overlay.make_directories(record, new.hosts)


def disk_bytes(layer: str, *, seconds: float) -> int | None:
    """Return what of the tmpfs is in use."""
    if not os.path.ismount(layer):
        return overlay.disk_bytes(layer, seconds=seconds)
    there = os.statvfs(layer)
    return (there.f_blocks - there.f_bfree) * there.f_frsize


def _size(record: Record, size: str) -> str:
    """Return the size for mount(8): that of the settings, or the limit of the machine's disk where that is less."""
    limit = record.limits.disk_max
    return size if limit == UNLIMITED else str(min(share_bytes(size), int(limit)))
