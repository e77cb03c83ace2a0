"""Overlay: the image as lower directory, a folder on the same disk as upper.

With a user namespace the lower is an idmapped bind of the image and the upper is owned by the machine's range, which
costs the same whatever the size of the image (kernel >= 5.19). Both mounts are made by the launcher, inside the unit.
"""

from __future__ import annotations

import os
import sys

from ...errors import HostError
from ...host import files
from ...settings import Settings
from ..records import Record

# Named, not imported: it loads ctypes, which a stage does without.
_LAUNCHER = os.path.join(os.path.dirname(os.path.dirname(__file__)), "launcher.py")

def layer(state_folder: str, machine: str) -> str:
    """Return the folder of upper and work directory."""
    return f"{state_folder}/.overlays/{machine}"


def attach(record: Record, settings: Settings) -> None:
    """Make upper and work directory; the upper has the mode of the image's root and belongs to the machine's range."""
    del settings
    _check_kernel(record)
    detach(record.layer)
    files.make_private_folder(record.layer)
    make_directories(record)


def make_directories(record: Record) -> None:
    """Make upper and work directory in the layer."""
    for name, mode in (("upper", os.stat(record.root).st_mode & 0o7777), ("work", 0o700)):
        path = f"{record.layer}/{name}"
        os.mkdir(path)
        os.chown(path, record.uid_base, record.uid_base)
        os.chmod(path, mode)


def detach(layer: str) -> None:
    """Remove upper and work directory; their mounts went with the unit."""
    files.remove_tree(layer)


def command(record: Record) -> list[str]:
    """Return the launcher, which mounts and then becomes systemd-nspawn on the merged tree."""
    merged = f"{record.folder}/merged"
    # -I and -S: the launcher needs nothing but the standard library, and starts 8 ms sooner.
    mount = [sys.executable, "-I", "-S", _LAUNCHER, record.root, record.layer, record.folder]
    users = ["--private-users=yes"] if record.user_namespace else []
    return [*mount, str(record.uid_base), "systemd-nspawn", f"--directory={merged}", *users]


def _check_kernel(record: Record) -> None:
    release = os.uname().release
    numbers = [int(part) if part.isdigit() else 0 for part in release.partition("-")[0].split(".")[:2]]
    if record.user_namespace and numbers < [5, 19]:
        raise HostError(
            f"kernel {release} cannot give a machine on overlay a user namespace (that takes 5.19)",
            advice="use a newer kernel, a btrfs state folder, or user_namespace = false for jobs that may be root here",
        )
