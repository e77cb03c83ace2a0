"""The keywords of a job that say how it fits into a pipeline, checked and in plain form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from . import durations, matrix
from .ci_job import Artifacts, Need
from .values import Node, kind, wrong

MAX_NEEDS = 50  # GitLab's default limit
MAX_RETRIES = 2
MAX_TIMEOUT = 30 * 86400  # seconds; GitLab's limit is a month
WHEN = ("on_success", "on_failure", "always", "manual", "delayed", "never")
ARTIFACTS = frozenset({"paths", "exclude", "untracked", "when", "reports", "name", "expire_in", "expose_as", "public",
                       "access"})  # fmt: skip
RETRY_WHEN = frozenset({
    "always", "unknown_failure", "script_failure", "api_failure", "stuck_or_timeout_failure", "runner_system_failure",
    "runner_unsupported", "stale_schedule", "job_execution_timeout", "archived_failure", "unmet_prerequisites",
    "scheduler_failure", "data_integrity_failure",
})  # fmt: skip


class AllowedFailure(NamedTuple):
    """Whether any failure of a job is allowed, and which exit statuses are."""

    any: bool
    codes: frozenset[int] = frozenset()


class Retry(NamedTuple):
    """How often a job is tried again, and after which failures; none named are all."""

    most: int = 0
    when: frozenset[str] = frozenset()


def when(job: Mapping[str, Node]) -> str:
    """Return ``when`` of the job; raises JobError for a word that GitLab does not know."""
    node = job.get("when")
    if node is None or node.value is None:
        return "on_success"
    if node.value not in WHEN[:-1]:
        raise wrong(node, f'"when" must be one of: {", ".join(WHEN[:-1])}')
    return str(node.value)


def allow_failure(job: Mapping[str, Node]) -> AllowedFailure | None:
    """Return ``allow_failure`` of the job, None where it does not say; raises JobError."""
    node = job.get("allow_failure")
    if node is None or node.value is None:
        return None
    if isinstance(node.value, bool):
        return AllowedFailure(node.value)
    codes = node.value.get("exit_codes") if isinstance(node.value, dict) and len(node.value) == 1 else None
    listed = codes.value if codes is not None and isinstance(codes.value, list) else [codes]
    numbers = [each.value for each in listed if each is not None and _is_number(each)]
    if len(numbers) < len(listed):
        raise wrong(node, '"allow_failure" must be true, false or a mapping with exit_codes: numbers')
    return AllowedFailure(False, frozenset(int(str(number)) for number in numbers))


def needs(node: Node | None) -> tuple[tuple[Need, ...] | None, tuple[str, ...]]:
    """Return what the job waits for and warnings about what is not here; raises JobError."""
    if node is None or node.value is None:
        return None, ()
    if not isinstance(node.value, list):
        raise wrong(node, f'"needs" is {kind(node)}; it must be a list')
    found: list[Need] = []
    warnings: list[str] = []
    for item in _flat(node):
        if isinstance(item.value, str) and item.value:
            found.append(Need(item.value))
        elif isinstance(item.value, dict):
            made = _need(item, item.value)
            found += made
            if not made:
                warnings.append(f"needs artifacts of {_elsewhere(item.value)}, which are not here")
        else:
            raise wrong(item, f'an entry of "needs" is {kind(item)}; it must be a job')
    if len(found) > MAX_NEEDS * matrix.MAX_PARALLEL:
        raise wrong(node, '"needs" names too many jobs')
    return tuple(found), tuple(warnings)


def _need(item: Node, parts: Mapping[str, Node]) -> list[Need]:
    for key, node in parts.items():
        if key not in {"job", "artifacts", "optional", "parallel", "project", "ref", "pipeline"}:
            raise wrong(node, f'an entry of "needs" has an unknown keyword "{key}"')
    for key in ("artifacts", "optional"):
        if key in parts and not isinstance(parts[key].value, bool):
            raise wrong(parts[key], f'"{key}" of "needs" must be true or false')
    if "project" in parts or "pipeline" in parts:
        return []
    if "job" not in parts or not isinstance(parts["job"].value, str):
        raise wrong(item, 'an entry of "needs" names no job')
    base = Need(
        parts["job"].value,
        bool(parts["artifacts"].value) if "artifacts" in parts else True,
        bool(parts["optional"].value) if "optional" in parts else False,
    )
    parallel = parts.get("parallel")
    if parallel is None:
        return [base]
    return [base._replace(job=each.name) for each in matrix.instances(base.job, parallel)]


def _elsewhere(parts: Mapping[str, Node]) -> str:
    what = parts.get("project") or parts.get("pipeline")
    return f"{'the project' if 'project' in parts else 'the pipeline'} {what.value if what else ''}"


def dependencies(node: Node | None) -> tuple[str, ...] | None:
    """Return the jobs whose artifacts the job takes, None where it does not say; raises JobError."""
    return None if node is None or node.value is None else _texts("dependencies", node)


def artifacts(node: Node | None) -> Artifacts | None:
    """Return what is kept of the job's files, None for nothing; raises JobError."""
    if node is None or node.value is None:
        return None
    if not isinstance(node.value, dict):
        raise wrong(node, f'"artifacts" is {kind(node)}; it must be a mapping')
    parts = {key: part for key, part in node.value.items() if part.value is not None}
    for key, part in parts.items():
        if key not in ARTIFACTS:
            raise wrong(part, f'"artifacts" has an unknown keyword "{key}"')
    kept = parts.get("when")
    if kept is not None and kept.value not in {"on_success", "on_failure", "always"}:
        raise wrong(kept, '"artifacts: when" must be on_success, on_failure or always')
    untracked = parts.get("untracked")
    if untracked is not None and not isinstance(untracked.value, bool):
        raise wrong(untracked, '"artifacts: untracked" must be true or false')
    reports = parts.get("reports")
    if reports is not None and not isinstance(reports.value, dict):
        raise wrong(reports, f'"artifacts: reports" is {kind(reports)}; it must be a mapping')
    named = reports.value if reports is not None and isinstance(reports.value, dict) else {}
    listed = {
        key: _texts(f"artifacts: reports: {key}", part)
        for key, part in named.items()
        if isinstance(part.value, (str, list))
    }
    return Artifacts(
        _texts("artifacts: paths", parts["paths"]) if "paths" in parts else (),
        _texts("artifacts: exclude", parts["exclude"]) if "exclude" in parts else (),
        bool(untracked.value) if untracked else False,
        str(kept.value) if kept else "on_success",
        listed.pop("dotenv", ()),
        tuple(path for paths in listed.values() for path in paths),
    )


