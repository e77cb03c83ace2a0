"""The limits of a machine: the properties and options that set them, and words for those that its job has reached."""

from __future__ import annotations

from ..light_typing import NamedTuple
from ..settings.quantities import INFINITY, shown_bytes
from ..settings.tables import UNLIMITED, Amounts
from . import cgroups
from .records import End, Record

# What systemd-nspawn gives /tmp, as a share of the host's memory (nspawn-mount.c of systemd 252 to 257).
_TMP_SHARE = 10
# Less than this left of a disk is full: the file systems keep a little for themselves.
_FULL_BYTES = 4 << 20


def unit_properties(limits: Amounts) -> list[str]:
    """Return the properties of a machine's unit, as systemd.resource-control(5) and .exec(5) take them.

    On cgroup version 1 systemd knows neither MemoryHigh nor MemorySwapMax nor AllowedCPUs.
    """
    properties = [
        f"RuntimeMaxSec={_word(limits.runtime_max_seconds)}",
        f"CPUWeight={limits.cpu_weight}",
        f"MemoryMax={_word(limits.memory_max)}",
        f"TasksMax={_word(limits.tasks_max)}",
        # The machine's own, which systemd-nspawn then need not raise from within a user namespace.
        f"LimitMEMLOCK={_word(limits.locked_memory)}",
    ]
    if limits.cpus != UNLIMITED:
        properties.append(f"CPUQuota={max(1, round(limits.cpus * 100))}%")
    if limits.allowed_cpus:
        # The affinity, which a process can change, so that nproc(1) says the same on version 1.
        properties += [f"AllowedCPUs={limits.allowed_cpus}", f"CPUAffinity={limits.allowed_cpus}"]
    if limits.memory_high != UNLIMITED:
        properties.append(f"MemoryHigh={_word(limits.memory_high)}")
    if limits.memory_swap_max != UNLIMITED:
        properties.append(f"MemorySwapMax={_word(limits.memory_swap_max)}")
    if limits.io_weight != Amounts().io_weight:
        properties.append(f"IOWeight={limits.io_weight}")
    return properties


def _word(limit: float) -> str:
    """Return a limit as systemd takes it."""
    return INFINITY if limit == UNLIMITED else str(int(limit))


def nspawn_options(limits: Amounts, *, keep_tmp: bool) -> list[str]:
    """Return the options of systemd-nspawn that go with ``limits``; with ``keep_tmp`` /tmp is as others say."""
    from ..settings.amounts import memory_bytes  # with the schema, which a script does without

    options = []
    if limits.open_files:
        options.append(f"--rlimit=NOFILE={limits.open_files}")
    options.append(f"--rlimit=MEMLOCK={_word(limits.locked_memory)}")
    half = limits.memory_max / 2
    if not keep_tmp and half < memory_bytes() / _TMP_SHARE:
        # A full /tmp is an error that a script can see. Where memory ends first, the kernel finds nothing to kill but
        # the machine's PID 1.
        options.append(f"--tmpfs=/tmp:mode=1777,size={int(half)}")
    return options


def script_properties(limits: Amounts) -> list[str]:
    """Return the properties of a script's unit inside the machine that go with ``limits``."""
    open_files = [f"LimitNOFILE={limits.open_files}"] if limits.open_files else []
    return [*open_files, f"LimitMEMLOCK={_word(limits.locked_memory)}"]


class Counts(NamedTuple):
    """How often the kernel has enforced a limit of a machine since its start."""

    oom_kills: int
    refused_tasks: int


def counts(record: Record) -> Counts:
    """Return the counts of the machine of ``record`` now."""
    refused = cgroups.refused_tasks(record.group)
    if record.slice_group:  # from Linux 6.11 on it counts where the limit is
        refused += cgroups.refused_tasks(record.slice_group)
    return Counts(cgroups.oom_kills(record.group), refused)


def reached(record: Record, before: Counts, *, failed: bool) -> tuple[str, ...]:
    """Return a text for each limit that was reached since ``before`` was counted.

    Whether the disk is full is looked at only where something has ``failed``.
    """
    now = counts(record)
    texts = []
    if now.oom_kills > before.oom_kills:
        peak = cgroups.memory_peak_bytes(record.group)
        texts.append(_out_of_memory(record, now.oom_kills - before.oom_kills, peak))
    if now.refused_tasks > before.refused_tasks:
        texts.append(f"task limit reached: {_tasks(record)}; no process or thread could be started")
    if failed and (text := _full_disk(record)):
        texts.append(text)
    return tuple(texts)


def end_by_limit(record: Record, end: End, kills_before: int = 0) -> str:
    """Return which limit has ended the machine; empty if none has."""
    seconds = record.limits.runtime_max_seconds
    # Else it was a boot after a reboot that took too long.
    if end.result == "timeout" and end.at >= record.created + seconds:
        return f"its time was over: limit {_word(seconds)} seconds"
    if end.result == "oom-kill" or (end.result != "success" and end.oom_kills > kills_before):
        return _out_of_memory(record, end.oom_kills - kills_before, end.memory_peak_bytes)
    return ""


def why_nothing_starts(record: Record) -> str:
    """Return which limit keeps every new process from the running machine; empty if none does."""
    there = cgroups.tasks(record.group)
    # A script takes a few processes before its first line.
    if there + 3 >= record.limits.tasks_max:
        return f"task limit reached: {_tasks(record)}, and {there} there are"
    return used_up_together(record)


def used_up_together(record: Record) -> str:
    """Return what a job and its services have used up together, so that none of them can start; empty if nothing."""
    if not record.slice_group:
        return ""
    if cgroups.oom_kills(record.slice_group):
        return f"the job and its services ran out of memory: limit {_amount(record.memory_together)}"
    there = cgroups.tasks(record.slice_group)
    if there + 3 >= record.tasks_together:
        return f"task limit reached: {_tasks(record)}, and {there} there are"
    return ""


def _out_of_memory(record: Record, kills: int, peak_bytes: int) -> str:
    limit, together = record.limits.memory_max, record.memory_together if record.slice_group else UNLIMITED
    peak = f", peak {shown_bytes(peak_bytes)}" if peak_bytes else ""
    what = f"limit {shown_bytes(limit)}" if limit != UNLIMITED else "the host has no more"
    if together != UNLIMITED:
        own = "" if together <= limit else f"{what}, and "
        what = f"{own}limit {shown_bytes(together)} for the job and its services"
    return f"out of memory: {what}{peak}; processes killed: {max(kills, 1)}"


def _tasks(record: Record) -> str:
    if record.slice_group and record.tasks_together <= record.limits.tasks_max:
        return f"the job and its services may have {_word(record.tasks_together)} processes and threads"
    return f"the job may have {_word(record.limits.tasks_max)} processes and threads"


def _amount(limit: float) -> str:
    return INFINITY if limit == UNLIMITED else shown_bytes(limit)


def _full_disk(record: Record) -> str:
    from . import backends  # a script that ends well does without

    try:
        room = backends.named(record.backend).room_bytes(record)
    except FileNotFoundError:
        return ""  # the machine has ended meanwhile
    limit = record.limits.disk_max
    if room is None or room >= (_FULL_BYTES if limit == UNLIMITED else max(_FULL_BYTES, limit / 50)):
        return ""
    of = "on the host's disk" if limit == UNLIMITED else f"limit {shown_bytes(limit)}"
    return f"disk full: {of}, {shown_bytes(max(room, 0))} left"
