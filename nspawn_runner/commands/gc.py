"""gc: remove everything of ours that no live job owns; safe while jobs, prepare and maintenance run."""

from __future__ import annotations

import json
import os
import re
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..errors import Error, UsageError, printable
from ..host import callers, files, journal, locks, trees
from ..host.leftover import Leftover, size_bytes
from ..images import obsolete as of_images
from ..jobs import caches
from ..machines import network, records
from ..machines import orphans as of_machines
from ..maintenance import all_images, trial_machines
from ..output import human_size, say, table
from ..settings import paths
from ..settings.paths import RUN_FOLDER
from ..settings.quantities import seconds

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from ..machines.records import Record
    from ..settings.tables import Settings

HELP = "remove what killed jobs and commands left behind"
DESCRIPTION = """Removes what is ours and nobody owns any more: machines whose prepare, cleanup, exec, maintenance
or gitlab-runner was killed, with what they wrote; half-made trees of images and old generations that no machine uses;
caches unused for a long time ([gc] in the settings). What runs, starts or stops is left alone.
Firewall rules of ours that others removed are restored.

--json prints an array of objects: kind, name, why, size_bytes (null: not known), result (removed, would be removed,
in use, failed), problem. The exit status is 1 if something could not be removed.

    nspawn-runner gc --dry-run"""

_MEASURE_SECONDS = 60
_WORK = re.compile(r"(exec|doctor)-([0-9]{1,20})")
REMOVED, WOULD, BUSY, FAILED = "removed", "would be removed", "in use", "failed"


class LeftoverRow(NamedTuple):
    """A leftover and what became of it."""

    kind: str
    name: str
    why: str
    size_bytes: int | None
    result: str
    problem: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --dry-run, --max-age and --json."""
    parser.add_argument("--dry-run", action="store_true", help="only show what would be removed")
    parser.add_argument(
        "--max-age",
        default="10min",
        metavar="AGE",
        help="how long a machine that ended by itself may wait for its cleanup: 30s, 10min, 2h, 1d, 4w (10min)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array (bytes)")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Remove the leftovers, or only list them, and print the result; return 1 if something could not be removed."""
    ended_seconds = seconds(args.max_age)
    if ended_seconds is None:
        raise UsageError(f"'{printable(args.max_age, 40)}' is not an age", advice="such as 30s, 10min, 2h, 1d or 4w")
    files.make_private_folder(RUN_FOLDER)
    with locks.locked(f"{RUN_FOLDER}/gc.lock", what="gc", wait_seconds=0):
        if not args.dry_run:
            network.restore(settings.network)
        rows = [_told(each, dry=args.dry_run) for each in leftovers(settings, ended_seconds=ended_seconds)]
        if not args.dry_run:
            _remove_files(settings)
    if settings.metrics.file and not args.dry_run:
        from ..jobs import disk_use, metrics

        metrics.refresh(settings, disk_use.by_kind(settings.state_folder))
    if args.json:
        print(json.dumps([row._asdict() for row in rows], indent=1))
    else:
        print("\n".join(_lines(rows)))
    for row in rows:
        if row.problem:
            say(f"{row.kind} {printable(row.name)}: {row.problem}")
    return 1 if any(row.result == FAILED for row in rows) else 0


def _told(found: Leftover, *, dry: bool) -> LeftoverRow:
    """Remove what was found, unless ``dry``, and return what became of it."""
    row = LeftoverRow(found.kind, found.name, found.why, size_bytes(found.paths, seconds=_MEASURE_SECONDS), WOULD)
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
    """Log to the journal what became of a job's machine, since no stage of the job will."""
    job = machine.name.removeprefix("run-").partition("-")[0]
    fields = {"NSPAWN_RUNNER_JOB": job, "NSPAWN_RUNNER_MACHINE": machine.name, "NSPAWN_RUNNER_STAGE": "gc"}
    journal.send(f"job {job}: gc removed its machine: {machine.why}", priority=journal.NOTICE, fields=fields)


