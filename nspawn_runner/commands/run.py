"""run: run one of the job's scripts in its machine and tell the runner its true status."""

from __future__ import annotations

import os

from ..gitlab import exit_status, stages
from ..gitlab import job as jobs
from ..jobs import job_script, log
from ..light_typing import TYPE_CHECKING
from ..machines import records
from ..output import say

if TYPE_CHECKING:
    import argparse

    from ..settings.tables import Settings

HELP = "stage: run a script in the job's machine"
DESCRIPTION = """Runs the file SCRIPT in the job's machine, as the standard input of a shell; as root unless the
settings or the image name another user.

Output is passed on as it comes. What the script leaves running stays until cleanup."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add SCRIPT, STAGE, --id and --shell."""
    parser.add_argument("script", metavar="SCRIPT", help="a file on this host")
    parser.add_argument("stage", nargs="?", default="script", metavar="STAGE", help="GitLab's name for it")
    parser.add_argument("--id", metavar="ID", help="the job's id (default: what gitlab-runner says)")
    parser.add_argument("--shell", metavar="PATH", help="the shell in the machine (default: settings)")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Run the script and report its own status; return 0, or the number that blames the job."""
    exit_status.forget_script_status(os.environ)
    job = args.entry.about(jobs.from_environment(os.environ, job_id=args.id))
    record = args.entry.in_machine(job_script.find_machine(job.id, job.server))
    if records.is_rebooting(record.machine):
        say(f"the machine {record.machine} is rebooting; waiting for it")

    def run() -> int:
        if settings.journal_file and args.stage.startswith("upload_artifacts"):
            job_script.leave_journal(record, settings)
        result = job_script.run_file(record, args.script, args.stage, args.shell or record.shell, settings)
        job_script.tell(result, record)
        return result.status

    def may_be_last(*, failed: bool, stopped: bool) -> bool:
        if args.id is not None:
            return bool(args.stage == stages.LAST)
        return stages.may_be_last(args.stage, job.steps, os.environ, failed=failed, stopped=stopped)

    decides = stages.decides(args.stage, os.environ)
    journals = log.wants_journals(os.environ.get("CUSTOM_ENV_CI_DEBUG_SERVICES"))
    number = log.run(record, args.stage, run, decides=decides, may_be_last=may_be_last, journals=journals)
    return exit_status.tell_script_status(os.environ, number)
