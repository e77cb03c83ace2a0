"""Limits of machines: as the settings write them, as numbers, and as a job may ask for them."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..errors import JobError
from ..light_typing import Any, NamedTuple

AUTO, INFINITY = "auto", "infinity"
UNLIMITED = float("inf")
# What systemd lets a process ask for where nothing else is said (DefaultLimitNOFILE in systemd-system.conf(5)).
_OPEN_FILES = 524288
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Limits(NamedTuple):
    """What a machine may use, in the words of the settings; ``auto`` is the host's, divided by ``concurrent``.

    ``concurrent`` 0 is what gitlab-runner's config.toml says, ``open_files`` 0 what systemd gives.
    """

    concurrent: int = 0
    cpu_weight: int = 50
    cpus: float | str = INFINITY
    allowed_cpus: str = ""
    memory_max: str = "50%"
    memory_high: str = INFINITY
    memory_swap_max: str = INFINITY
    tasks_max: int = 16384
    io_weight: int = 100
    open_files: int = 0
    locked_memory: str = "8M"
    disk_max: str = INFINITY
    runtime_max_seconds: int = 86400


_SECONDS = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}
SIZES = ("memory_max", "memory_high", "memory_swap_max", "locked_memory", "disk_max")
CAN_BE_AUTO = ("cpus", "memory_max", "disk_max")
# The least that makes sense: a machine needs some 30 MiB and 10 tasks to boot.
LEAST: Mapping[str, float] = {
    "cpu_weight": 1, "cpus": 0.1, "memory_max": 64 << 20, "memory_high": 64 << 20, "memory_swap_max": 0,
    "tasks_max": 64, "io_weight": 1, "open_files": 1024, "locked_memory": 64 << 10,
    "disk_max": 64 << 20, "runtime_max_seconds": 60,
}  # fmt: skip
# Of a size, what fits into the kernel's and systemd's 64 bits.
MOST: Mapping[str, float] = {"cpu_weight": 10000, "io_weight": 10000, **dict.fromkeys(SIZES, 1 << 60)}


def size_bytes(text: Any) -> int | None:
    """Return the number of bytes that a size such as ``512M`` or ``16G`` means; None for anything else."""
    if not isinstance(text, str):
        return None
    number, unit = (text[:-1], _UNITS[text[-1]]) if text[-1:] in _UNITS else (text, 1)
    return int(number) * unit if 0 < len(number) <= 19 and number.isascii() and number.isdigit() else None


def seconds(text: Any) -> int | None:
    """Return the seconds that a time such as ``90``, ``30s``, ``10min``, ``2h``, ``1d`` or ``4w`` means, else None."""
    if not isinstance(text, str):
        return None
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    factor = _SECONDS.get(text[len(number) :])
    return int(number) * factor if factor and is_number(number, 9) else None


def number(limits: Limits, key: str) -> float:
    """Return the limit ``key`` of settled ``limits`` as bytes, CPUs, seconds or a count; UNLIMITED for none."""
    value = getattr(limits, key)
    if value == INFINITY:
        return UNLIMITED
    if key in SIZES:
        return float(size_bytes(value) or 0)
    return float(_OPEN_FILES if key == "open_files" and value == 0 else value)


def needs_concurrent(limits: Limits) -> bool:
    """Return whether it must be known how many jobs there are at a time."""
    return not limits.concurrent and any(getattr(limits, key) == AUTO for key in CAN_BE_AUTO)


def settled(limits: Limits, *, state_folder: str) -> Limits:
    """Return ``limits`` with numbers in the place of ``auto`` and of shares of the host's memory.

    All sizes are then in bytes. ``auto`` of the disk is a share of the file system that holds ``state_folder``.
    """
    memory = memory_bytes()
    changed: dict[str, Any] = {}
    for key in (*SIZES, "cpus"):
        value = getattr(limits, key)
        if value == AUTO:
            whole: float = memory
            if key == "cpus":
                whole = float(os.cpu_count() or 1)
            elif key == "disk_max":
                there = os.statvfs(state_folder)
                whole = there.f_blocks * there.f_frsize
            share = max(whole / max(limits.concurrent, 1), LEAST[key])
            changed[key] = round(share, 2) if key == "cpus" else str(int(share))
        elif isinstance(value, str) and value.endswith("%"):
            changed[key] = str(max(memory * int(value[:-1]) // 100, int(LEAST[key])))
        elif key in SIZES and value != INFINITY:
            changed[key] = str(size_bytes(value))
    return within_disk(limits._replace(**changed), state_folder=state_folder)


def within_disk(limits: Limits, *, state_folder: str) -> Limits:
    """Return settled ``limits`` without one of the disk where that is no less than all of the state folder's disk.

    It would limit nothing, but a file system of that size is slow to make, or too large for a file.
    """
    if limits.disk_max == INFINITY:
        return limits
    disk = os.statvfs(state_folder)
    whole = disk.f_blocks * disk.f_frsize
    return limits._replace(disk_max=INFINITY) if int(limits.disk_max) >= whole else limits


def memory_bytes() -> int:
    """Return how much memory the host has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# A job's own wishes.

