"""cleanup: remove the job's machine and all that belongs to it."""

from __future__ import annotations

import os

from ..gitlab import job as jobs
from ..jobs import removal
from ..light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from ..settings.tables import Settings

HELP = "stage: remove the job's machine"
DESCRIPTION = """Removes the machine of a job: processes, mounts, layer, unit, record. A job without one is fine.

Called by gitlab-runner, it keeps the root of a failed job if the settings say so (keep_failed); with --id it removes
that too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --id."""
    parser.add_argument("--id", metavar="ID", help="the job's id (default: what gitlab-runner says)")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Remove the machine; return 0 when nothing of it is left."""
    job = args.entry.about(jobs.from_environment(os.environ, job_id=args.id))
    removal.remove(job.id, job.server, settings, keep=args.id is None, entry=args.entry)
    return 0
