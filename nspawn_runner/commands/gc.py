"""gc: remove everything of ours that no live job owns, beside jobs, prepare and maintenance."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, NamedTuple

from ..amounts import seconds
from ..errors import Error, UsageError, printable
from ..host import files, journal, locks
from ..host.leftover import Leftover, size_bytes
from ..machines import network
from ..settings import RUN_FOLDER
from . import leftovers
from .words import human_size, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from ..settings import Settings

HELP = "remove what killed jobs and commands left"
DESCRIPTION = """Removes what is ours and nobody owns any more: machines whose prepare, cleanup, exec, maintenance
or gitlab-runner was killed, with what they wrote; half-made trees of images and old generations that no machine uses;
caches that were not used for long ([gc] in the settings). What runs, starts or stops is left alone.
Firewall rules of ours that others took away are put back.

--json prints an array of objects: kind, name, why, size_bytes (null: not known), result (removed, would be removed,
in use, failed), problem. The exit status is 1 when something could not be removed.

    nspawn-runner gc --dry-run"""

_MEASURE_SECONDS = 60
REMOVED, WOULD, BUSY, FAILED = "removed", "would be removed", "in use", "failed"


class Row(NamedTuple):
    """What became of a leftover."""

    kind: str
    name: str
    why: str
    size_bytes: int | None
    result: str
    problem: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --dry-run, --max-age and --json."""
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be removed")
    parser.add_argument(
        "--max-age",
        default="10min",
        metavar="AGE",
        help="a machine that ended by itself may wait so long for its cleanup, as in 30s, 10min, 2h, 1d, 4w (10min)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array (bytes)")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Remove what is left, or only tell it, and print it; return 1 where something could not be removed."""
    ended_seconds = seconds(args.max_age)
    if ended_seconds is None:
        raise UsageError(f"'{printable(args.max_age, 40)}' is no age", advice="such as 30s, 10min, 2h, 1d or 4w")
    files.make_private_folder(RUN_FOLDER)
    with locks.locked(f"{RUN_FOLDER}/gc.lock", what="gc", wait_seconds=0):
        if not args.dry_run:
            network.restore(settings.network)
        rows = [_told(each, dry=args.dry_run) for each in leftovers.find(settings, ended_seconds=ended_seconds)]
        if not args.dry_run:
            leftovers.remove_files(settings)
    if settings.metrics.file and not args.dry_run:
        from . import metrics

        metrics.refresh(settings)
    if args.json:
        print(json.dumps([row._asdict() for row in rows], indent=1))
    else:
        print("\n".join(_lines(rows)))
    for row in rows:
        if row.problem:
            print(f"nspawn-runner: {row.kind} {printable(row.name)}: {row.problem}", file=sys.stderr)
    return 1 if any(row.result == FAILED for row in rows) else 0


def _told(found: Leftover, *, dry: bool) -> Row:
    """Remove what was found, unless ``dry``, and say what became of it."""
    row = Row(found.kind, found.name, found.why, size_bytes(found.paths, seconds=_MEASURE_SECONDS), WOULD)
    if dry:
        return row
    try:
        removed = found.remove()
        if removed and found.kind == "machine":
            _end_story(found)
        return row._replace(result=REMOVED if removed else BUSY)
    except locks.Busy:
        return row._replace(result=BUSY)
    except (Error, OSError) as error:
        lines = error.lines() if isinstance(error, Error) else [str(error)]
        return row._replace(result=FAILED, problem=printable("; ".join(lines)))


def _end_story(machine: Leftover) -> None:
    """Tell the journal what became of the machine of a job, whose stages will not."""
    job = machine.name.removeprefix("run-").partition("-")[0]
    fields = {"NSPAWN_RUNNER_JOB": job, "NSPAWN_RUNNER_MACHINE": machine.name, "NSPAWN_RUNNER_STAGE": "gc"}
    journal.send(f"job {job}: gc removed its machine: {machine.why}", priority=journal.NOTICE, fields=fields)


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        return iter(["nothing is left over"])
    cells = [("KIND", "NAME", "WHY", "SIZE", "RESULT")]
    cells += [(row.kind, printable(row.name, 80), row.why, human_size(row.size_bytes), row.result) for row in rows]
    return iter(table(cells))
