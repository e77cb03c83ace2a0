"""cleanup: remove the job's machine and all that belongs to it."""

from __future__ import annotations

import os

from ..gitlab import job as jobs
from ..light_typing import TYPE_CHECKING
from ..machines import records, stop
from . import story

if TYPE_CHECKING:
    import argparse

    from ..settings import Settings

HELP = "stage: remove the job's machine"
DESCRIPTION = """Removes the machine of a job: processes, mounts, layer, unit, record. A job without one is fine.

Called by gitlab-runner it keeps the root of a failed job where the settings say so (keep_failed); with --id it removes
that too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --id."""
    parser.add_argument("--id", metavar="ID", help="the job's id (default: what gitlab-runner says)")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Remove the machine; returns 0 when nothing of it is left."""
    job = story.about(jobs.from_environment(os.environ, job_id=args.id))
    remove(job.id, job.server, settings, keep=args.id is None)
    return 0


def remove(job_id: str, server: str, settings: Settings, *, keep: bool) -> None:
    """Remove the machine of a job, or what is left under its name where there is no record.

    With ``keep`` the root of a failed job stays where the settings say so.
    """
    record = records.find(job_id, server)
    machine = record.machine if record is not None else records.new_name(job_id, server)
    with records.lock(machine):
        if records.find(job_id, server) is None and records.read(machine) is not None:
            return  # meanwhile the name went to another server's job of the same id
        with story.end_of(machine):
            record = records.read(machine)
            if keep and record is not None and record.state != records.UNREADABLE:
                stop.end_job(record)
            else:
                stop.remove_leftovers(machine, settings.state_folder)
