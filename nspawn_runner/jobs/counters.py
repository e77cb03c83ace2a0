"""Counters of jobs and stages that outlive processes and reboots: a JSON file in the state folder."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from .results import CANCELED, FAILED, SUCCESS, SYSTEM_FAILURE

RESULTS = (SUCCESS, FAILED, CANCELED, SYSTEM_FAILURE)
STAGES = ("config", "prepare", "run", "cleanup")
# gitlab-runner retries a prepare that failed because of the host after 3 s, each time with a cleanup in between
# (executors/custom): the job has ended only if no retry follows.
RETRY_SECONDS = 600
# Seconds: a time counts in each bucket that is not shorter.
BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
QUEUE = "queue"  # counted with the stages: how long jobs waited for a runner
_TIMES = (*STAGES, QUEUE)
DISK = ("images", "machines", "caches", "builds")


class Counters(NamedTuple):
    """Jobs by result; seconds and number of each stage; since when (epoch seconds) a job has waited for a retry.

    ``buckets`` are how many of a stage's times lie in each of BUCKETS; ``disk`` the bytes that each of DISK took when
    gc counted them last.
    """

    jobs: dict[str, int]
    seconds: dict[str, float]
    stages: dict[str, int]
    waiting: dict[str, float]
    buckets: dict[str, list[int]]
    disk: dict[str, int]


class EndedStage(NamedTuple):
    """A stage that ended: its duration, its result, its job (empty if unknown), and the job's outcome.

    ``outcome`` is the result of the job that a cleanup ends, else empty. ``queued_seconds`` is how long the job waited
    for a runner, None if unknown.
    """

    stage: str
    seconds: float
    result: str
    job: str
    outcome: str
    queued_seconds: float | None = None


def load(path: str) -> Counters:
    """Return the counters in the file ``path``; all 0 if it is missing or malformed."""
    try:
        with open(path, "rb") as file:
            data = json.load(file)
    except (FileNotFoundError, ValueError, RecursionError):
        data = None
    data = data if isinstance(data, dict) else {}
    waiting = data.get("waiting")
    times = waiting if isinstance(waiting, dict) else {}
    return Counters(
        jobs={result: int(_number(data, "jobs", result)) for result in RESULTS},
        seconds={name: _number(data, "seconds", name) for name in _TIMES},
        stages={name: int(_number(data, "stages", name)) for name in _TIMES},
        waiting={job: _number(data, "waiting", job) for job in times},
        buckets={name: _buckets(data, name) for name in _TIMES},
        disk={kind: int(_number(data, "disk", kind)) for kind in DISK if kind in _table(data, "disk")},
    )


def count(counters: Counters, ended: EndedStage, now: float) -> None:
    """Add the ``ended`` stage to ``counters``, at the time ``now`` (epoch seconds).

    A job counts once: when its machine is removed, or when a prepare failed and is not retried.
    """
    if ended.stage in STAGES:
        _count_time(counters, ended.stage, ended.seconds)
    if ended.stage == "prepare" and ended.result == SUCCESS and ended.queued_seconds is not None:  # once for each job
        _count_time(counters, QUEUE, ended.queued_seconds)
    if ended.stage in {"config", "prepare"} and ended.job:
        if ended.result == SYSTEM_FAILURE:
            counters.waiting[ended.job] = now
        elif ended.result != SUCCESS:
            counters.waiting.pop(ended.job, None)
            counters.jobs[ended.result] += 1
        elif ended.stage == "prepare":
            counters.waiting.pop(ended.job, None)
    elif ended.outcome in RESULTS:
        counters.waiting.pop(ended.job, None)
        counters.jobs[ended.outcome] += 1


def _count_time(counters: Counters, name: str, seconds: float) -> None:
    counters.stages[name] += 1
    counters.seconds[name] += seconds
    for number, most in enumerate(BUCKETS):
        counters.buckets[name][number] += seconds <= most


def give_up_waiting(counters: Counters, now: float) -> None:
    """Count the jobs that were not retried in time at ``now`` (epoch seconds), or whose wait began in the future."""
    for job, since in list(counters.waiting.items()):
        if not 0 <= now - since < RETRY_SECONDS:
            del counters.waiting[job]
            counters.jobs[SYSTEM_FAILURE] += 1


def _buckets(data: dict[str, Any], name: str) -> list[int]:
    values = _table(data, "buckets").get(name)
    if not isinstance(values, list) or len(values) != len(BUCKETS):
        return [0] * len(BUCKETS)
    return [value if isinstance(value, int) and 0 <= value < 1e15 else 0 for value in values]


def _table(data: dict[str, Any], name: str) -> dict[str, Any]:
    table = data.get(name)
    return table if isinstance(table, dict) else {}


def _number(data: dict[str, Any], table: str, key: str) -> float:
    value = _table(data, table).get(key)
    return value if isinstance(value, int | float) and 0 <= value < 1e15 else 0
