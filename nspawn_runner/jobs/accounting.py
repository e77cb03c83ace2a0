"""Each stage writes an entry to the host's journal when it ends, however it ends, and is counted.

    journalctl NSPAWN_RUNNER_JOB=4711

A process is about one job. What its stages find out of it they note here: ids and names, nothing that is secret.
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
    from ..settings.schema import Settings

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
    """Note whose story it is; return ``job``."""
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
    """Note a sentence that says more than that the stage succeeded."""
    _known.event = text


@contextmanager
def end_of(machine_name: str) -> Iterator[None]:
    """Note what became of the job of the machine that is removed inside; to be used under the machine's lock.

    A removal that was begun before has noted that already, though it may not have ended.
    """
    from ..machines import notes, records

    record = records.read(machine_name)
    if record is None:
        yield
        return
    machine(record)
    # A record that says starting is of a prepare that was killed.
    outcomes = {"running": notes.failure(record.machine) or SUCCESS, "starting": SYSTEM_FAILURE}
    try:
        yield
    finally:
        now = records.read(machine_name)
        if now is None or now.state != record.state:
            _known.outcome = outcomes.get(record.state, "")


class StageEntry:
    """A stage in whose end an entry is written; errors pass through.

    ``script`` is GitLab's name of what a run runs, ``job_id`` the job's where a person named it. The stage sets its
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
    """Return the word for whoever ``error`` blames, as the exit status does."""
    if isinstance(error, JobError):
        return FAILED
    return CANCELED if isinstance(error, Cancelled) else SYSTEM_FAILURE


def _find_job(job_id: str | None) -> None:
    """Note whose story it is where the stage has failed before it asked."""
    from ..gitlab import job as jobs

    with suppress(Error, OSError):
        about(jobs.from_environment(os.environ, job_id=job_id))


def sentence(stage: str, script: str, result: str, seconds: float, error: BaseException | None) -> str:
    """Return the message of an entry; of errors only the host's own are named, others may quote what a job said."""
    whose = f"job {_known.job}: " if _known.job else ""
    if result == SUCCESS and _known.event:
        return whose + _known.event
    what = printable(f"{stage} {script}".strip(), 80)
    # What a command said on stderr may be a job's words too; and who has no name yet may be no job.
    why = f": {error.lines()[0]}" if type(error) is HostError and _known.job else ""
    return f"{whose}{what} {_VERBS[result]} after {seconds:.1f} s{why}"
