"""config: tell gitlab-runner where a job's folders are and who we are; touches nothing."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from .. import __version__
from ..gitlab import job as jobs

if TYPE_CHECKING:
    import argparse

    from ..settings import Settings

HELP = "stage: answer gitlab-runner's questions about the driver"
DESCRIPTION = "Prints the answer to gitlab-runner's config stage: JSON on stdout, nothing else."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --id, for calls by hand."""
    parser.add_argument("--id", metavar="ID", help="the job's id (default: what gitlab-runner says)")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Print the answer."""
    job = jobs.from_environment(os.environ, job_id=args.id)
    answer = {
        "driver": {"name": "nspawn-runner", "version": __version__},
        "hostname": f"run-{job.id}",
        "builds_dir": settings.builds_dir,
        "cache_dir": settings.cache_dir,
        # Every job has a machine of its own, so no two share a folder.
        "builds_dir_is_shared": False,
        # gitlab-runner >= 15.10; the shell its scripts are written for.
        "shell": os.path.basename(settings.shell),
    }
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0
