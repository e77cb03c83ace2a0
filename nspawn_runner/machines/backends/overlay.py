"""Overlay: the image as lower directory, a folder on the same disk as upper.

Where the machine's disk is limited, that folder is a file system of its own in a sparse file: the one limit that works
on every file system without preparing it. It is mounted on the host, so that a reboot inside keeps the state.

With a user namespace the lower is an idmapped bind of the image and the upper is owned by the machine's range, which
costs the same whatever the size of the image (kernel >= 5.19). Both mounts are made by the launcher, inside the unit.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from contextlib import suppress

from ...errors import HostError
from ...host import files, process, trees
from ...light_typing import TYPE_CHECKING
from ...settings import paths
from ...settings.tables import UNLIMITED
from ..records import Record
from . import own_files

if TYPE_CHECKING:
    from . import NewLayer

# Named, not imported: it loads ctypes, which a stage does without.
LAUNCHER = os.path.join(os.path.dirname(os.path.dirname(__file__)), "launcher.py")

OWNS_LAYER = CAN_KEEP = True

# From linux/fs.h, the number on most architectures; see ioctl_iflags(2).
_FS_IOC_SETFLAGS, _FS_NOCOW_FL = 0x40086602, 0x00800000


def layer(state_folder: str, machine: str) -> str:
    """Return the folder of upper and work directory."""
    return f"{state_folder}/{paths.OVERLAYS}/{machine}"


def attach(record: Record, new: NewLayer) -> None:
    """Make upper and work directory; the upper has the mode of the image's root and belongs to the machine's range."""
    _check_kernel(record)
    detach(record.layer)
    files.make_private_folder(record.layer)
    if record.limits.disk_max != UNLIMITED:
        _mount_file(disk_file(record.layer), int(record.limits.disk_max), record.layer)
    make_directories(record, new.hosts)


def disk_file(layer: str) -> str:
    """Return the path of the file that holds the file system of a limited ``layer``."""
    return f"{layer}.disk"


def _mount_file(path: str, size_bytes: int, folder: str) -> None:
    """Mount a new file system of ``size_bytes`` on ``folder``; the file takes space only as it is filled."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with suppress(OSError):  # on btrfs: write in place, as a disk does
            fcntl.ioctl(fd, _FS_IOC_SETFLAGS, _FS_NOCOW_FL.to_bytes(8, sys.byteorder))
        os.ftruncate(fd, size_bytes)
    finally:
        os.close(fd)
    # Nothing of it outlives the machine: neither a journal nor blocks kept for root are of use.
    # An inode for each 8 KiB, but no more than 16 million: their tables take most of the time.
    each = str(max(8192, size_bytes >> 24))
    features = ["-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", "-m", "0", "-i", each]
    process.run(["mke2fs", "-q", "-t", "ext4", *features, path])
    # The file reads as zeros where nothing was written: the tables of inodes need no filling in the background.
    process.run(["mount", "--types=ext4", "--options=loop,nodev,discard,noinit_itable", path, folder])
    os.rmdir(f"{folder}/lost+found")
    os.chmod(folder, 0o700)


def make_directories(record: Record, hosts: bytes) -> None:
    """Make upper and work directory in the layer, with the machine's own files."""
    for name, mode in (("upper", os.stat(record.root).st_mode & 0o7777), ("work", 0o700)):
        path = f"{record.layer}/{name}"
        os.mkdir(path)
        os.chown(path, record.uid_base, record.uid_base)
        os.chmod(path, mode)
    _make_etc(record)
    own_files.write(f"{record.layer}/upper", record, hosts, uid=record.uid_base)


def _make_etc(record: Record) -> None:
    """Make the folder /etc of the upper directory as it is in the image, if it is a plain folder there."""
    path = f"{record.layer}/upper/etc"
    with suppress(FileNotFoundError):
        there = os.lstat(f"{record.root}/etc")
        if stat.S_ISDIR(there.st_mode):
            os.mkdir(path)
            os.chown(path, record.uid_base + there.st_uid, record.uid_base + there.st_gid)
            os.chmod(path, stat.S_IMODE(there.st_mode))


def detach(layer: str) -> None:
    """Remove upper and work directory and what they are on; the overlay's mounts went with the unit."""
    if os.path.ismount(layer):
        # The unit's reaper has mounts of its own: what is unmounted there alone stays mounted on the host.
        process.run(["nsenter", "--target=1", "--mount", "umount", "--lazy", layer], check=False)
    while os.path.ismount(layer):
        process.run(["umount", "--lazy", layer])
    trees.remove(layer)
    files.remove_file(disk_file(layer))


def room_bytes(record: Record) -> int | None:
    """Return what is left of the file system of the upper directory."""
    return trees.room_bytes(record.layer)


def disk_bytes(layer: str, *, seconds: float) -> int | None:
    """Return what upper and work directory take."""
    return trees.size_bytes(layer, seconds=seconds)


def is_complete(record: Record) -> bool:
    """Return whether the image is still the tree that the machine started from."""
    return not os.path.islink(record.root)


def volumes_folder(record: Record) -> str:
    """Return a folder of the layer: a job's own overlays cannot be on an overlay."""
    return f"{record.layer}/volumes"


def command(record: Record) -> list[str]:
    """Return the launcher, which mounts and then becomes systemd-nspawn on the merged tree."""
    merged = f"{record.folder}/merged"
    # -I and -S: the launcher needs nothing but the standard library, and starts 8 ms sooner.
    mount = [sys.executable, "-I", "-S", LAUNCHER, record.root, record.layer, record.folder]
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


def try_out(root: str, layer: str, folder: str, uid_base: int) -> str:
    """Let the launcher mount an overlay as it does for machines."""
    for name in ("upper", "work"):
        os.makedirs(f"{layer}/{name}")
        os.chown(f"{layer}/{name}", uid_base, uid_base)
    launch = [sys.executable, "-I", "-S", LAUNCHER, root, layer, folder, str(uid_base)]
    owner = in_own_mounts("overlay", [*launch, "stat", "--format=%u", f"{folder}/merged"])
    if int(owner) != uid_base:
        raise does_not_work("overlay", "the owner is not shifted")
    return "overlay works" + (", with users of its own for each machine" if uid_base else "")


def in_own_mounts(name: str, argv: list[str]) -> bytes:
    """Run a command in a mount namespace of its own and return its output; raises HostError about the backend."""
    done = process.run(["unshare", "--mount", "--propagation=private", "--", *argv], check=False)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise does_not_work(name, lines[-1].rpartition("nspawn-runner: ")[2] if lines else "it says nothing")
    return done.stdout


def does_not_work(name: str, reason: str) -> HostError:
    """Return the error that the backend ``name`` does not work on this host for ``reason``."""
    return HostError(
        f"{name} does not work here, kernel {os.uname().release}: {reason}",
        advice="a kernel from 5.19 on, or user_namespace = false in the settings where jobs may be root on the host",
    )
