"""Limits that the host's root and all machines share, and how a machine leaves enough of them.

A machine's users count as the user that made their namespace (ucounts of user_namespaces(7)): root. What one machine
takes is then not there for the host's own services.
"""

from __future__ import annotations

import resource
from contextlib import suppress

from ..host import files

# As many as there can be: each takes memory, which counts towards the limit of the machine that has it.
_COUNTED_AS_MEMORY = ("/proc/sys/fs/inotify/max_user_instances", "/proc/sys/fs/inotify/max_user_watches")
_GREATEST = (1 << 31) - 1
# Timers and signals that wait; queues of messages. Here a machine gets half of what root may have.
_HALVED = {"LimitSIGPENDING": resource.RLIMIT_SIGPENDING, "LimitMSGQUEUE": resource.RLIMIT_MSGQUEUE}


def lift() -> None:
    """Lift the limits on what counts as memory anyway; also, a dozen machines use up the usual 128 instances."""
    for path in _COUNTED_AS_MEMORY:
        with suppress(OSError):  # where it cannot be lifted, few machines do without
            if int(files.read_head(path, 16)) < _GREATEST:
                with open(path, "w") as file:
                    file.write(str(_GREATEST))


def unit_properties() -> list[str]:
    """Return the properties of a machine's unit that leave the host half of what root may have."""
    limits = ((name, resource.getrlimit(number)[0]) for name, number in _HALVED.items())
    return [f"{name}={soft // 2}" for name, soft in limits if soft != resource.RLIM_INFINITY]
