"""When a job of a pipeline may start, and what its end means for the others, as GitLab decides it; pure functions.

Sources: https://docs.gitlab.com/ci/yaml/#when and lib/gitlab/ci/status/composite.rb, app/services/ci/
update_build_status_service and pipeline_processing of GitLab.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import Enum
from typing import NamedTuple

from .ci_job import CiJob


class State(Enum):
    """What became of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    ALLOWED = "failed, allowed"
    SKIPPED = "skipped"
    MANUAL = "manual"

    @property
    def is_over(self) -> bool:
        """Return whether nothing more will happen to the job."""
        return self not in {State.WAITING, State.RUNNING}


class Before(NamedTuple):
    """A job that another one waits for: its state, and whether the pipeline may go on without it."""

    state: State
    may_be_left: bool = False


def next_state(job: CiJob, before: Iterable[Before], *, started_by_hand: bool = False) -> State:
    """Return what becomes of a waiting ``job``: RUNNING if it is to start, WAITING, SKIPPED or MANUAL."""
    states = list(before)
    if any(not each.state.is_over for each in states):
        return State.WAITING
    failed = any(each.state is State.FAILED for each in states)
    blocked = any(each.state is State.MANUAL and not each.may_be_left for each in states)
    left_out = [each for each in states if each.state in {State.SKIPPED, State.MANUAL}]
    # A job that names its needs wants them to have run; a stage goes on without a skipped or optional manual job.
    unmet = job.needs is not None and bool(left_out)
    if job.when == "always":
        return State.SKIPPED if blocked else State.RUNNING
    if job.when == "on_failure":
        return State.RUNNING if failed else State.SKIPPED
    if failed or blocked or unmet:
        return State.SKIPPED
    if job.when == "manual" and not started_by_hand:
        return State.MANUAL
    return State.RUNNING


def ended(job: CiJob, status: int | None) -> State:
    """Return the state of ``job`` after its script ended with ``status``; None if it has none, as after a timeout."""
    if status == 0:
        return State.SUCCESS
    return State.ALLOWED if job.allow_failure or status in job.allowed_codes else State.FAILED


def again(job: CiJob, tried: int, kind: str) -> bool:
    """Return whether ``job`` is tried again after it failed ``tried`` times, last for the reason ``kind``."""
    return tried <= job.retry and (not job.retry_when or kind in job.retry_when)


def status_of(states: Collection[State]) -> int:
    """Return the exit status of a pipeline: 1 if a job failed that must not."""
    return 1 if State.FAILED in states else 0