def retry(node: Node | None) -> Retry:
    """Return how often the job is tried again, never without ``max`` (GitLab's AutoRetry); raises JobError."""
    if node is None or node.value is None:
        return Retry()
    parts = node.value if isinstance(node.value, dict) else {"max": node}
    for key, part in parts.items():
        if key not in {"max", "when", "exit_codes"}:
            raise wrong(part, f'"retry" has an unknown keyword "{key}"')
    most = parts.get("max")
    if most is not None and not (_is_number(most) and 0 <= int(str(most.value)) <= MAX_RETRIES):
        raise wrong(most, f'"retry" must be a number from 0 to {MAX_RETRIES}')
    words = _texts("retry: when", parts["when"]) if "when" in parts else ()
    for word in words:
        if word not in RETRY_WHEN:
            raise wrong(parts["when"], f'"retry: when" does not know {word}')
    return Retry(int(str(most.value)) if most else 0, frozenset(words) - {"always"})


def timeout(node: Node | None) -> int | None:
    """Return the job's time limit in seconds, None where it does not say; raises JobError."""
    if node is None or node.value is None:
        return None
    found = durations.seconds(str(node.value)) if isinstance(node.value, (str, int)) else None
    if not found:
        raise wrong(node, '"timeout" is no time, such as 1h 30m')
    if found >= MAX_TIMEOUT:
        raise wrong(node, '"timeout" must be less than a month')
    return found


def _is_number(node: Node) -> bool:
    return isinstance(node.value, int) and not isinstance(node.value, bool)


def _flat(node: Node, level: int = 0) -> list[Node]:
    if isinstance(node.value, list) and level <= 10:
        return [item for each in node.value for item in _flat(each, level + 1)]
    return [node]


def _texts(keyword: str, node: Node) -> tuple[str, ...]:
    found = []
    for item in _flat(node):
        if not isinstance(item.value, str):
            raise wrong(item, f'an entry of "{keyword}" is {kind(item)}; it must be a string')
        if "\0" in item.value:
            raise wrong(item, f'an entry of "{keyword}" has a NUL character')
        found.append(item.value)
    return tuple(found)
