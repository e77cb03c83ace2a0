"""Single files inside a tree, opened step by step, so that no link in the tree leads root out of it.

Raises HostError if a folder of the path is not a plain folder, else OSError.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from ..errors import HostError

_MOST_BYTES = 1 << 20


class Entry(NamedTuple):
    """What a path holds: nothing (``mode`` 0), a link (its target is the content) or a file."""

    mode: int = 0
    content: bytes = b""


def write(root: str, path: str, content: bytes, *, mode: int = 0o644) -> None:
    """Put a file with ``content`` at ``path`` below ``root``, replacing a file or link; creates missing folders."""
    with _folder(root, path) as (folder, name):
        _remove(folder, name)
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=folder)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(content)


def link(root: str, path: str, target: str) -> None:
    """Put a symbolic link to ``target`` at ``path`` below ``root``, replacing a file or link there."""
    with _folder(root, path) as (folder, name):
        _remove(folder, name)
        os.symlink(target, name, dir_fd=folder)


def remove(root: str, path: str) -> None:
    """Remove the file or link at ``path`` below ``root`` if it exists."""
    with _folder(root, path) as (folder, name):
        _remove(folder, name)


def remove_files(root: str, path: str) -> None:
    """Remove the files, but not the folders, directly in the folder ``path`` below ``root``."""
    with _folder(root, f"{path}/.") as (folder, _):
        for name in os.listdir(folder):
            if not stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
                os.unlink(name, dir_fd=folder)


def set_old(root: str, path: str) -> None:
    """Set the times of the folder ``path`` below ``root`` to 1970-01-01."""
    with _folder(root, f"{path}/.") as (folder, _):
        os.utime(folder, (0, 0))


def read(root: str, path: str) -> Entry:
    """Return what is at ``path`` below ``root``: a file (at most its first MiB), a link, or nothing."""
    with _folder(root, path) as (folder, name):
        try:
            mode = os.lstat(name, dir_fd=folder).st_mode
            if stat.S_ISLNK(mode):
                return Entry(mode, os.fsencode(os.readlink(name, dir_fd=folder)))
            # O_NONBLOCK: opening a pipe there would wait for its writer
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            return Entry()
        with os.fdopen(fd, "rb") as file:
            return Entry(mode, file.read(_MOST_BYTES) if stat.S_ISREG(mode) else b"")


def put_back(root: str, path: str, entry: Entry) -> None:
    """Restore ``path`` below ``root`` to the ``entry`` that ``read`` returned."""
    if stat.S_ISLNK(entry.mode):
        link(root, path, os.fsdecode(entry.content))
    elif stat.S_ISREG(entry.mode):
        write(root, path, entry.content, mode=stat.S_IMODE(entry.mode))
    else:
        remove(root, path)


@contextmanager
def _folder(root: str, path: str) -> Iterator[tuple[int, str]]:
    """Open the folder of ``path`` below ``root`` without following links, creating missing folders."""
    *folders, name = path.split("/")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(root, flags)
    try:
        for folder in folders:
            try:
                os.mkdir(folder, 0o755, dir_fd=fd)
                os.chmod(folder, 0o755, dir_fd=fd)  # noqa: S103  (regardless of the umask)
            except FileExistsError:
                pass
            try:
                deeper = os.open(folder, flags, dir_fd=fd)
            except OSError as error:
                raise HostError(f"{folder} of {path} is not a plain folder in {root}", facts=str(error)) from None
            os.close(fd)
            fd = deeper
        yield fd, name
    finally:
        os.close(fd)


def _remove(folder: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
