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


class StageEntry:
    """Context manager for a stage that writes an entry on exit; errors pass through.

    ``script`` is GitLab's name of what a run runs, ``job_id`` the job's id if given by hand. The stage sets its
    ``status`` (0: success), and ``settings`` as soon as it has them, and notes here what it finds out about the job.
    """

    def __init__(
        self, stage: str, script: str = "", *, job_id: str | None = None, settings: Settings | None = None
    ) -> None:
        self.stage = stage.removeprefix("gitlab-")
        self.script = script
        self.job_id = job_id
        self.settings = settings
        self.status = 0
        self.job = self.project = self.server = self.image = self.machine = self.outcome = self.event = ""
        self.queued_seconds: float | None = None

    def about(self, job: Job) -> Job:
        """Note which job the stage serves; return ``job``."""
        self.job, self.project, self.image, self.server = job.id, job.project, job.image, job.server
        self.queued_seconds = job.queued_seconds
        return job

    def in_machine(self, record: Record) -> Record:
        """Note the job's machine; return ``record``."""
        self.machine = record.machine
        self.job = self.job or record.job
        self.project = record.project or self.project
        self.image = record.image or self.image
        return record

    @contextmanager
    def end_of(self, machine_name: str) -> Iterator[None]:
        """Note the outcome of the job whose machine is removed inside; use it under the machine's lock.

        An earlier removal has already noted it, even if it did not finish.
        """
        from ..machines import notes, records

        record = records.read(machine_name)
        if record is None:
            yield
            return
        self.in_machine(record)
        # A record in the state starting comes from a killed prepare.
        outcomes = {"running": notes.failure(record.machine) or SUCCESS, "starting": SYSTEM_FAILURE}
        try:
            yield
        finally:
            now = records.read(machine_name)
            if now is None or now.state != record.state:
                self.outcome = outcomes.get(record.state, "")

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        seconds = time.monotonic() - self.began
        result = result_of(error) if error is not None else FAILED if self.status else SUCCESS
        if error is not None and not self.job:
            self._find_job()
        journal.send(
            self.sentence(result, seconds, error),
            priority=_PRIORITIES[result],
            fields={
                "NSPAWN_RUNNER_JOB": self.job,
                "NSPAWN_RUNNER_PROJECT": self.project,
                "NSPAWN_RUNNER_IMAGE": self.image,
                "NSPAWN_RUNNER_MACHINE": self.machine,
                "NSPAWN_RUNNER_STAGE": self.stage,
                "NSPAWN_RUNNER_SCRIPT": self.script,
                "NSPAWN_RUNNER_DURATION": f"{seconds:.3f}",
                "NSPAWN_RUNNER_RESULT": result,
            },
        )
        if self.settings is not None and self.settings.metrics.file and os.geteuid() == 0:
            from . import metrics
            from .counters import EndedStage

            job = f"{self.server} {self.job}" if self.job else ""
            ended = EndedStage(self.stage, seconds, result, job, self.outcome, self.queued_seconds)
            metrics.stage_ended(self.settings, ended)

    def _find_job(self) -> None:
        """Note the job if the stage failed before it did."""
        from ..gitlab import job as jobs

        with suppress(Error, OSError):
            self.about(jobs.from_environment(os.environ, job_id=self.job_id))

    def sentence(self, result: str, seconds: float, error: BaseException | None) -> str:
        """Return the message of an entry; it names only the host's own errors, as others may quote a job's output."""
        whose = f"job {self.job}: " if self.job else ""
        if result == SUCCESS and self.event:
            return whose + self.event
        what = printable(f"{self.stage} {self.script}".strip(), 80)
        # A command's stderr may quote a job's output too; and without an id it may not be a job.
        why = f": {error.lines()[0]}" if type(error) is HostError and self.job else ""
        return f"{whose}{what} {_VERBS[result]} after {seconds:.1f} s{why}"


def result_of(error: BaseException) -> str:
    """Return the result for whoever ``error`` blames, like the exit status."""
    if isinstance(error, JobError):
        return FAILED
    return CANCELED if isinstance(error, Cancelled) else SYSTEM_FAILURE
