"""Lock this process into one folder: it can reach nothing else of the host from then on.

Call this in a process that already has its own mount and network namespaces (unshare(1)). System calls:
pivot_root(2), which documents "." for both arguments, capset(2), prctl(2); capabilities(7).
"""

from __future__ import annotations

import ctypes
import os
import resource

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 0x20, 0x1000, 0x4000, 1 << 18
_MNT_DETACH = 2
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
# CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD, SETFCAP: needed to create any file with any owner.
_KEPT = sum(1 << number for number in (0, 1, 3, 4, 27, 31))
_MEMORY_BYTES = 2 << 30


def lock_in(folder: str) -> None:
    """Confine this process to ``folder``, where no device or program is usable; raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    path = os.fsencode(folder)
    _check("mount", libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
    _check("mount", libc.mount(path, path, None, _MS_BIND, None))
    flags = _MS_REMOUNT | _MS_BIND | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _check("mount", libc.mount(None, path, None, flags, None))
    os.chdir(folder)
    _check("pivot_root", libc.pivot_root(b".", b"."))
    _check("umount2", libc.umount2(b".", _MNT_DETACH))
    os.chdir("/")
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _check("prctl", libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(_KEPT, _KEPT, 0, 0, 0, 0)
    _check("capset", libc.capset(header, sets))


def _check(what: str, result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
