"""renameat2(2) with RENAME_EXCHANGE, which Python lacks: swap two paths in one step."""

from __future__ import annotations

import ctypes
import os

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def exchange(path: str, other_path: str) -> None:
    """Swap what lies at the two paths in one step, so that neither is ever missing; raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)  # glibc has the call since 2.28
    if libc.renameat2(_AT_FDCWD, os.fsencode(path), _AT_FDCWD, os.fsencode(other_path), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