def _lines(rows: Sequence[LeftoverRow]) -> Iterator[str]:
    if not rows:
        return iter(["nothing is left over"])
    cells = [("KIND", "NAME", "WHY", "SIZE", "RESULT")]
    cells += [(row.kind, printable(row.name, 80), row.why, human_size(row.size_bytes), row.result) for row in rows]
    return iter(table(cells))


def leftovers(settings: Settings, *, ended_seconds: float) -> Iterator[Leftover]:
    """Yield what nobody owns, machines first: only once they are gone is what they used known to be free."""
    state = settings.state_folder
    orphaned = partial(_orphaned, state)
    yield from of_machines.find(state, ended_seconds=ended_seconds, orphaned=orphaned)
    yield from of_images.find(state, _used_roots)
    yield from _workspaces(state)
    yield from _trials(state)
    yield from caches.find_leftovers(state, settings.gc)


def _remove_files(settings: Settings) -> None:
    """Remove the small files that every killed process leaves: locks that nobody holds, drafts."""
    of_images.remove_files(settings.state_folder)
    of_machines.remove_files()


def _orphaned(state_folder: str, record: Record) -> str:
    """Return who started the machine and is gone, or an empty string if that is not certain."""
    if record.server == trial_machines.SERVER and not locks.is_held(all_images.LOCK):
        return "its maintenance was killed"
    if callers.is_gone(record.owner):
        return "whoever started it has ended"
    for folder, kind, job in _work(state_folder):
        if job == record.job and os.path.isdir(folder) and not locks.is_held(_lock_of(kind, job)):
            return f"its {kind} was killed"
    return ""


def _used_roots() -> list[str] | None:
    known = records.all_records()
    return None if any(record.state == records.UNREADABLE for record in known) else [record.root for record in known]


def _workspaces(state_folder: str) -> Iterator[Leftover]:
    for folder, kind, job in _work(state_folder):
        if not locks.is_held(_lock_of(kind, job)):
            yield Leftover(kind, job, f"{kind} was killed", [folder], partial(_remove_workspace, folder, kind, job))


def _work(state_folder: str) -> Iterator[tuple[str, str, str]]:
    """Yield folder, kind and job of each exec, and each trial job of doctor."""
    for parent, wanted in ((f"{state_folder}/{paths.BUILDS}", "exec"), (RUN_FOLDER, "doctor")):
        for name in sorted(os.listdir(parent)) if os.path.isdir(parent) else []:
            found = _WORK.fullmatch(name)
            if found and found[1] == wanted:
                yield f"{parent}/{name}", wanted, found[2]


def _lock_of(kind: str, job: str) -> str:
    return f"{RUN_FOLDER}/{kind}-{job}.lock"


def _remove_workspace(folder: str, kind: str, job: str) -> bool:
    with locks.locked(_lock_of(kind, job), what=f"the job {job}", wait_seconds=0):
        if not os.path.isdir(folder) or any(record.job == job for record in records.all_records()):
            return False  # keep the folder: it shows that nobody owns the machine
        trees.remove(folder)
        return True


def _trials(state_folder: str) -> Iterator[Leftover]:
    """Yield what doctor's trials of backend and firewall left, unless a doctor is running."""
    from ..doctor import host_firewall, storage

    places = storage.trial_places(state_folder)
    if (any(map(os.path.lexists, places)) or host_firewall.has_leftovers()) and not locks.is_held(storage.LOCK):
        yield Leftover("doctor", "trial", "doctor was killed", places[:1], partial(_remove_trials, state_folder))


def _remove_trials(state_folder: str) -> bool:
    from ..doctor import host_firewall, storage

    with locks.locked(storage.LOCK, what="doctor's trial", wait_seconds=0):
        storage.remove_trial(state_folder)
        host_firewall.remove_link()
        host_firewall.remove_table()
        return True
