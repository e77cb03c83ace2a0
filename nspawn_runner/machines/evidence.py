"""What a machine can tell of a job that failed: units, their journal, what still starts, its console; and its usage.

All of it is said by the machine, whose root may be hostile: it is read for a bounded time, and to a bounded length, and
shown without control characters.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..errors import HostError, printable
from ..host import process, systemd
from . import cgroups, records
from .records import Record

_LIMIT_BYTES = 64 << 10
_WIDTH = 300  # characters of a line
_UNITS, _LINES = 5, 10
_CONSOLE_LINES = 15

# For each unit: what systemd knows of it, a line that ends that, its journal, and NUL. "$0" is the number of lines.
_ASK = r"""
systemctl list-jobs --plain --no-legend --no-pager --full | head -n 20
printf '\0'
systemctl list-units --state=failed,auto-restart --plain --no-legend --no-pager --full | head -n 50 |
while read -r unit _; do
    systemctl show --property=Id,Result,ExecMainStatus,StateChangeTimestampMonotonic -- "$unit"
    echo
    journalctl --quiet --no-pager --all --output=short --lines="$0" --unit="$unit"
    printf '\0'
done
"""


class FailedUnit(NamedTuple):
    """A unit of the machine that failed or starts again and again; ``at`` is in seconds of the monotonic clock."""

    name: str
    result: str
    at: float
    journal: Sequence[str]


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
        yield from console(record)
        return
    jobs, failed = ask(record.machine, seconds)
    before = [unit.name for unit in failed if unit.at < since]
    for unit in [unit for unit in failed if unit.at >= since][:_UNITS]:
        yield f"failed in the machine: {unit.name} ({unit.result})"
        yield from (f"  {line}" for line in unit.journal)
    if before:
        yield printable(f"failed in the machine before that: {', '.join(before)}", _WIDTH)
    if jobs:
        yield printable(f"still waited for in the machine: {', '.join(jobs)}", _WIDTH)


def console(record: Record) -> list[str]:
    """Return the last lines that the machine wrote to its console."""
    told = [line for line in map(_plain, systemd.journal_tail(record.unit, since=record.created)) if line]
    return ["the end of the machine's console:", *(f"  {line}" for line in told[-_CONSOLE_LINES:])] if told else []


def ask(machine: str, seconds: float) -> tuple[list[str], list[FailedUnit]]:
    """Return the units that the machine's systemd is about to start or stop, and those that failed; none if it is mute.

    Units of scripts are left out.
    """
    argv = systemd.run_argv(
        systemd.escaped(["/bin/sh", "-c", _ASK, str(_LINES)]),
        unit=f"nspawn-runner-evidence-{time.monotonic_ns()}.service",
        options=["--pipe", "--wait", f"--machine={machine}"],
        properties=["RuntimeMaxSec=10", "StandardError=null"],
    )
    try:
        said = process.head(argv, limit_bytes=_LIMIT_BYTES, timeout_seconds=seconds)
    except HostError:
        return [], []
    head, *rest = said.decode(errors="replace").split("\0")
    jobs = [words[1] for words in map(str.split, head.splitlines()) if len(words) == 4 and words[3] == "running"]
    units = [unit for text in rest if (unit := _parsed(text)) is not None]
    return [job for job in jobs if not _is_ours(job)], [unit for unit in units if not _is_ours(unit.name)]


def _is_ours(unit: str) -> bool:
    return unit.startswith("nspawn-runner-")


def _parsed(text: str) -> FailedUnit | None:
    """Return the unit that a part of the machine's answer tells of; None for one that is cut off or made up."""
    shown, _, journal = text.partition("\n\n")
    known = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    name, at = known.get("Id", ""), known.get("StateChangeTimestampMonotonic", "")
    if not name or not (at.isascii() and at.isdigit() and len(at) < 20):
        return None
    status = known.get("ExecMainStatus", "")
    result = f"{known.get('Result', '')}{f', status {status}' if status not in {'', '0'} else ''}"
    lines = [_plain(line) for line in journal.splitlines()[-_LINES:]]
    return FailedUnit(printable(name, 100), printable(result, 60), int(at) / 1e6, lines)


def _plain(line: str) -> str:
    """Return ``line`` without the colours of a terminal, other control characters escaped."""
    import re

    return printable(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip(), _WIDTH)


def write_journal(record: Record, path: str) -> str:
    """Write the machine's whole journal to ``path`` in it, as the user of the job's scripts; return what went wrong.

    Both ends are in the machine: nothing of a path there is followed on the host.
    """
    unit = f"nspawn-runner-journal-{time.monotonic_ns()}"
    options, deadline = ["--pipe", "--wait", f"--machine={record.machine}"], ["RuntimeMaxSec=60"]
    read = ["journalctl", "--quiet", "--no-pager", "--output=short-precise"]
    write = ["/bin/sh", "-c", 'exec 2>&1; cat >"$0" && echo written', path]
    reader = process.spawn(
        systemd.run_argv(read, unit=f"{unit}-read.service", options=options, properties=deadline),
        stdout=process.PIPE,
        stderr=process.DEVNULL,
        own_session=True,
    )
    assert reader.stdout is not None  # noqa: S101  (a pipe, as asked)
    writer = systemd.run_argv(
        systemd.escaped(write),
        unit=f"{unit}-write.service",
        options=[*options, f"--uid={record.user}"],
        properties=deadline,
    )
    try:
        said = process.head(writer, limit_bytes=1000, timeout_seconds=60, stdin=reader.stdout.fileno())
    finally:
        reader.stdout.close()
        reader.kill()
        reader.wait()
    if said == b"written\n":
        return ""
    return _plain(said.decode(errors="replace").strip()) or "the machine does not answer"


def usage(record: Record) -> Usage:
    """Return what the machine has used since it was made; of what was before a reboot or its end, what was noted."""
    group, end = f"/machine.slice/{record.unit}", records.read_end(record.machine)
    cpu, peak = cgroups.cpu_seconds(group), cgroups.memory_peak_bytes(group)
    if end is None:
        return Usage(time.time() - record.created, cpu, peak or None, cgroups.written_bytes(group))
    until = time.time() if os.path.exists(records.ready_file(record.machine)) else end.at
    return Usage(until - record.created, end.cpu_seconds + (cpu or 0), max(peak, end.memory_peak_bytes) or None, None)
