"""All jobs of a pipeline for one event: each ready to run, or why it is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..errors import Error, JobError
from ..host import signals
from . import job_reader
from .ci_file import MAX_JOBS, Pipeline
from .ci_job import CiJob
from .event import Event
from .matrix import Instance
from .values import NotHere


class RosterEntry(NamedTuple):
    """A job of the pipeline; without ``job`` it cannot be read, and ``problem`` says why.

    ``only_here`` tells that GitLab could run it. ``needs`` and ``dependencies`` are names as the job has them.
    """

    instance: Instance
    stage: str
    job: CiJob | None = None
    problem: str = ""
    only_here: bool = False

    @property
    def name(self) -> str:
        """Return the job's name in the pipeline."""
        return self.instance.name

    @property
    def is_in(self) -> bool:
        """Return whether its rules let it into the pipeline."""
        return self.job is None or self.job.when != "never"


class Roster:
    """The jobs in the order of their stages, and the stages."""

    def __init__(self, entries: Iterable[RosterEntry], stages: Sequence[str]) -> None:
        self.stages = tuple(stages)
        self._ranks = {stage: number for number, stage in enumerate(stages)}
        self.entries = tuple(sorted(entries, key=self.rank))
        self._called: dict[str, list[RosterEntry]] = {}
        for entry in self.entries:
            self._called.setdefault(entry.instance.base, []).append(entry)
        self._called |= {entry.name: [entry] for entry in self.entries}

    def called(self, name: str) -> list[RosterEntry]:
        """Return the jobs that ``name`` means: the one of that name, or all that a job of the file stands for."""
        return self._called.get(name, [])

    def rank(self, entry: RosterEntry) -> int:
        """Return the place of the job's stage; after all others for a stage that there is not."""
        return self._ranks.get(entry.stage, len(self.stages))

    def needed(self, entry: RosterEntry) -> list[RosterEntry]:
        """Return the jobs of the pipeline that must be over before this one: its needs, else all earlier stages."""
        if entry.job is not None and entry.job.needs is not None:
            return [each for need in entry.job.needs for each in self.called(need.job) if each.is_in]
        return [each for each in self.entries if each.is_in and self.rank(each) < self.rank(entry)]

    def giving(self, entry: RosterEntry) -> list[RosterEntry]:
        """Return the jobs whose artifacts this one gets: of its dependencies or needs, else of all earlier stages.

        https://docs.gitlab.com/ci/yaml/#dependencies and #needsartifacts.
        """
        job = entry.job
        if job is not None and job.needs is not None:
            named = [need.job for need in job.needs if need.artifacts]
            if job.dependencies is not None:
                named = [name for name in job.dependencies if name in {need.job for need in job.needs}]
        elif job is not None and job.dependencies is not None:
            named = list(job.dependencies)
        else:
            return [each for each in self.entries if each.is_in and self.rank(each) < self.rank(entry)]
        return [each for name in named for each in self.called(name) if each.is_in]

    def with_needs(self, chosen: Iterable[RosterEntry]) -> list[RosterEntry]:
        """Return ``chosen`` and all that they need, directly or not, in the order of the roster."""
        wanted: dict[str, RosterEntry] = {}
        waiting = list(chosen)
        while waiting:
            entry = waiting.pop()
            if entry.name not in wanted:
                wanted[entry.name] = entry
                waiting += self.needed(entry)
        return [entry for entry in self.entries if entry.name in wanted]


def make(
    pipeline: Pipeline,
    event: Event,
    predefined: Mapping[str, str],
    given: Mapping[str, str],
    image: str | None = None,
) -> Roster:
    """Return the jobs of ``pipeline`` for ``event``; raises JobError for what concerns all of them, and Cancelled."""
    stages = pipeline.stages()
    reader = pipeline.reader(event, predefined, given, image)._replace(is_early=True)
    found: list[RosterEntry] = []
    for base in pipeline.jobs:
        found += _entries(pipeline, base, reader)
        if len(found) > MAX_JOBS:
            raise JobError(f"{pipeline.file} makes more than {MAX_JOBS} jobs")
    return Roster(found, stages)


def _entries(pipeline: Pipeline, base: str, reader: job_reader.Surroundings) -> Sequence[RosterEntry]:
    stage = job_reader.DEFAULT_STAGE
    try:
        stage = job_reader.stage_of(job_reader.keywords_of(pipeline.resolver(), base))
        instances = pipeline.instances_of(base)
    except Error as error:
        return [RosterEntry(Instance(base, base), stage, problem=_one_line(error))]
    found = []
    for instance in instances:
        signals.check()  # there may be thousands, each with much to read
        try:
            found.append(RosterEntry(instance, stage, pipeline.read(instance, reader)))
        except NotHere as error:
            found.append(RosterEntry(instance, stage, problem=_one_line(error), only_here=True))
        except Error as error:
            found.append(RosterEntry(instance, stage, problem=_one_line(error)))
    return found


def _one_line(error: Error) -> str:
    return f"{error.what} ({error.facts})" if error.facts else error.what