JOB_VARIABLES = {f"NSPAWN_{key.upper()}": key for key in LEAST}


def lowered(limits: Limits, wishes: Mapping[str, str], ceilings: Mapping[str, float]) -> Limits:
    """Return settled ``limits`` as a job ``wishes`` them: the texts of its variables, by their names in JOB_VARIABLES.

    A job may lower its limits, and raise one as far as ``ceilings`` say for its key. Raises JobError.
    """
    changed: dict[str, Any] = {}
    for variable, text in wishes.items():
        key = JOB_VARIABLES[variable]
        wanted = _wanted(variable, key, text)
        ceiling = max(number(limits, key), ceilings.get(key, 0))
        if wanted > ceiling:
            raise JobError(
                f"{variable} asks for {shown(key, wanted)}, but this job may have at most {shown(key, ceiling)}",
                facts=f"that is limits.{key} of the settings or the image, or what a [[policy]] gives",
                advice="ask for less, or have the admin raise it",
            )
        changed[key] = str(int(wanted)) if key in SIZES else wanted if key == "cpus" else int(wanted)
    return limits._replace(**changed)


def _wanted(variable: str, key: str, text: str) -> float:
    """Return the number that a job's ``text`` means; the JobError does not show it: it may be a secret by mistake."""
    least, most = LEAST[key], _greatest_open_files() if key == "open_files" else MOST.get(key, UNLIMITED)
    value: float | None
    if key in SIZES:
        value, kind = size_bytes(text), "a size such as 512M or 4G"
    elif key == "cpus":
        whole, dot, part = text.partition(".")
        plain = is_number(whole, 4) and (is_number(part, 2) if dot else True)
        value, kind = (float(text) if plain else None), "a number such as 2 or 1.5"
    else:
        value, kind = (float(text) if is_number(text, 9) else None), "a whole number"
    if value is None or not least <= value <= most:
        upto = "" if most == UNLIMITED else f" to {shown(key, most)}"
        raise JobError(f"{variable} must be {kind}, from {shown(key, least)}{upto}")
    return value


def _greatest_open_files() -> int:
    """Return what the kernel lets a process have open at most: a greater limit of a machine cannot be set."""
    with open("/proc/sys/fs/nr_open") as file:
        return int(file.read())


def is_share(text: str) -> bool:
    """Return whether ``text`` is a share of something, 1% to 100%."""
    return text.endswith("%") and is_number(text[:-1], 3) and 0 < int(text[:-1]) <= 100


def is_number(text: str, digits: int) -> bool:
    """Return whether ``text`` is 1 to ``digits`` ASCII digits."""
    return 0 < len(text) <= digits and text.isascii() and text.isdigit()


def shown(key: str, value: float) -> str:
    """Return the number ``value`` of the limit ``key`` as people read it."""
    if value == UNLIMITED:
        return "no limit"
    if key in SIZES:
        return shown_bytes(value)
    if key == "cpus":
        return f"{value:g} CPU{'s' * (value != 1)}"
    return f"{int(value)}{' seconds' * (key == 'runtime_max_seconds')}"


def shown_bytes(value: float) -> str:
    """Return a number of bytes in the greatest unit that it fills: 300 MiB, 1.5 GiB."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= size:
            return f"{float(f'{value / size:.1f}'):g} {unit}"
    return f"{int(value)} bytes"
