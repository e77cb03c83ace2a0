"""System calls that Python's library lacks."""

from __future__ import annotations

import ctypes
import os

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_OPENAT2 = 437  # the same on all architectures
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 0x20, 0x1000, 0x4000, 1 << 18
_MNT_DETACH = 2
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def open_in_root(root: str, path: str, flags: int) -> int:
    """Open ``path`` with its links resolved as if the folder ``root`` were "/" (openat2(2)); raises OSError."""
    name = os.fsencode(path)
    if b"\0" in name:
        raise OSError(22, "a NUL byte in a name", path)
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
        fd = _libc.syscall(_OPENAT2, folder, name, ctypes.byref(how), ctypes.sizeof(how))
        if fd < 0:
            raise _error(path)
        return int(fd)
    finally:
        os.close(folder)


def exchange(path: str, other_path: str) -> None:
    """Swap the two paths in one step, so that neither is ever missing (renameat2(2)); raises OSError."""
    # glibc has the call from 2.28 on.
    if _libc.renameat2(_AT_FDCWD, os.fsencode(path), _AT_FDCWD, os.fsencode(other_path), _RENAME_EXCHANGE):
        raise _error(path)


def enter_as_root(folder: str) -> None:
    """Make ``folder`` the root of this process's mount namespace, which has nothing else then; raises OSError.

    Neither devices nor programs in it are usable. The namespace is the process's own already (unshare(2)). For the "."
    of both arguments see pivot_root(2).
    """
    path = os.fsencode(folder)
    _check("mount", _libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
    _check("mount", _libc.mount(path, path, None, _MS_BIND, None))
    flags = _MS_REMOUNT | _MS_BIND | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _check("mount", _libc.mount(None, path, None, flags, None))
    os.chdir(folder)
    _check("pivot_root", _libc.pivot_root(b".", b"."))
    _check("umount2", _libc.umount2(b".", _MNT_DETACH))
    os.chdir("/")


def keep_capabilities(mask: int) -> None:
    """Drop all capabilities but those of ``mask``, for good (prctl(2), capset(2), capabilities(7)); raises OSError."""
    _check("prctl", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(mask, mask, 0, 0, 0, 0)
    _check("capset", _libc.capset(header, sets))


def _check(what: str, result: int) -> None:
    if result:
        raise _error(what)


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)
