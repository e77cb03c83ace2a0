"""chroot-maintenance: make the images that have a playbook where they are missing, and bring the rest up to date."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from typing import TYPE_CHECKING

from ..errors import printable
from ..host import files, locks
from ..images import maintenance, playbooks
from ..images.maintenance import CREATED, FAILED, RECREATED, UNCHANGED, UPDATED, Means, Result
from ..settings import RUN_FOLDER
from . import specs, trials, users
from .words import human_size, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..images.spec import Spec
    from ..settings import Settings

HELP = "make images from their playbooks, or bring them up to date"
DESCRIPTION = """An image may have an Ansible playbook: NAME.yaml (or .yml) in /etc/nspawn-runner or the state folder.
Images that are missing are made, parents first. Of the others a copy is taken, the playbook is played in it, and when
all went well it takes the image's place. Running jobs keep what they have; whatever fails, the image stays as it was.

    nspawn-runner chroot-maintenance
    nspawn-runner chroot-maintenance bookworm --verbose

The variables of a playbook are told in docs/playbooks.md."""

# Held by the one maintenance that goes on; its machines are nobody's without it.
LOCK = f"{RUN_FOLDER}/maintenance.lock"
_WOULD = {CREATED: "would be created", RECREATED: "would be made anew", UPDATED: "would change", UNCHANGED: UNCHANGED}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add NAME, --dry-run, --json and --verbose."""
    parser.add_argument("names", metavar="NAME", nargs="*", help="these images (default: all that have a playbook)")
    parser.add_argument("--dry-run", "--check", action="store_true", help="only tell what would be done (in copies)")
    parser.add_argument("--json", action="store_true", help="print a JSON array (bytes, seconds)")
    # As the option before the verb, which it must not reset.
    parser.add_argument(
        "--verbose", "-v", action="store_true", default=argparse.SUPPRESS, help="show all that programs say"
    )


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Maintain the images and print a table of what became of them; return 1 where one failed."""
    wanted = specs.read(settings, args.names)
    if not wanted:
        print(f"no image has a playbook in {playbooks.FOLDER} or {settings.state_folder}", file=sys.stderr)
    results = maintain(wanted, settings, dry=args.dry_run, verbose=args.verbose)
    if args.json:
        print(json.dumps([result._asdict() for result in results], indent=1))
    elif results:
        print("\n".join(lines(results, dry=args.dry_run)))
    return 1 if any(result.result == FAILED for result in results) else 0


def maintain(wanted: Sequence[Spec], settings: Settings, *, dry: bool, verbose: bool) -> list[Result]:
    """Maintain the images one after the other and return what became of each; what failed is told on stderr at once."""
    means = Means(
        settings.state_folder,
        settings.user_namespace,
        users.used_roots,
        partial(trials.booted, settings=settings),
        partial(trials.try_out, settings=settings),
        verbose,
    )
    files.make_private_folder(RUN_FOLDER)
    results = []
    with locks.locked(LOCK, what="chroot-maintenance", wait_seconds=1):
        trials.remove_leftovers()
        for each in wanted:
            result = maintenance.check(each, means) if dry else maintenance.maintain(each, means)
            if result.result == FAILED:
                _tell(result)
            results.append(result)
    return results


def _tell(result: Result) -> None:
    first, *more = map(printable, result.reason)
    print(f"nspawn-runner: image {result.image}: {first}", file=sys.stderr)
    for line in more:
        print(f"  {line}", file=sys.stderr)


def lines(results: Sequence[Result], *, dry: bool) -> list[str]:
    """Return the lines of a table of ``results``; ``dry`` says that nothing was really done."""
    rows = [("IMAGE", "RESULT", "CHANGED", "TIME", "SIZE", "LOG")]
    for each in results:
        result = _WOULD.get(each.result, each.result) if dry else each.result
        reason = f" ({each.reason[0]})" if each.reason and each.result != FAILED else ""
        changed = "-" if each.changed is None else str(each.changed)
        size = human_size(each.size_bytes)
        rows.append((each.image, result + reason, changed, f"{each.seconds:.1f} s", size, each.log or "-"))
    return table(rows)
