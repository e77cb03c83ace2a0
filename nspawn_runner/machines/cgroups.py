"""What the kernel counts for a unit: CPU time, memory and its peak, memory kills, tasks; on cgroup version 2 or 1."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from ..host import files
from ..light_typing import NamedTuple


class LimitsInForce(NamedTuple):
    """The limits of a unit as the kernel has them: bytes, a count, cpu.weight or cpu.shares; None where unlimited."""

    memory_bytes: int | None
    tasks: int | None
    cpu: int | None


# What a machine may have: far more than a Debian system with containers takes. systemd of the host goes through all of
# them for each that ends, and ever deeper.
_MOST_DEPTH, _MOST_DESCENDANTS = 32, 1024


def bounds(unit_group: str) -> tuple[str, int, int]:
    """Return the folder of the unit's group, and the depth and number of groups that it may have below."""
    return f"{_version2_root()}{unit_group}", _MOST_DEPTH, _MOST_DESCENDANTS


def oom_kills(unit_group: str) -> int:
    """Return how many processes of the unit whose cgroup path is ``unit_group`` were killed for want of memory.

    Version 2 counts for the whole tree in ``memory.events``, version 1 per group in ``memory.oom_control``.
    """
    version2 = _number(f"{_version2_root()}{unit_group}/memory.events", "oom_kill")
    if version2 is not None:
        return version2
    root = f"/sys/fs/cgroup/memory{unit_group}"
    return sum(_number(f"{folder}/memory.oom_control", "oom_kill") or 0 for folder, _, _ in os.walk(root))


def memory_peak_bytes(unit_group: str) -> int:
    """Return the most memory the unit used at once, in bytes; 0 where the kernel does not tell."""
    version2, version1 = f"{_version2_root()}{unit_group}", f"/sys/fs/cgroup/memory{unit_group}"
    return _first(f"{version2}/memory.peak", f"{version1}/memory.max_usage_in_bytes") or 0


def memory_bytes(unit_group: str) -> int | None:
    """Return how much memory the unit uses, its page cache included; None where the kernel does not tell."""
    version2, version1 = f"{_version2_root()}{unit_group}", f"/sys/fs/cgroup/memory{unit_group}"
    return _first(f"{version2}/memory.current", f"{version1}/memory.usage_in_bytes")


def cpu_seconds(unit_group: str) -> float | None:
    """Return how long the unit's processes were on a CPU; None where the kernel does not tell.

    Version 2 counts without its controller too, so also beside version 1.
    """
    microseconds = _number(f"{_version2_root()}{unit_group}/cpu.stat", "usage_usec")
    if microseconds is not None:
        return microseconds / 1e6
    nanoseconds = _first(f"/sys/fs/cgroup/cpuacct{unit_group}/cpuacct.usage")
    return None if nanoseconds is None else nanoseconds / 1e9


def written_bytes(unit_group: str) -> int | None:
    """Return how many bytes the unit's processes have had written to disks; None where the kernel does not tell.

    By proc(5)'s io, which counts a page when it is changed, and hands the count of a process that ends to the one that
    waits for it: the counts of the blkio and io controllers leave out what the page cache writes later, or are not
    there.
    """
    pids = set(_processes(unit_group))
    counts = [_number(f"/proc/{pid}/io", "write_bytes:") for pid in pids]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _processes(unit_group: str) -> Iterator[str]:
    for root in (_version2_root(), "/sys/fs/cgroup/systemd"):
        for folder, _, _ in os.walk(f"{root}{unit_group}"):
            try:
                with open(f"{folder}/cgroup.procs") as file:
                    yield from file.read().split()
            except OSError:
                continue  # it is gone


def is_populated(unit_group: str, name: str) -> bool:
    """Return whether a group called ``name``, anywhere in the unit's, or one below it has a process."""
    for root in (_version2_root(), "/sys/fs/cgroup/systemd"):
        for folder, _, _ in os.walk(f"{root}{unit_group}"):
            with suppress(OSError):  # it is gone
                if name in folder.split("/") and files.read_head(f"{folder}/cgroup.procs", 16):
                    return True
    return False


def limits(unit_group: str) -> LimitsInForce:
    """Return the limits that are in force for the unit."""
    version2 = f"{_version2_root()}{unit_group}"
    return LimitsInForce(
        _first(f"{version2}/memory.max", f"/sys/fs/cgroup/memory{unit_group}/memory.limit_in_bytes"),
        _first(f"{version2}/pids.max", f"/sys/fs/cgroup/pids{unit_group}/pids.max"),
        _first(f"{version2}/cpu.weight", f"/sys/fs/cgroup/cpu{unit_group}/cpu.shares"),
    )


def version() -> int:
    """Return which version of cgroups limits the host's units: 2, or 1 (also where both are mounted)."""
    return 2 if _version2_root() == "/sys/fs/cgroup" else 1


def _first(*paths: str) -> int | None:
    """Return the number in the first of the files that is there."""
    for path in paths:
        try:
            with open(path, "rb") as file:
                return int(file.read())
        except (OSError, ValueError):
            continue
    return None


def refused_tasks(unit_group: str) -> int:
    """Return how often a new process or thread of the unit was refused for its limit of tasks.

    Linux before 6.11 counts for each group by itself on version 2: what a script's own was refused is not in it.
    """
    return sum(_number(f"{folder}/pids.events", "max") or 0 for folder in _pids_folders(unit_group))


def tasks(unit_group: str) -> int:
    """Return how many processes and threads the unit has; 0 where the kernel does not tell."""
    for folder in _pids_folders(unit_group):
        try:
            with open(f"{folder}/pids.current", "rb") as file:
                return int(file.read())
        except (OSError, ValueError):
            continue
    return 0


def _pids_folders(unit_group: str) -> tuple[str, str]:
    return f"{_version2_root()}{unit_group}", f"/sys/fs/cgroup/pids{unit_group}"


def _version2_root() -> str:
    """The mount of the version 2 tree: its usual place, or beside version 1 controllers (hybrid)."""
    return "/sys/fs/cgroup" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "/sys/fs/cgroup/unified"


def _number(path: str, key: str) -> int | None:
    try:
        with open(path) as file:
            for line in file:
                name, _, value = line.partition(" ")
                if name == key:
                    return int(value)
    except (OSError, ValueError):
        pass
    return None
