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
    from ..settings.schema import Settings

HELP = "make images from their playbooks, or bring them up to date"
DESCRIPTION = """An image may have an Ansible playbook: NAME.yaml (or .yml) in /etc/nspawn-runner or the state folder.
Images that are missing are made, parents first. Of the others a copy is taken, the playbook is played in it, and when
all went well it takes the image's place. Running jobs keep what they have; whatever fails, the image stays as it was.

    nspawn-runner chroot-maintenance
    nspawn-runner chroot-maintenance bookworm --verbose

The variables of a playbook are told in docs/playbooks.md."""


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
        note(f"no image has a playbook in {playbooks.FOLDER} or {settings.state_folder}")
    results = all_images.maintain(wanted, settings, dry=args.dry_run, verbose=args.verbose)
    if args.json:
        print(json.dumps([result._asdict() for result in results], indent=1))
    elif results:
        print("\n".join(all_images.lines(results, dry=args.dry_run)))
    return 1 if any(result.result == FAILED for result in results) else 0
