"""Files and folders as root needs them: atomic writes, bounded reads, removal that follows no link."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from ..errors import HostError


def write_atomically(path: str, content: bytes, *, mode: int = 0o600, on_disk: bool = False) -> None:
    """Replace ``path`` with our own file of ``content`` and ``mode``; readers see the complete old or new file.

    With ``on_disk`` this also holds after a power loss; otherwise the file may then be empty. Raises OSError.
    """
    draft = f"{path}.{os.getpid()}.new"
    remove_file(draft)  # left by a killed process with our pid
    try:  # starts before the draft exists: a signal may arrive during its creation
        with open(draft, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            os.fchmod(file.fileno(), mode)  # regardless of our caller's umask
            file.write(content)
            if on_disk:
                file.flush()
                os.fsync(file.fileno())
        os.rename(draft, path)
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename = error.filename or path  # the error of a full disk names no file
        remove_file(draft)
        raise


def remove_file(path: str) -> None:
    """Remove the file or link ``path`` if it exists."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def remove_drafts(path: str) -> None:
    """Remove the drafts that killed processes left of their ``write_atomically`` to ``path``."""
    folder, name = os.path.split(path)
    with suppress(FileNotFoundError):
        for entry in os.listdir(folder):
            pid = entry.removeprefix(f"{name}.").removesuffix(".new")
            if entry == f"{name}.{pid}.new" and pid.isdecimal() and not os.path.exists(f"/proc/{pid}"):
                remove_file(os.path.join(folder, entry))


def remove_folder(path: str) -> None:
    """Remove the empty folder ``path`` if it exists; leave it if it is not empty or a mount point."""
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY}:
            raise


def remove_tree(path: str, *, subvolumes: bool = False) -> None:
    """Remove the tree ``path`` if it exists, whatever a job made of it; raises HostError if anything remains.

    rm(1) follows no link and handles any depth, whereas shutil.rmtree fails at Python's recursion limit. It stays on
    one file system, unless ``subvolumes`` says that there are btrfs subvolumes inside, which look like other ones.
    """
    from . import process

    if not _is_there(path):
        return
    bounds = [] if subvolumes else ["--one-file-system"]
    done = process.run(["rm", "--recursive", "--force", *bounds, "--", path], check=False)
    if _is_there(path):
        last = done.stderr.decode(errors="replace").strip().splitlines()
        raise HostError(f"cannot remove {path}", facts=last[-1] if last else "")


def _is_there(path: str) -> bool:
    """Return whether anything exists at ``path``; raises OSError if that is impossible to determine."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def make_private_folder(path: str) -> None:
    """Create the folder ``path`` and its parents with mode 0700; an existing ``path`` becomes private too.

    Files keep the job's own uids on disk, so a setuid file in a layer must be out of every host user's reach.
    """
    parent = os.path.dirname(path)
    if parent and not os.path.isdir(parent):
        make_private_folder(parent)
    try:
        os.mkdir(path, mode=0o700)
    except FileExistsError:
        if os.stat(path).st_mode & 0o077:
            os.chmod(path, 0o700)


def file_system(path: str) -> str:
    """Return the type of the file system that holds ``path``, as ``stat -f -c %T`` names it."""
    from . import process

    return process.run(["stat", "--file-system", "--format=%T", "--", path]).stdout.decode().strip()


def read_head(path: str, limit_bytes: int) -> bytes:
    """Return at most the first ``limit_bytes`` bytes of ``path``; raises OSError."""
    with open(path, "rb") as file:
        return file.read(limit_bytes)


def mounted_below(folder: str) -> list[str]:
    """Return the mount points below the real path ``folder``, without itself (/proc/self/mountinfo, proc(5))."""
    prefix = folder.rstrip("/") + "/"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split(" ")[4] for line in file]
    for escape, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        points = [point.replace(escape, char) for point in points]
    return [point for point in points if point.startswith(prefix)]
