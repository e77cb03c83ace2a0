"""tmpfs: as overlay, with upper and work directory in memory, at most ``tmpfs_size`` of it.

The tmpfs is mounted on the host, not by the launcher, so that a reboot inside the job keeps the machine's state.
"""

from __future__ import annotations

import os

from ...host import files, process
from ...settings.amounts import INFINITY, memory_bytes, size_bytes
from ...settings.load import Settings
from ..records import Record
from . import overlay

OWNS_LAYER = True
CAN_KEEP = False  # in memory

command = overlay.command
is_complete = overlay.is_complete
volumes_folder = overlay.volumes_folder
layer = overlay.layer
detach = overlay.detach
room_bytes = overlay.room_bytes


def attach(record: Record, settings: Settings) -> None:
    """Mount a tmpfs for upper and work directory."""
    detach(record.layer)
    files.make_private_folder(record.layer)
    options = f"size={_size(record, settings)},mode=0700,nodev"
    process.run(["mount", "--types=tmpfs", f"--options={options}", "nspawn-runner", record.layer])
    overlay.make_directories(record, settings)


def disk_bytes(layer: str, *, seconds: float) -> int | None:
    """Return what of the tmpfs is in use."""
    if not os.path.ismount(layer):
        return overlay.disk_bytes(layer, seconds=seconds)
    there = os.statvfs(layer)
    return (there.f_blocks - there.f_bfree) * there.f_frsize


def _size(record: Record, settings: Settings) -> str:
    """Return the size for mount(8): that of the settings, or the limit of the machine's disk where that is less."""
    size, limit = settings.tmpfs_size, record.limits.disk_max
    if limit == INFINITY:
        return size
    whole = memory_bytes() * int(size[:-1]) // 100 if size.endswith("%") else size_bytes(size) or 0
    return str(min(whole, int(limit)))
