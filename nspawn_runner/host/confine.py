"""Lock this process into one folder: it can reach nothing else of the host from then on.

Call this in a process that already has mount and network namespaces of its own (unshare(1)).
"""

from __future__ import annotations

import resource

from . import system_calls

# CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD, SETFCAP: what making any file as any owner takes.
_KEPT = sum(1 << number for number in (0, 1, 3, 4, 27, 31))
_MEMORY_BYTES = 2 << 30


def lock_in(folder: str) -> None:
    """Make ``folder`` all that this process can reach, with no usable device or program in it; raises OSError."""
    system_calls.enter_as_root(folder)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    system_calls.keep_capabilities(_KEPT)
