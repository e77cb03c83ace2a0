"""Run one of a job's scripts in its machine, and report how it ended."""

from __future__ import annotations

import os

from ..errors import Error, HostError, JobError, printable
from ..light_typing import TYPE_CHECKING
from ..machines import records, script
from ..machines.script import Outcome
from ..output import say, warn

if TYPE_CHECKING:
    from ..machines.records import Record
    from ..settings.tables import Settings

_LONGEST_PATH = 2048  # characters; PATH_MAX is 4096 bytes


def leave_journal(record: Record, settings: Settings) -> None:
    """Write the machine's journal to the project's folder, where artifacts: picks it up; only warns if that fails."""
    from ..machines import evidence

    # Written in the machine by the job's own user, so the job may name any folder.
    folder = os.environ.get("CUSTOM_ENV_CI_PROJECT_DIR", "")
    try:
        if not folder.startswith("/") or len(folder) >= _LONGEST_PATH:
            raise HostError("CI_PROJECT_DIR is not an absolute path, or too long")
        evidence.write_journal(record, f"{folder}/{settings.journal_file}")
    except (Error, OSError) as error:
        warn(f"the machine's journal is not in the project: {error}")


def find_machine(job_id: str, server: str) -> Record:
    """Return the record of the job's machine; raises HostError if there is none that can run scripts."""
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
        raise HostError(f"the machine {record.machine} is being removed", advice="a cleanup came before this script")
    return record


def run_file(record: Record, path: str, stage: str, shell: str, settings: Settings) -> script.Result:
    """Run the host's file ``path`` in the machine; raises HostError if it cannot be read or the machine is gone."""
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
    """Say on stderr what is unusual about the script's end; raises JobError or HostError for a bad end."""
    machine = record.machine
    say(*result.limits_reached)
    match result.outcome:
        case Outcome.FINISHED:
            return
        case Outcome.KILLED:
            message = "the script's shell was killed with everything around it; the machine is still running"
        case Outcome.REBOOTED:
            message = f"the machine {machine} was rebooted under the script; the rest of it did not run"
        case Outcome.POWERED_OFF:
            message = f"the machine {machine} was powered off under the script; it will not come back"
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
    say(message)
