"""What GitLab would not make a pipeline of, in one line each.

Sources: lib/gitlab/ci/yaml_processor.rb, its config/entry, and the error messages that https://docs.gitlab.com/ci/
describes for each keyword.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..errors import Error
from . import job_reader
from .ci_file import Pipeline
from .event import Event
from .roster import Roster, RosterEntry
from .values import Node

MAX_NAME = 255
_NOT_THERE = "which does not exist"


def problems(
    pipeline: Pipeline, roster: Roster, event: Event, predefined: Mapping[str, str], given: Mapping[str, str]
) -> list[str]:
    """Return a line for each mistake in ``pipeline``, none if GitLab would take it."""
    found = [f'{node.file}:{node.line}: "{name}" is no keyword, and no job' for name, node in pipeline.strays.items()]
    if not roster.entries:
        return [*found, f"{pipeline.file}: there is no job that can run"]
    found += [entry.problem for entry in roster.entries if entry.problem and not entry.only_here]
    for entry in roster.entries:
        found += _of_job(pipeline, roster, entry)
    if pipeline.missing:  # what an include that was left out has in it, nobody knows here
        found = [line for line in found if not line.endswith(_NOT_THERE)]
    found += _circles(roster)
    if not found:
        found += _for_event(pipeline, roster, event, predefined, given)
    return list(dict.fromkeys(found))


def _of_job(pipeline: Pipeline, roster: Roster, entry: RosterEntry) -> Iterator[str]:
    try:
        keywords = job_reader.keywords_of(pipeline.resolver(), entry.instance.base)
    except Error:
        return  # it is among the problems already
    where = pipeline.root[entry.instance.base]
    place = f"{where.file}:{where.line}: the job {entry.name}"
    if len(entry.name) > MAX_NAME:
        yield f"{where.file}:{where.line}: a job's name has more than {MAX_NAME} characters"
    if entry.stage not in roster.stages:
        yield f"{place}: the stage {entry.stage} is not one of: {', '.join(roster.stages)}"
    yield from _needs(roster, entry, place)
    yield from _dependencies(roster, entry, place)
    yield from _others(roster, keywords, place)


def _needs(roster: Roster, entry: RosterEntry, place: str) -> Iterator[str]:
    for need in (entry.job.needs if entry.job else None) or ():
        there = roster.called(need.job)
        if not there and not need.optional:
            yield f"{place}: needs {need.job}, {_NOT_THERE}"
        elif any(each.name == entry.name for each in there):
            yield f"{place}: needs itself"
        elif any(roster.rank(each) > roster.rank(entry) for each in there):
            yield f"{place}: needs {need.job}, which is in a later stage"
        elif entry.is_in and there and not need.optional and not any(each.is_in for each in there):
            yield f"{place}: needs {need.job}, which its rules keep out of this pipeline; optional: true allows it"


def _dependencies(roster: Roster, entry: RosterEntry, place: str) -> Iterator[str]:
    named = (entry.job.dependencies if entry.job else None) or ()
    needs = entry.job.needs if entry.job else None
    for name in named:
        there = roster.called(name)
        if not there:
            yield f"{place}: depends on {name}, {_NOT_THERE}"
        elif needs is not None and needs and all(need.job != name for need in needs):
            yield f"{place}: depends on {name}, which is not among its needs"
        elif needs is None and any(roster.rank(each) >= roster.rank(entry) for each in there):
            yield f"{place}: depends on {name}, which is not in an earlier stage"


def _others(roster: Roster, keywords: Mapping[str, Node], place: str) -> Iterator[str]:
    rules = keywords.get("rules")
    if rules is not None and rules.value == []:
        yield f"{place}: its rules are empty, so it is in no pipeline"
    when = keywords.get("when")
    delayed = when is not None and when.value == "delayed"
    if delayed and "start_in" not in keywords:
        yield f"{place}: when: delayed needs start_in"
    if "start_in" in keywords and not delayed and rules is None:
        yield f"{place}: start_in is only for when: delayed"
    environment = keywords.get("environment")
    table = environment.value if environment is not None and isinstance(environment.value, dict) else {}
    stop = table.get("on_stop")
    if stop is not None and not roster.called(str(stop.value)):
        yield f"{place}: on_stop names {stop.value}, {_NOT_THERE}"


def _circles(roster: Roster) -> list[str]:
    """Return a line for jobs that wait for each other."""
    waits = {
        entry.name: {each.name for need in entry.job.needs for each in roster.called(need.job)} - {entry.name}
        for entry in roster.entries
        if entry.job is not None and entry.job.needs
    }
    # Take away again and again what waits for nothing that is left.
    while free := [name for name, others in waits.items() if not others & waits.keys()]:
        for name in free:
            del waits[name]
    return [f"jobs need each other in a circle: {', '.join(sorted(waits)[:10])}"] if waits else []


def _for_event(
    pipeline: Pipeline, roster: Roster, event: Event, predefined: Mapping[str, str], given: Mapping[str, str]
) -> list[str]:
    try:
        allowed = pipeline.workflow(event, predefined, given).allowed
    except Error as error:
        return [error.what]
    if not allowed:
        return [f"workflow: its rules make no pipeline for a {event.described()}"]
    there = [entry for entry in roster.entries if entry.is_in]
    if not there:
        return [f"no job is in a pipeline for a {event.described()}"]
    if all(entry.stage in {".pre", ".post"} for entry in there):
        return [f"a pipeline for a {event.described()} has only jobs of .pre and .post"]
    return []
