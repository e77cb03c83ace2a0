"""chroot-maintenance: create missing images that have a playbook, and bring the others up to date."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from ..images.ansible import playbooks, specs
from ..maintenance import all_images
from ..maintenance.one_image import FAILED
from ..output import note

if TYPE_CHECKING:
    from ..settings.tables import Settings

HELP = "make images from their playbooks, or bring them up to date"
DESCRIPTION = """An image may have an Ansible playbook: NAME.yaml (or .yml) in /etc/nspawn-runner or the state folder.
Missing images are made, parents first. For the others the playbook is played in a copy, which replaces the image if all
went well. Running jobs keep what they have; on any failure the image stays as it was.

    nspawn-runner chroot-maintenance
    nspawn-runner chroot-maintenance bookworm --verbose

docs/playbooks.md describes the variables of a playbook."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add NAME, --dry-run, --json and --verbose."""
    parser.add_argument("names", metavar="NAME", nargs="*", help="these images (default: all that have a playbook)")
    parser.add_argument("--dry-run", "--check", action="store_true", help="only show what would be done (in copies)")
    parser.add_argument("--json", action="store_true", help="print a JSON array (bytes, seconds)")
    # SUPPRESS: without it, this would reset a --verbose given before the verb.
    parser.add_argument(
        "--verbose", "-v", action="store_true", default=argparse.SUPPRESS, help="show all output of programs"
    )


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Maintain the images and print a table of the results; return 1 if one failed."""
    wanted = specs.read(settings, args.names)
    if not wanted:
        note(f"no image has a playbook in {playbooks.FOLDER} or {settings.state_folder}")
    results = all_images.maintain(wanted, settings, dry=args.dry_run, verbose=args.verbose)
    if args.json:
        print(json.dumps([result._asdict() for result in results], indent=1))
    elif results:
        print("\n".join(all_images.lines(results, dry=args.dry_run)))
    return 1 if any(result.result == FAILED for result in results) else 0
