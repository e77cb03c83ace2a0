"""The files of a machine's tree that are its own: its name and the names it knows.

They lie in the layer like all that the machine writes: within its limits, to be changed and replaced, gone with it.
"""

from __future__ import annotations

import os
from contextlib import suppress

from ..records import Record


def write(root: str, record: Record, hosts: bytes, *, uid: int) -> None:
    """Put /etc/hostname and /etc/hosts of the machine of ``record`` into its tree ``root``; they belong to ``uid``.

    Where the tree has no plain folder for them there are none: links in it are not followed.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        folder = os.open(f"{root}/etc", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _replace(folder, "hostname", f"{record.machine}\n".encode(), uid)
            _replace(folder, "hosts", hosts, uid)
        finally:
            os.close(folder)


def _replace(folder: int, name: str, content: bytes, uid: int) -> None:
    with suppress(IsADirectoryError):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, 0o644)
            os.fchown(fd, uid, uid)
            file.write(content)
