"""tmpfs: as overlay, with upper and work directory in memory, at most ``tmpfs_size`` of it.

The tmpfs is mounted on the host, not by the launcher, so that a reboot inside the job keeps the machine's state.
"""

from __future__ import annotations

import os

from ...host import files, process
from ...settings import Settings
from ..records import Record
from . import overlay

command = overlay.command
layer = overlay.layer


def attach(record: Record, settings: Settings) -> None:
    """Mount a tmpfs for upper and work directory."""
    detach(record.layer)
    files.make_private_folder(record.layer)
    options = f"size={settings.tmpfs_size},mode=0700,nodev"
    process.run(["mount", "--types=tmpfs", f"--options={options}", "nspawn-runner", record.layer])
    overlay.make_directories(record)


def detach(layer: str) -> None:
    """Unmount and remove the layer; what was in it is memory and goes at once."""
    while os.path.ismount(layer):
        process.run(["umount", "--lazy", layer])
    files.remove_tree(layer)
