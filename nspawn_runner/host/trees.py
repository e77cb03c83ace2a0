"""Trees of files, in the cheapest form that the file system offers: btrfs subvolumes, else plain folders."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..errors import HostError
from . import files, process

# The inode number of every btrfs subvolume's top folder (BTRFS_FIRST_FREE_OBJECTID in the kernel's btrfs_tree.h).
_SUBVOLUME_INODE = 256
# A file system may still report this much as free when writing a package already fails.
_FULL_BELOW_BYTES = 4 << 20
_WRITE_SECONDS = 0.5
NO_SPACE = "No space left on device"


def make(path: str) -> None:
    """Create the empty tree ``path``, mode 0755; on btrfs as its own subvolume, so that copies of it cost nothing."""
    if _is_on_btrfs(os.path.dirname(path)):
        process.run(["btrfs", "subvolume", "create", "--", path])
    else:
        os.mkdir(path)
    os.chmod(path, 0o755)  # noqa: S103  (regardless of the umask: it is "/" for every user in the machine)


def copy(source: str, target: str) -> None:
    """Make ``target`` a copy of the tree ``source`` with owners, links, holes and extended attributes.

    Takes a snapshot of a subvolume; otherwise shares blocks if the file system can, else copies them.
    """
    if (
        is_subvolume(source)
        and not process.run(["btrfs", "subvolume", "snapshot", "--", source, target], check=False).returncode
    ):
        return
    make(target)
    # It dies with us: the next process removes the partial copy and must not race with somebody who still writes.
    die = ["setpriv", "--pdeathsig", "KILL", "--"]
    with _writing_out(target):
        process.run([*die, "cp", "--archive", "--reflink=auto", "--", f"{source}/.", target])


@contextmanager
def _writing_out(path: str) -> Iterator[None]:
    """Write files to disk while they are created in ``path``, so that ``write_out`` has little left to wait for.

    The kernel alone would begin when they fill a tenth of the memory (dirty_background_ratio in proc_sys_vm(5)).
    """
    over = threading.Event()

    def write() -> None:
        with suppress(HostError):  # a later ``write_out`` reports it
            while not over.wait(_WRITE_SECONDS):
                write_out(path)

    writing = threading.Thread(target=write)
    writing.start()
    try:
        yield
    finally:
        over.set()
        writing.join()


def remove(path: str) -> None:
    """Remove the tree ``path`` if it exists; raises HostError if anything of it remains.

    btrfs-progs before 6.12 cannot delete a subvolume that holds others: rm removes those too. A machine's root can
    create some in anything on btrfs, even in a plain folder.
    """
    subvolume = is_subvolume(path)
    if subvolume and not process.run(["btrfs", "subvolume", "delete", "--", path], check=False).returncode:
        return
    try:
        files.remove_tree(path, subvolumes=subvolume)
    except HostError:
        # To rm a mount looks like a subvolume, and we must not empty it.
        if not (subvolume or _is_on_btrfs(path)) or files.mounted_below(os.path.realpath(path)):
            raise
        # A job may have made some read-only, even marked as received (hence -f).
        writable = ["btrfs", "property", "set", "-f", "-t", "subvol", "{}", "ro", "false"]
        find = ["find", path, "-type", "d", "-inum", str(_SUBVOLUME_INODE), "-execdir", *writable, ";"]
        process.run(find, check=False)
        files.remove_tree(path, subvolumes=True)


def is_subvolume(path: str) -> bool:
    """Return whether ``path`` is the top of a btrfs subvolume."""
    try:
        return os.lstat(path).st_ino == _SUBVOLUME_INODE and _is_on_btrfs(path)
    except FileNotFoundError:
        return False


def size_bytes(path: str, *, seconds: float | None = None) -> int:
    """Return the bytes that the tree ``path`` takes on disk, file by file (blocks shared with other trees count too).

    Raises HostError if that takes over ``seconds``.
    """
    # Subvolumes that a job made inside count too: they look like other file systems.
    bounds = ["--one-file-system"] if files.mounted_below(os.path.realpath(path)) else []
    argv = ["du", "--summarize", *bounds, "--block-size=1", "--", path]
    done = process.run(argv, check=False, timeout_seconds=seconds)
    return int(done.stdout.split(b"\t", 1)[0] or 0)


def exclusive_bytes(path: str, *, seconds: float | None = None) -> int:
    """Return the bytes on disk that the btrfs subvolume ``path`` does not share with others.

    Raises HostError if it is no subvolume, or that takes over ``seconds``.
    """
    done = process.run(["btrfs", "filesystem", "du", "--summarize", "--raw", "--", path], timeout_seconds=seconds)
    figures = done.stdout.decode(errors="replace").splitlines()[-1].split()  # total, exclusive, shared, name
    return int(figures[1])


def write_out(path: str) -> None:
    """Wait until everything on the file system that holds ``path`` is on disk: a power loss then costs nothing."""
    process.run(["sync", "--file-system", "--", path])


@contextmanager
def full_disk_told(path: str) -> Iterator[None]:
    """Turn a failure inside caused by lack of space into a HostError that names the disk that holds ``path``."""
    try:
        yield
    except (HostError, OSError) as error:
        if not _for_want_of_space(error, path):
            raise
        asked = process.run(["findmnt", "--json", "--output=SOURCE,TARGET", f"--target={path}"], check=False).stdout
        disk = json.loads(asked)["filesystems"][-1] if asked else {"source": "the disk", "target": "?"}
        raise HostError(
            f"the disk that holds {path} is full",
            facts=f"{disk['source']} mounted on {disk['target']}: {room_bytes(path) >> 20} MiB free",
            advice="make room there and try again; chroot-list --generations shows what the images take",
        ) from error


def _for_want_of_space(error: HostError | OSError, path: str) -> bool:
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return True
    return NO_SPACE in str(error) or room_bytes(path) < _FULL_BELOW_BYTES


def room_bytes(path: str) -> int:
    """Return the bytes free for us on the file system that holds ``path``; 0 if it takes no more files."""
    there = os.statvfs(path)
    return 0 if there.f_files and not there.f_favail else there.f_bavail * there.f_frsize


def _is_on_btrfs(path: str) -> bool:
    return files.file_system(path) == "btrfs"
