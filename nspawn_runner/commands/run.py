"""run: run one of the job's scripts in its machine and tell the runner its true status."""

from __future__ import annotations

import os
import sys

from ..errors import Error, HostError, JobError, printable
from ..gitlab import job as jobs
from ..gitlab import stages, status
from ..light_typing import TYPE_CHECKING
from ..machines import records, script
from ..machines.script import Outcome
from . import observed, story

if TYPE_CHECKING:
    import argparse

    from ..machines.records import Record
    from ..settings import Settings

HELP = "stage: run a script in the job's machine"
DESCRIPTION = """Runs the file SCRIPT in the job's machine, as the standard input of a shell; as root, unless the
settings or the image name another user.

Output is passed through as it comes. What the script leaves running stays until cleanup."""

_LONGEST_PATH = 2048  # characters; PATH_MAX is 4096 bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add SCRIPT, STAGE, --id and --shell."""
    parser.add_argument("script", metavar="SCRIPT", help="a file on this host")
    parser.add_argument("stage", nargs="?", default="script", metavar="STAGE", help="GitLab's name for it")
    parser.add_argument("--id", metavar="ID", help="the job's id (default: what gitlab-runner says)")
    parser.add_argument("--shell", metavar="PATH", help="the shell in the machine (default: settings)")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Run the script; return 0, or the number that blames the job, having told the script's own status."""
    status.forget_script_status(os.environ)
    job = story.about(jobs.from_environment(os.environ, job_id=args.id))
    record = story.machine(find_machine(job.id, job.server))
    if records.is_rebooting(record.machine):
        print(f"nspawn-runner: the machine {record.machine} is rebooting; waiting for it", file=sys.stderr, flush=True)

    def run() -> int:
        if settings.journal_file and args.stage.startswith("upload_artifacts"):
            leave_journal(record, settings)
        result = run_file(record, args.script, args.stage, args.shell or record.shell, settings)
        tell(result, record)
        return result.status

    def may_be_last(*, failed: bool, stopped: bool) -> bool:
        if args.id is not None:
            return bool(args.stage == stages.LAST)
        return stages.may_be_last(args.stage, job.steps, os.environ, failed=failed, stopped=stopped)

    decides = stages.decides(args.stage, os.environ)
    number = observed.run(record, args.stage, run, decides=decides, may_be_last=may_be_last)
    return status.tell_script_status(os.environ, number)


def leave_journal(record: Record, settings: Settings) -> None:
    """Leave the machine's journal in the project's folder, where artifacts: picks it up; a failure is only told."""
    from ..machines import evidence

    # In the machine, by the job's own user: whatever the job says its folder is.
    folder = os.environ.get("CUSTOM_ENV_CI_PROJECT_DIR", "")
    if folder.startswith("/") and len(folder) < _LONGEST_PATH:
        try:
            problem = evidence.write_journal(record, f"{folder}/{settings.journal_file}")
        except (Error, OSError) as error:
            problem = str(error)
    else:
        problem = "CI_PROJECT_DIR is no absolute path"
    if problem:
        print(f"nspawn-runner: WARNING: the machine's journal is not in the project: {problem}", file=sys.stderr)


def find_machine(job_id: str, server: str) -> Record:
    """Return the record of the job's machine; raises HostError where there is none."""
    record = records.find(job_id, server)
    if record is None:
        raise HostError(
            f"job {job_id} has no machine", advice=f"boot one first: nspawn-runner prepare --id {job_id} IMAGE"
        )
    if record.state == records.UNREADABLE:
        raise HostError(f"the record of the machine {record.machine} cannot be understood", advice="run the job again")
    if record.state == "kept":
        raise HostError(f"job {job_id} is over; its root is kept", advice=f"look into it: nspawn-runner login {job_id}")
    if record.state == "stopping":
        raise HostError(f"the machine {record.machine} is being removed", advice="it was cleaned up under this script")
    return record


def run_file(record: Record, path: str, stage: str, shell: str, settings: Settings) -> script.Result:
    """Run the host's file ``path`` in the machine; raises HostError where it cannot be read or the machine is gone."""
    if not shell.startswith("/") or not shell.isprintable():
        raise HostError(f"the shell must be an absolute path in the machine, not '{printable(shell, 60)}'")
    label = "".join(char if char.isascii() and char.isalnum() else "_" for char in stage)[:40]
    try:
        with open(path, "rb") as file:
            content = file.read()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise HostError(f"cannot read the script {printable(path)}: {reason}") from error
    return script.run(record, content, label, shell=shell, grace_seconds=settings.stop_grace_seconds)


def tell(result: script.Result, record: Record) -> None:
    """Say on stderr what a person must know of how the script ended; raises JobError or HostError for a bad end."""
    machine = record.machine
    for text in result.limits_reached:
        print(f"nspawn-runner: {text}", file=sys.stderr)
    match result.outcome:
        case Outcome.FINISHED:
            return
        case Outcome.KILLED:
            message = "the script's shell was killed with everything around it; the machine runs on"
        case Outcome.REBOOTED:
            message = f"the machine {machine} was rebooted under the script; the rest of it did not run"
        case Outcome.POWERED_OFF:
            message = f"the machine {machine} was powered off under the script; it does not come back"
        case Outcome.NO_SHELL:
            raise JobError(
                f"the image {record.image} has no {result.detail}",
                advice="install it there, or set another shell in the settings",
            )
        case Outcome.LIMIT_REACHED:
            raise JobError(f"the machine {machine} died under the script: {result.detail}")
        case Outcome.MACHINE_LOST:
            raise HostError(
                f"the machine {machine} died under the script: {result.detail}",
                advice=f"see: journalctl --unit={record.unit}",
            )
    print(f"nspawn-runner: {message}", file=sys.stderr)
