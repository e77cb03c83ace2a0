"""renameat2(2) with RENAME_EXCHANGE, which Python lacks: swap two paths in one step."""

from __future__ import annotations

import ctypes
import os

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def exchange(path: str, other_path: str) -> None:
    """Let what lies at the two paths change places at once, so that neither is ever missing; raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)  # glibc has the call from 2.28 on
    if libc.renameat2(_AT_FDCWD, os.fsencode(path), _AT_FDCWD, os.fsencode(other_path), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
