"""Remove a job's machine and all that belongs to it."""

from __future__ import annotations

from contextlib import suppress

from ..errors import Error, HostError
from ..light_typing import TYPE_CHECKING
from ..machines import records, stop

if TYPE_CHECKING:
    from ..settings.tables import Settings
    from .accounting import StageEntry


def _remove_services(machine: str, settings: Settings, *, keep: bool) -> list[str]:
    """Remove the machines of the services of the job whose own is ``machine``, side by side; return what went wrong."""
    services = records.of_services(machine)
    for record in services:
        with suppress(HostError):  # what completes it tells
            stop.begin(record)
    problems = []
    for record in services:
        try:
            with records.lock(record.machine):
                if keep and record.state != records.UNREADABLE:
                    stop.end_job(record)
                else:
                    stop.remove_leftovers(record.machine, settings.state_folder)
        except (Error, OSError) as error:
            problems.append("; ".join(error.lines()) if isinstance(error, Error) else str(error))
    return problems


def remove(job_id: str, server: str, settings: Settings, *, keep: bool, entry: StageEntry) -> None:
    """Remove a job's machine, or what is left under its name if there is no record.

    With ``keep``, the root of a failed job stays if the settings say so.
    """
    record = records.find(job_id, server)
    machine = record.machine if record is not None else records.new_name(job_id, server)
    with records.lock(machine):
        if records.find(job_id, server) is None and records.read(machine) is not None:
            return  # meanwhile the name went to another server's job of the same id
        problems = _remove_services(machine, settings, keep=keep)
        with entry.end_of(machine):
            record = records.read(machine)
            if keep and record is not None and record.state != records.UNREADABLE:
                stop.end_job(record)
            else:
                stop.remove_leftovers(machine, settings.state_folder)
        if problems:
            raise HostError(f"services of job {job_id} could not be removed", facts=" / ".join(problems),
                            advice=f"fix that, then: nspawn-runner cleanup --id {job_id}")  # fmt: skip
