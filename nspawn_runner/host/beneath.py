"""Read below an untrusted folder: links resolve as if the folder were "/" (openat2(2))."""

from __future__ import annotations

import ctypes
import os
import stat

_OPENAT2 = 437  # the same on all architectures
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def open_file(root: str, path: str) -> int:
    """Open the regular file ``path`` below ``root`` and return its descriptor; raises OSError.

    Never reaches outside ``root``, and opens nothing but regular files.
    """
    fd = _open(root, path, os.O_PATH)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(22, "not a regular file", path)
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)


def exists(root: str, path: str) -> bool:
    """Return whether anything exists at ``path`` below ``root``, following all links."""
    try:
        os.close(_open(root, path, os.O_PATH))
    except OSError:
        return False
    return True


def is_free(root: str, path: str) -> bool:
    """Return whether nothing exists at ``path`` below ``root``, not even a dangling link."""
    try:
        os.close(_open(root, path, os.O_PATH | os.O_NOFOLLOW))
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def file_name(root: str, path: str) -> str:
    """Return the name of the regular file at ``path`` below ``root``, following all links; empty if there is none."""
    try:
        fd = _open(root, path, os.O_PATH)
    except OSError:
        return ""
    try:
        return os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) if stat.S_ISREG(os.fstat(fd).st_mode) else ""
    finally:
        os.close(fd)


def _open(root: str, path: str, flags: int) -> int:
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
        name = os.fsencode(path)
        if b"\0" in name:
            raise OSError(22, "a NUL byte in a name", path)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall.restype = ctypes.c_long
        fd = libc.syscall(_OPENAT2, folder, name, ctypes.byref(how), ctypes.sizeof(how))
        if fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
        return int(fd)
    finally:
        os.close(folder)
