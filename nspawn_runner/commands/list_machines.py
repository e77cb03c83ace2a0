"""list: list the machines, what they do and what they use."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from .. import output
from ..errors import UsageError, printable
from ..host import signals
from ..machines import orphans, records, status
from ..maintenance import trial_machines
from ..output import human_age, human_size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from ..machines.records import Record
    from ..settings.tables import Settings

HELP = "list the machines"
DESCRIPTION = """Lists the machines of jobs and of maintenance: what they do, since when, and what they use.

STATE is booting, running, rebooting or stopping; ended: it shut down by itself; kept: its job failed, and its root is
kept for inspection; abandoned: a killed prepare or cleanup left it; unreadable: its record cannot be parsed. CPU is CPU
time, MEMORY includes the page cache, DISK is what the machine wrote. A dash: not known.

--json prints an array of objects, with null for what is not known: machine, job, server, project, image, generation,
state, since (epoch seconds), cpu_seconds, memory_bytes, memory_peak_bytes, disk_bytes, backend, unit,
kept_until (epoch seconds), service (its name, of a machine for one).

    nspawn-runner list
    nspawn-runner list --watch"""

_REFRESH_SECONDS = 2
# A job can make counting what it wrote take arbitrarily long, with millions of files. All machines share this time.
_DISK_SECONDS = 5
# Codes that all terminals know (ECMA-48): clear all, go to the top, clear to the end of the line, clear all below.
_CLEAR, _TOP, _CLEAR_LINE, _CLEAR_BELOW = "\033[2J", "\033[H", "\033[K", "\033[J"


class MachineRow(NamedTuple):
    """A machine of the list; sizes in bytes, times in seconds, None if unknown."""

    machine: str
    job: str
    server: str
    project: str
    image: str
    generation: str
    state: str
    since: int | None
    cpu_seconds: float | None
    memory_bytes: int | None
    memory_peak_bytes: int | None
    disk_bytes: int | None
    backend: str
    unit: str
    kept_until: int | None
    service: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --json and --watch."""
    parser.add_argument("--json", action="store_true", help="print a JSON array (bytes, seconds, epoch seconds)")
    parser.add_argument("--watch", action="store_true", help="on a terminal: refresh until interrupted")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Print the machines as a table or as JSON, once or until interrupted."""
    del settings
    if args.watch:
        return _watch(json_wanted=args.json)
    rows = list(listing())
    if args.json:
        print(json.dumps([row._asdict() for row in rows], indent=1))
    else:
        print("\n".join(_lines(rows)))
    return 0


def _watch(*, json_wanted: bool) -> int:
    if json_wanted or not sys.stdout.isatty():
        raise UsageError("--watch is for a terminal", advice="call nspawn-runner list --json repeatedly instead")
    print(_CLEAR, end="")
    while True:
        shown = "".join(f"{line}{_CLEAR_LINE}\n" for line in _lines(list(listing())))
        print(f"{_TOP}{shown}{_CLEAR_BELOW}", end="", flush=True)
        signals.sleep(_REFRESH_SECONDS)


def listing() -> Iterator[MachineRow]:
    """Yield a row per machine, by name; one that is removed meanwhile is left out."""
    deadline = time.monotonic() + _DISK_SECONDS
    for record in records.all_records():
        seen = status.look_at(record, disk_seconds=max(0.1, deadline - time.monotonic()))
        if seen.state != "gone":
            yield _row(record, seen)


def _row(record: Record, seen: status.Sight) -> MachineRow:
    return MachineRow(
        machine=record.machine,
        job=record.job,
        server=record.server,
        project=record.project,
        image=record.image,
        generation=record.generation,
        state=seen.state,
        since=round(record.created) or None,
        cpu_seconds=seen.cpu_seconds,
        memory_bytes=seen.memory_bytes,
        memory_peak_bytes=seen.memory_peak_bytes,
        disk_bytes=seen.disk_bytes,
        backend=record.backend,
        unit=record.unit,
        kept_until=round(record.kept_until) or None,
        service=record.service,
    )


def table(rows: Sequence[MachineRow], now: float) -> list[str]:
    """Return the lines of a table of ``rows``, with ages at the time ``now`` (epoch seconds)."""
    lines = [("MACHINE", "JOB", "PROJECT", "IMAGE", "GENERATION", "SINCE", "STATE", "CPU", "MEMORY", "DISK")]
    for row in rows:
        project = trial_machines.SERVER if row.server == trial_machines.SERVER else row.project
        image = f"{row.service}: {row.image}" if row.service else row.image
        texts = [printable(text, 64) or "-" for text in (row.machine, row.job, project, image, row.generation)]
        since = "-" if row.since is None else human_age(now - row.since)
        cpu = "-" if row.cpu_seconds is None else f"{row.cpu_seconds:.1f} s"
        sizes = (human_size(row.memory_bytes), human_size(row.disk_bytes))
        lines.append((texts[0], texts[1], texts[2], texts[3], texts[4], since, printable(row.state, 20), cpu, *sizes))
    return output.table(lines)


def advice(rows: Sequence[MachineRow]) -> list[str]:
    """Return a line for each machine that must be removed or can be inspected, with the command."""
    told = []
    for row in rows:
        if row.state in {"abandoned", records.UNREADABLE}:
            told.append(f"{row.machine} is {row.state}; remove it: {orphans.REMOVAL}")
        elif row.kept_until is not None:
            until = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.kept_until))
            told.append(f"{row.machine} is kept until {until}; look into it: nspawn-runner login {row.machine}")
    return told


def _lines(rows: Sequence[MachineRow]) -> list[str]:
    if not rows:
        return ["no machines: no job runs"]
    return [*table(rows, time.time()), *advice(rows)]
