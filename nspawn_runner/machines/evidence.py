"""What a machine reports of a failed job: units, their journal, what still starts, its console; and its usage.

All of it is said by the machine, whose root may be hostile: it is read for a bounded time, and to a bounded length, and
shown without control characters.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..errors import HostError, printable
from ..host import systemd
from ..nspawn import calls
from . import cgroups, notes, records
from .records import Record

_LIMIT_BYTES = 64 << 10
_WIDTH = 300  # characters of a line
_UNITS, _LINES = 5, 10
_CONSOLE_LINES = 15
_LONGEST_NAME = 255  # of a unit (UNIT_NAME_MAX)

# The jobs of the machine's systemd, NUL, and what that knows of each unit, between empty lines.
_ASK = r"""
systemctl list-jobs --plain --no-legend --no-pager --full | head -n 20
printf '\0'
set -f
units=$(systemctl list-units --state=failed,auto-restart --plain --no-legend --no-pager --full |
    head -n 50 | cut -d ' ' -f 1)
[ -z "$units" ] || systemctl show --property=Id,Result,ExecMainStatus,StateChangeTimestampMonotonic -- $units
"""
# The end of the journal of each unit, and NUL.
_ASK_JOURNAL = r"""
lines=$1
shift
for unit; do
    journalctl --quiet --no-pager --all --output=short --lines="$lines" --unit="$unit"
    printf '\0'
done
"""


_NEW_LINES = 1000
_OUR_UNITS = ("evidence-", "ready-", "control@")
# The machine keeps the place; what is left out for its length is not asked for again.
_ASK_NEW = f"""
journalctl --quiet --no-pager --output=short --lines={_NEW_LINES} --cursor-file=/run/nspawn-runner.journal
"""
# The machine's journal into the file "$2", as the user "$1".
_WRITE_JOURNAL = r"""
exec 2>&1
journalctl --quiet --no-pager --output=short-precise |
    setpriv --reuid "$1" --regid "$(id -g -- "$1")" --init-groups -- sh -c 'cat >"$0" && echo written' "$2"
"""


class FailedUnit(NamedTuple):
    """A unit of the machine that failed or starts again and again; ``at`` is in seconds of the monotonic clock."""

    name: str
    result: str
    at: float


class Usage(NamedTuple):
    """What a machine has used up to now, in seconds and bytes; None where the host does not tell."""

    wall_seconds: float
    cpu_seconds: float | None
    memory_peak_bytes: int | None
    written_bytes: int | None


def lines(record: Record, *, since: float, seconds: float) -> Iterator[str]:
    """Yield what a person must know of the machine when a script failed that began at ``since`` (monotonic clock).

    The units that failed since then with the end of their journal, those that had failed before, those that still
    start; of a machine that is gone the end of its console. It may take ``seconds``.
    """
    now = records.read(record.machine)
    if now is None or now.state == "stopping":
        return  # somebody removes it, which is all there is to say
    if not os.path.exists(records.ready_file(record.machine)):
        if notes.is_first_time(record.machine, "console-was-told"):
            yield from console(record)
        return
    deadline = time.monotonic() + seconds
    jobs, failed = _ask(record.machine, seconds)
    before = [unit.name for unit in failed if unit.at < since]
    fresh = sorted((unit for unit in failed if unit.at >= since), key=lambda unit: unit.at)[-_UNITS:]
    journals = _journals(record.machine, [unit.name for unit in fresh], deadline - time.monotonic())
    for unit, journal in zip(fresh, journals, strict=True):
        yield f"failed in the machine: {unit.name} ({unit.result})"
        yield from (f"  {line}" for line in journal)
    if before:
        yield printable(f"failed in the machine before that: {', '.join(before)}", _WIDTH)
    if jobs:
        yield printable(f"still waited for in the machine: {', '.join(jobs)}", _WIDTH)


def console(record: Record) -> list[str]:
    """Return the last lines that the machine wrote to its console."""
    told = [line for line in map(plain, systemd.journal_tail(record.unit, since=record.created)) if line]
    return ["the end of the machine's console:", *(f"  {line}" for line in told[-_CONSOLE_LINES:])] if told else []


def _ask(machine: str, seconds: float) -> tuple[list[str], list[FailedUnit]]:
    """Return the units that the machine's systemd is about to start or stop, and those that failed; none if it is mute.

    Units of scripts are left out.
    """
    jobs, _, units = _said(machine, _ASK, [], seconds).partition("\0")
    words = [line.split() for line in jobs.splitlines()]
    waiting = [each[1] for each in words if len(each) == 4 and each[3] == "running"]
    failed = [unit for text in units.split("\n\n") if (unit := _parsed(text)) is not None]
    return [job for job in waiting if not _is_ours(job)], [unit for unit in failed if not _is_ours(unit.name)]


def _journals(machine: str, units: Sequence[str], seconds: float) -> list[list[str]]:
    """Return the last lines of the journal of each of ``units``; fewer or none where the machine does not say them."""
    told = _said(machine, _ASK_JOURNAL, [str(_LINES), *units], seconds).split("\0") if units else []
    lines = [[plain(line) for line in text.splitlines()[-_LINES:]] for text in told]
    return [lines[number] if number < len(lines) else [] for number in range(len(units))]


def _said(machine: str, script: str, arguments: Sequence[str], seconds: float) -> str:
    """Return what root's shell in the machine says to ``script`` with ``arguments`` within ``seconds``."""
    said = calls.shell_answer(
        machine,
        script,
        *arguments,
        label="evidence",
        description="nspawn-runner: what the machine knows of a failure",
        properties=["RuntimeMaxSec=10", "StandardError=null"],
        limit_bytes=_LIMIT_BYTES,
        seconds=max(0.1, seconds),
    )
    return said.decode(errors="replace")


