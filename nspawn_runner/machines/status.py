"""What a machine is doing and using now, as far as the host knows; it may come and go meanwhile."""

from __future__ import annotations

import os
from typing import NamedTuple

from ..errors import HostError
from ..host import locks, systemd
from . import backends, cgroups, records
from .records import Record


class Sight(NamedTuple):
    """What is seen of a machine; None where the host does not tell. ``state`` is as in ``state_of``."""

    state: str
    cpu_seconds: float | None
    memory_bytes: int | None
    memory_peak_bytes: int | None
    disk_bytes: int | None


def look_at(record: Record, *, disk_seconds: float) -> Sight:
    """Return what the machine of ``record`` does and takes; its disk space may take ``disk_seconds`` to count."""
    group = record.group
    return Sight(
        state=state_of(record),
        cpu_seconds=cgroups.cpu_seconds(group),
        memory_bytes=cgroups.memory_bytes(group),
        memory_peak_bytes=cgroups.memory_peak_bytes(group) or None,
        disk_bytes=disk_bytes(record, seconds=disk_seconds),
    )


def state_of(record: Record) -> str:
    """Return what a machine is at.

    ``booting``, ``running``, ``rebooting``, ``stopping``; ``ended`` by itself, which its job has yet to find out;
    ``abandoned``: left by a prepare or cleanup that was killed or failed; ``unreadable``: its record cannot be
    understood; ``gone``: meanwhile it was removed. Any other state of a record is returned as it is.
    """
    if record.state == "running":
        if records.is_rebooting(record.machine):
            return "rebooting"
        return "running" if systemd.is_loaded(record.unit) else "ended"
    words = {"starting": "booting", "stopping": "stopping"}
    if record.state not in words:
        return record.state
    if locks.is_held(records.lock_file(record.machine)):
        return words[record.state]
    # Whoever held the lock may be done since the record was read.
    now = records.read(record.machine)
    if now is None:
        return "gone"
    return "abandoned" if now == record else state_of(now)


def disk_bytes(record: Record, *, seconds: float) -> int | None:
    """Return how much the machine's layer takes on disk, or of its tmpfs; None where that takes over ``seconds``.

    What a snapshot shares with its image is not counted.
    """
    if not os.path.isdir(record.layer):
        return None
    try:
        return backends.named(record.backend).disk_bytes(record.layer, seconds=seconds)
    except (HostError, OSError, ValueError, IndexError):
        return None  # not in time, or the machine went
