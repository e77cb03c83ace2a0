"""Read below an untrusted folder: links resolve as if the folder were "/" (openat2(2))."""

from __future__ import annotations

import os
import stat

from .system_calls import open_in_root


def open_file(root: str, path: str) -> int:
    """Open the regular file ``path`` below ``root`` and return its descriptor; raises OSError.

    Never reaches outside ``root``, and opens nothing but regular files.
    """
    fd = open_in_root(root, path, os.O_PATH)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(22, "not a regular file", path)
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)


def exists(root: str, path: str) -> bool:
    """Return whether anything exists at ``path`` below ``root``, following all links."""
    try:
        os.close(open_in_root(root, path, os.O_PATH))
    except OSError:
        return False
    return True


def is_free(root: str, path: str) -> bool:
    """Return whether nothing exists at ``path`` below ``root``, not even a dangling link."""
    try:
        os.close(open_in_root(root, path, os.O_PATH | os.O_NOFOLLOW))
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def file_name(root: str, path: str) -> str:
    """Return the name of the regular file at ``path`` below ``root``, following all links; empty if there is none."""
    try:
        fd = open_in_root(root, path, os.O_PATH)
    except OSError:
        return ""
    try:
        return os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) if stat.S_ISREG(os.fstat(fd).st_mode) else ""
    finally:
        os.close(fd)