def _is_ours(unit: str) -> bool:
    return unit.startswith("nspawn-runner-")


def _parsed(text: str) -> FailedUnit | None:
    """Return the unit that a part of the machine's answer tells of; None for one that is cut off or made up."""
    known = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    name, at = known.get("Id", ""), known.get("StateChangeTimestampMonotonic", "")
    if not name or len(name) > _LONGEST_NAME or not name.isprintable() or name.startswith("-"):
        return None
    if not (at.isascii() and at.isdigit() and len(at) < 20):
        return None
    status = known.get("ExecMainStatus", "")
    result = f"{known.get('Result', '')}{f', status {status}' if status not in {'', '0'} else ''}"
    return FailedUnit(name, printable(result, 60), int(at) / 1e6)


def plain(line: str) -> str:
    """Return a machine's ``line`` without the colours of a terminal, other control characters escaped."""
    import re

    return printable(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip(), _WIDTH)


def new_lines(record: Record, *, seconds: float) -> list[str]:
    """Return what the machine's journal has got since this was asked last, at most the last 1000 lines; may be empty.

    It may take ``seconds``.
    """
    said = _said(record.machine, _ASK_NEW, [], seconds)
    # What systemd says of this question and others of ours is no news.
    told = [line for line in said.splitlines() if not any(f"nspawn-runner-{ours}" in line for ours in _OUR_UNITS)]
    return [plain(line) for line in told][-_NEW_LINES:]


def write_journal(record: Record, path: str) -> None:
    """Write the machine's whole journal to ``path`` in it, as the user of the job's scripts; raises HostError.

    Both ends are in the machine: nothing of a path there is followed on the host.
    """
    said = calls.shell_answer(
        record.machine,
        _WRITE_JOURNAL,
        record.user,
        path,
        label="journal",
        description="nspawn-runner: the journal for the project",
        properties=["RuntimeMaxSec=60"],
        limit_bytes=1000,
        seconds=60,
    )
    if said != b"written\n":
        raise HostError(plain(said.decode(errors="replace").strip()) or "the machine does not answer")


def usage(record: Record) -> Usage:
    """Return what the machine has used since it was made; of what was before a reboot or its end, what was noted."""
    group, end = record.group, records.read_end(record.machine)
    cpu, peak = cgroups.cpu_seconds(group), cgroups.memory_peak_bytes(group)
    if end is None:
        return Usage(time.time() - record.created, cpu, peak or None, cgroups.written_bytes(group))
    until = time.time() if os.path.exists(records.ready_file(record.machine)) else end.at
    return Usage(until - record.created, end.cpu_seconds + (cpu or 0), max(peak, end.memory_peak_bytes) or None, None)
