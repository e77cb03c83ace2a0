"""Files and folders as root needs them: atomic writes, bounded reads, removal that follows no link."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from ..errors import HostError


def write_atomically(path: str, content: bytes, *, mode: int = 0o600, on_disk: bool = False) -> None:
    """Replace ``path`` by a file with ``content``, owned by us, with ``mode``; readers see the old or the new whole.

    With ``on_disk`` that holds after a loss of power too; else the file may be empty then.
    """
    draft = f"{path}.{os.getpid()}.new"
    remove_file(draft)  # of a process of that number that was killed
    try:  # from before it is there: a signal may arrive while it is made
        with open(draft, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            os.fchmod(file.fileno(), mode)  # whatever our caller's umask is
            file.write(content)
            if on_disk:
                file.flush()
                os.fsync(file.fileno())
        os.rename(draft, path)
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename = error.filename or path  # or a full disk would not say which
        remove_file(draft)
        raise


def remove_file(path: str) -> None:
    """Remove the file or link ``path`` if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def remove_drafts(path: str) -> None:
    """Remove what killed processes left of their ``write_atomically`` to ``path``."""
    folder, name = os.path.split(path)
    with suppress(FileNotFoundError):
        for entry in os.listdir(folder):
            pid = entry.removeprefix(f"{name}.").removesuffix(".new")
            if entry == f"{name}.{pid}.new" and pid.isdecimal() and not os.path.exists(f"/proc/{pid}"):
                remove_file(os.path.join(folder, entry))


def remove_folder(path: str) -> None:
    """Remove the empty folder ``path`` if it is there; one that is not empty, or a mount, stays."""
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY}:
            raise


def remove_tree(path: str, *, subvolumes: bool = False) -> None:
    """Remove the tree ``path`` if it is there, whatever a job made of it; raises HostError when something stays.

    rm(1) follows no link and takes any depth, where shutil.rmtree ends at Python's recursion limit. It crosses into no
    other file system, unless ``subvolumes`` says that there are btrfs subvolumes inside, which look like that.
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
    """Return whether there is anything at ``path``; raises OSError where that cannot be told."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def make_private_folder(path: str) -> None:
    """Make the folder ``path`` and its parents, mode 0700, unless it is there; one that is there becomes private.

    With uids on disk that are the job's own, a setuid file in a layer must be out of every host user's reach.
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
    """Return the type of the file system that holds ``path``, in the words of ``stat -f -c %T``."""
    from . import process

    return process.run(["stat", "--file-system", "--format=%T", "--", path]).stdout.decode().strip()


def read_head(path: str, limit_bytes: int) -> bytes:
    """Return at most the first ``limit_bytes`` bytes of ``path``; raises OSError."""
    with open(path, "rb") as file:
        return file.read(limit_bytes)


def mounted_below(folder: str) -> list[str]:
    """Return what is mounted below ``folder`` (a real path; itself left out): /proc/self/mountinfo, proc(5)."""
    prefix = folder.rstrip("/") + "/"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split(" ")[4] for line in file]
    for escape, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        points = [point.replace(escape, char) for point in points]
    return [point for point in points if point.startswith(prefix)]
