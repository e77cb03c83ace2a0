"""The file /etc/hostname of a machine: the image's has the image's name."""

from __future__ import annotations

import os
from contextlib import suppress


def write(root: str, machine: str, uid: int) -> None:
    """Put the name of ``machine`` into the tree ``root``, in place of the image's, as a file that belongs to ``uid``.

    Where the tree has no plain folder for it there is none: links in it are not followed.
    """
    with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
        folder = os.open(f"{root}/etc", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with suppress(FileNotFoundError):
                os.unlink("hostname", dir_fd=folder)
            fd = os.open("hostname", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder)
            with os.fdopen(fd, "w") as file:
                os.fchmod(fd, 0o644)
                os.fchown(fd, uid, uid)
                file.write(f"{machine}\n")
        finally:
            os.close(folder)
