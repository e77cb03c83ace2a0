"""Write an entry to the host's journal when a stage ends, however it ends, and count the stage.

    journalctl NSPAWN_RUNNER_JOB=4711

A process serves one job. Its stages note here what they learn about it: ids and names, nothing secret.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress

from ..errors import Cancelled, Error, HostError, JobError, printable
from ..host import journal
from ..light_typing import TYPE_CHECKING, Self
from .results import CANCELED, FAILED, SUCCESS, SYSTEM_FAILURE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..gitlab.job import Job
    from ..machines.records import Record
    from ..settings.tables import Settings

_PRIORITIES = {SUCCESS: journal.INFO, FAILED: journal.NOTICE, CANCELED: journal.NOTICE, SYSTEM_FAILURE: journal.ERROR}
_VERBS = {
    SUCCESS: "succeeded",
    FAILED: "failed",
    CANCELED: "was canceled",
    SYSTEM_FAILURE: "met a system failure",
}


class _Known:
    job = project = image = machine = server = outcome = event = ""


_known = _Known()


def about(job: Job) -> Job:
    """Note which job this process serves; return ``job``."""
    _known.job, _known.project, _known.image, _known.server = job.id, job.project, job.image, job.server
    return job


def image(name: str) -> None:
    """Note the image that the job gets."""
    _known.image = name


def machine(record: Record) -> Record:
    """Note the job's machine; return ``record``."""
    _known.machine = record.machine
    _known.job = _known.job or record.job
    _known.project = record.project or _known.project
    _known.image = record.image or _known.image
    return record


def event(text: str) -> None:
    """Note a sentence for the entry that says more than that the stage succeeded."""
    _known.event = text


@contextmanager
def end_of(machine_name: str) -> Iterator[None]:
    """Note the outcome of the job whose machine is removed inside; use it under the machine's lock.

    An earlier removal has already noted it, even if it did not finish.
    """
    from ..machines import notes, records

    record = records.read(machine_name)
    if record is None:
        yield
        return
    machine(record)
    # A record in the state starting comes from a killed prepare.
    outcomes = {"running": notes.failure(record.machine) or SUCCESS, "starting": SYSTEM_FAILURE}
    try:
        yield
    finally:
        now = records.read(machine_name)
        if now is None or now.state != record.state:
            _known.outcome = outcomes.get(record.state, "")


class StageEntry:
    """Context manager for a stage that writes an entry on exit; errors pass through.

    ``script`` is GitLab's name of what a run runs, ``job_id`` the job's id if given by hand. The stage sets its
    ``status`` (0: success), and ``settings`` as soon as it has them.
    """

    def __init__(
        self, stage: str, script: str = "", *, job_id: str | None = None, settings: Settings | None = None
    ) -> None:
        self.stage = stage.removeprefix("gitlab-")
        self.script = script
        self.job_id = job_id
        self.settings = settings
        self.status = 0

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        seconds = time.monotonic() - self.began
        result = result_of(error) if error is not None else FAILED if self.status else SUCCESS
        outcome, _known.outcome = _known.outcome, ""
        if error is not None and not _known.job:
            _find_job(self.job_id)
        journal.send(
            sentence(self.stage, self.script, result, seconds, error),
            priority=_PRIORITIES[result],
            fields={
                "NSPAWN_RUNNER_JOB": _known.job,
                "NSPAWN_RUNNER_PROJECT": _known.project,
                "NSPAWN_RUNNER_IMAGE": _known.image,
                "NSPAWN_RUNNER_MACHINE": _known.machine,
                "NSPAWN_RUNNER_STAGE": self.stage,
                "NSPAWN_RUNNER_SCRIPT": self.script,
                "NSPAWN_RUNNER_DURATION": f"{seconds:.3f}",
                "NSPAWN_RUNNER_RESULT": result,
            },
        )
        if self.settings is not None and self.settings.metrics.file and os.geteuid() == 0:
            from . import metrics
            from .counters import EndedStage

            job = f"{_known.server} {_known.job}" if _known.job else ""
            metrics.stage_ended(self.settings, EndedStage(self.stage, seconds, result, job, outcome))


def result_of(error: BaseException) -> str:
    """Return the result for whoever ``error`` blames, like the exit status."""
    if isinstance(error, JobError):
        return FAILED
    return CANCELED if isinstance(error, Cancelled) else SYSTEM_FAILURE


def _find_job(job_id: str | None) -> None:
    """Note the job if the stage failed before it did."""
    from ..gitlab import job as jobs

    with suppress(Error, OSError):
        about(jobs.from_environment(os.environ, job_id=job_id))


def sentence(stage: str, script: str, result: str, seconds: float, error: BaseException | None) -> str:
    """Return the message of an entry; it names only the host's own errors, as others may quote a job's output."""
    whose = f"job {_known.job}: " if _known.job else ""
    if result == SUCCESS and _known.event:
        return whose + _known.event
    what = printable(f"{stage} {script}".strip(), 80)
    # A command's stderr may quote a job's output too; and without an id it may not be a job.
    why = f": {error.lines()[0]}" if type(error) is HostError and _known.job else ""
    return f"{whose}{what} {_VERBS[result]} after {seconds:.1f} s{why}"
