"""Limits of machines as numbers: from what settings and image say, and as a job asks for within them."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..errors import JobError
from ..light_typing import Any
from .quantities import AUTO, INFINITY, is_number, shown_bytes, size_bytes
from .schema import SETTINGS
from .tables import UNLIMITED, Amounts, Limits
from .value_checks import Count, Cpus, Size

# What systemd lets a process ask for where nothing else is said (DefaultLimitNOFILE in systemd-system.conf(5)).
_OPEN_FILES = 524288


NUMBERS: Mapping[str, Count | Size | Cpus] = {
    setting.key.removeprefix("limits."): setting.number
    for setting in SETTINGS
    if setting.number and setting.key != "limits.concurrent"
}
JOB_VARIABLES = {
    f"NSPAWN_{key.upper()}": key
    for key in (setting.key.removeprefix("limits.") for setting in SETTINGS if setting.job)
}


def needs_concurrent(limits: Limits) -> bool:
    """Return whether it must be known how many jobs there are at a time."""
    return not limits.concurrent and AUTO in limits


def resolved(limits: Limits, *, state_folder: str) -> Amounts:
    """Return ``limits`` as numbers; ``auto`` of the disk is a share of the file system that holds ``state_folder``."""
    numbers = {key: _number(key, check, limits, state_folder) for key, check in NUMBERS.items()}
    amounts = Amounts(allowed_cpus=limits.allowed_cpus, **numbers)  # type: ignore[arg-type]
    return within_disk(amounts, state_folder=state_folder)


def _number(key: str, check: Count | Size | Cpus, limits: Limits, state_folder: str) -> float:
    value = getattr(limits, key)
    if value == INFINITY:
        return UNLIMITED
    if value == AUTO:
        if key == "cpus":
            return max(round((os.cpu_count() or 1) / max(limits.concurrent, 1), 2), check.least)
        whole = _disk_bytes(state_folder) if key == "disk_max" else memory_bytes()
        return max(whole // max(limits.concurrent, 1), int(check.least))
    if isinstance(value, str):
        return max(share_bytes(value), int(check.least)) if value.endswith("%") else size_bytes(value) or 0
    return float(value) if key == "cpus" else int(value)


def within_disk(amounts: Amounts, *, state_folder: str) -> Amounts:
    """Return ``amounts`` without a limit of the disk that is no less than all of the state folder's disk.

    It would limit nothing, but a file system of that size is slow to make, or too large for a file.
    """
    if amounts.disk_max == UNLIMITED or amounts.disk_max < _disk_bytes(state_folder):
        return amounts
    return amounts._replace(disk_max=UNLIMITED)


def _disk_bytes(folder: str) -> int:
    there = os.statvfs(folder)
    return there.f_blocks * there.f_frsize


def memory_bytes() -> int:
    """Return how much memory the host has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def share_bytes(text: str) -> int:
    """Return the bytes that a share of the host's memory is, such as ``50%``, or a size."""
    return memory_bytes() * int(text[:-1]) // 100 if text.endswith("%") else size_bytes(text) or 0


def lowered(amounts: Amounts, asked: Mapping[str, str], ceilings: Mapping[str, float]) -> Amounts:
    """Return ``amounts`` with what a job ``asked`` for: the texts of its variables, by their names.

    Others than those in JOB_VARIABLES are ignored. A job may lower its limits, and raise one as far as ``ceilings``
    say for its key. Raises JobError.
    """
    changed: dict[str, Any] = {}
    for variable, text in asked.items():
        if not (key := JOB_VARIABLES.get(variable)):
            continue
        wanted = _wanted(variable, key, text)
        own = getattr(amounts, key)
        # 0 open files are what systemd gives.
        ceiling = max(own or _OPEN_FILES if key == "open_files" else own, ceilings.get(key, 0))
        if wanted > ceiling:
            raise JobError(
                f"{variable} asks for {shown(key, wanted)}, but this job may have at most {shown(key, ceiling)}",
                facts=f"that is limits.{key} of the settings or the image, or what a [[policy]] gives",
                advice="ask for less, or have the admin raise it",
            )
        changed[key] = wanted
    return amounts._replace(**changed)


def _wanted(variable: str, key: str, text: str) -> float:
    """Return the number that a job's ``text`` means; the JobError does not show it: it may be a secret by mistake."""
    check = NUMBERS[key]
    most = _greatest_open_files() if key == "open_files" else check.most
    value: float | None
    if isinstance(check, Size):
        value, kind = size_bytes(text), "a size such as 512M or 4G"
    elif isinstance(check, Cpus):
        whole, dot, part = text.partition(".")
        plain = is_number(whole, 4) and (is_number(part, 2) if dot else True)
        value, kind = (float(text) if plain else None), "a number such as 2 or 1.5"
    else:
        value, kind = (int(text) if is_number(text, 9) else None), "a whole number"
    if value is None or not check.least <= value <= most:
        upto = "" if most == UNLIMITED else f" to {shown(key, most)}"
        raise JobError(f"{variable} must be {kind}, from {shown(key, check.least)}{upto}")
    return value


def _greatest_open_files() -> int:
    """Return what the kernel lets a process have open at most: a greater limit of a machine cannot be set."""
    with open("/proc/sys/fs/nr_open") as file:
        return int(file.read())


def shown(key: str, value: float) -> str:
    """Return the number ``value`` of the limit ``key`` as people read it."""
    if value == UNLIMITED:
        return "no limit"
    if isinstance(NUMBERS[key], Size):
        return shown_bytes(value)
    if key == "cpus":
        return f"{value:g} CPU{'s' * (value != 1)}"
    return f"{int(value)}{' seconds' * (key == 'runtime_max_seconds')}"
