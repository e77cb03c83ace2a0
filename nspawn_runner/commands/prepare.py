"""prepare: boot the job's machine, with its caches and gitlab-runner's helper."""

from __future__ import annotations

import os
import time

from ..gitlab import job as jobs
from ..host import callers
from ..jobs import job_image, machine, permission
from ..light_typing import TYPE_CHECKING
from ..machines import network, resolvers
from ..output import warn
from ..settings.paths import DEFAULT_FILE

if TYPE_CHECKING:
    import argparse

    from ..settings.tables import Settings

HELP = "stage: boot the job's machine"
DESCRIPTION = """Boots the machine of a job from an image: IMAGE, else the one the job asks for, else the default.

By hand:  nspawn-runner prepare --id 1 bookworm
          nspawn-runner run --id 1 ./script
          nspawn-runner cleanup --id 1"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add IMAGE, --default-image and --id."""
    parser.add_argument("image", nargs="?", metavar="IMAGE", help="boot this image whatever the job asks for")
    parser.add_argument("--default-image", metavar="NAME", help="image of jobs that ask for none (default: settings)")
    parser.add_argument("--id", metavar="ID", help="the job's id (default: what gitlab-runner says)")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Boot the machine and print one line about it."""
    began = time.monotonic()
    job = args.entry.about(jobs.from_environment(os.environ, job_id=args.id))
    asked = args.image if args.image is not None else job.image or args.default_image or settings.default_image
    image = job_image.find(asked, settings)
    if args.id is None:  # by hand, root asks
        permission.check_image(job, image.name, asked, settings, args.config or DEFAULT_FILE)
    own = job_image.settings_of(image, settings)
    if args.id is None and settings.policy:
        permission.check_profile(job, image.name, own.profile, settings, args.config or DEFAULT_FILE)
    wanted = []
    if job.services:
        from ..jobs import services  # of few jobs

        wanted = services.find(job, settings, args.config or DEFAULT_FILE, by_hand=args.id is not None)
    record = machine.boot(job, image, settings, own, owner=callers.gitlab_runner(), entry=args.entry, wanted=wanted)
    print(machine.report(record, time.monotonic() - began))
    if record.network == network.PRIVATE and (lack := resolvers.lack(settings.network)):
        warn(f"names cannot be found in the machine: {lack}")
    return 0
