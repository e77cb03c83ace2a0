"""doctor: check everything that jobs and images need, and show how to fix what is wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .. import doctor
from ..errors import UsageError, printable
from ..settings.machine_settings import for_machines

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Sequence

    from ..doctor import Check, ReportLine
    from ..settings.tables import Settings

HELP = "check what jobs need, and show how to fix what is wrong"
DESCRIPTION = """Checks everything that jobs and images need of this host, mostly by trying it, and prints a line for
each: ok, warning (jobs run, but not as they should) or failed (jobs do not run), with the command that fixes it, ready
for a root shell, or with advice if no command does.

The exit status is that of the worst result, for monitoring: 0 ok, 1 warning, 2 failed. --json prints an array of
objects: check, level (ok, warning, failed), text, mend (a command, or empty), advice (what to do besides or instead, or
empty).

    nspawn-runner doctor
    nspawn-runner doctor --check firewall --check "name servers"
    nspawn-runner doctor --job    # also a tiny job through all stages, on every available backend"""

_STATUS = {level: number for number, level in enumerate(doctor.LEVELS)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --check, --json, --job, --image and --machines."""
    parser.add_argument(
        "--check", action="append", default=[], metavar="NAME", help="run only this check; repeatable"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array")
    parser.add_argument("--job", action="store_true", help="also run a tiny job on every backend")
    parser.add_argument("--image", metavar="NAME", default="", help="image of that job (default: the settings')")
    usual = "default: concurrent in config.toml, or 10"
    parser.add_argument("--machines", type=int, default=0, metavar="N", help=f"check for N machines at once ({usual})")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Print what the checks find and return the exit status of the worst."""
    from ..doctor import runner_service

    if args.machines < 0:
        raise UsageError("--machines must be at least 1")
    checks = _checks(args.check)
    own = for_machines(settings)  # with what the usual profile sets
    context = doctor.Context(settings, own, args.config, args.machines or runner_service.machines_at_once())
    worst = doctor.OK
    found = []
    for result in _results(checks, context, job=args.job, image=args.image):
        worst = max(worst, result.level, key=doctor.LEVELS.index)
        found.append(result)
        if not args.json:
            print("\n".join(lines(result)), flush=True)
    if args.json:
        print(json.dumps([result._asdict() for result in found], indent=1))
    return _STATUS[worst]


def _checks(names: Sequence[str]) -> Sequence[Check]:
    """Return the checks ``names``, or all if there are none; raises UsageError for an unknown one."""
    there = doctor.all_checks()
    if lost := [name for name in names if name not in there]:
        from ..settings.mistakes import meant

        question = meant(lost, there) or f"there are: {', '.join(there)}"
        raise UsageError(f"doctor has no check '{printable(lost[0], 60)}'; {question.strip()}")
    return [check for name, check in there.items() if name in names or not names]


def _results(checks: Sequence[Check], context: doctor.Context, *, job: bool, image: str) -> Iterator[ReportLine]:
    for check in checks:
        yield from doctor.run(check, context)
    if job:
        from ..doctor import trial_job

        yield from trial_job.results(context, image)


def lines(result: ReportLine) -> Iterable[str]:
    """Yield the lines of ``result`` for people: what was found and, unless it is ok, how to fix it."""
    yield f"{result.level:8} {result.check}: {printable(result.text)}"
    if result.mend:
        yield f"         fix: {printable(result.mend)}"
    if result.advice:
        yield f"         advice: {printable(result.advice)}"
