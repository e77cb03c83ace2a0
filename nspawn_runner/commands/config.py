"""config: tell gitlab-runner where a job's folders are and who we are; changes nothing."""

from __future__ import annotations

import json
import os
import sys

from .. import __version__
from ..errors import Error
from ..gitlab import job as jobs
from ..jobs import job_image
from ..light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from ..settings.tables import Settings

HELP = "stage: answer gitlab-runner's questions about the driver"
DESCRIPTION = "Prints the answer to gitlab-runner's config stage: JSON on stdout, nothing else."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --default-image, and --id for calls by hand."""
    parser.add_argument("--default-image", metavar="NAME", help="image of jobs that ask for none (default: settings)")
    parser.add_argument("--id", metavar="ID", help="the job's id (default: what gitlab-runner says)")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Print the answer."""
    job = args.entry.about(jobs.from_environment(os.environ, job_id=args.id))
    answer = {
        "driver": {"name": "nspawn-runner", "version": __version__},
        "hostname": f"run-{job.id}",
        "builds_dir": settings.builds_dir,
        "cache_dir": settings.cache_dir,
        # Every job has a machine of its own, so no two share a folder.
        "builds_dir_is_shared": False,
        # gitlab-runner >= 15.10; the shell its scripts are written for.
        "shell": os.path.basename(_shell(job.image or args.default_image or settings.default_image, settings)),
    }
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _shell(asked: str, settings: Settings) -> str:
    """Return the shell of the image ``asked`` for; if something is wrong with the image, prepare will report it."""
    try:
        return job_image.settings_of(job_image.find(asked, settings), settings).shell
    except (Error, OSError):
        return settings.shell
