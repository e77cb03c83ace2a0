"""Choose the files that a job's ``artifacts`` keep, and read the variables that it hands on in a dotenv report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from . import variables as ci_variables
from .ci_job import Artifacts
from .path_patterns import PathPattern
from .regex_syntax import RegexError

MAX_DOTENV_BYTES = 5 * 1024  # GitLab's limits: https://docs.gitlab.com/ci/yaml/artifacts_reports/#artifactsreportsdotenv
MAX_DOTENV_VARIABLES = 150
MAX_FILES = 200_000


class ChosenFiles(NamedTuple):
    """Paths from the project's folder, and what a person should know: patterns that match nothing."""

    paths: tuple[str, ...]
    reports: tuple[str, ...]
    dotenv: tuple[str, ...]
    notes: tuple[str, ...]


def due(artifacts: Artifacts, *, failed: bool) -> Artifacts | None:
    """Return what is kept after the script ``failed`` or not: reports always, the rest as ``when`` says; or None.

    Source: GitLab's BuildRunnerPresenter, create_reports.
    """
    if artifacts.when in {"always", "on_failure" if failed else "on_success"}:
        return artifacts
    reports = artifacts._replace(paths=(), untracked=False)
    return reports if reports.reports or reports.dotenv else None


def choose(
    artifacts: Artifacts, there: Iterable[str], untracked: Iterable[str], variables: Mapping[str, str]
) -> ChosenFiles:
    """Return which of the files ``there`` are kept; variables in the patterns are replaced."""
    paths = sorted({path for each in there if (path := _clean(each))})
    notes: list[str] = []
    kept = {
        path
        for pattern in artifacts.paths
        for path in _matching(pattern, paths, variables, notes, "artifacts: paths")
    }
    if artifacts.untracked:
        kept |= {path for each in untracked if (path := _clean(each))} & set(paths)
    for pattern in artifacts.exclude:
        kept -= set(_matching(pattern, paths, variables, [], "artifacts: exclude", below=False))
    reports = {path for pattern in artifacts.reports for path in _matching(pattern, paths, variables, notes, "reports")}
    dotenv = [path for pattern in artifacts.dotenv for path in _matching(pattern, paths, variables, notes, "dotenv")]
    return ChosenFiles(tuple(sorted(kept)), tuple(sorted(reports)), tuple(dict.fromkeys(dotenv)), tuple(notes))


def dotenv_variables(content: bytes) -> tuple[dict[str, str], list[str]]:
    """Return the variables in a dotenv report, and what is wrong with it.

    A line is NAME=VALUE; quotes stay, as on GitLab (its ParseDotenvArtifactService).
    """
    if len(content) > MAX_DOTENV_BYTES:
        return {}, [f"the dotenv report is larger than {MAX_DOTENV_BYTES} bytes and is not used"]
    found: dict[str, str] = {}
    wrong: list[str] = []
    for number, line in enumerate(content.decode(errors="replace").split("\n"), start=1):
        name, equals, value = line.partition("=")
        name, value = name.strip(), value.strip()
        if not line.strip():
            continue
        if not equals or ci_variables.name_problem(name) or "\0" in value:
            wrong.append(f"line {number} of the dotenv report is no variable")
        elif len(found) >= MAX_DOTENV_VARIABLES:
            return found, [*wrong, f"the dotenv report has more than {MAX_DOTENV_VARIABLES} variables"]
        else:
            found[name] = value
    return found, wrong


def _clean(path: str) -> str:
    found = path.removeprefix("./").strip("/")
    return "" if found == "." or ".." in found.split("/") else found


def _matching(
    pattern: str,
    paths: Sequence[str],
    variables: Mapping[str, str],
    notes: list[str],
    keyword: str,
    *,
    below: bool = True,
) -> list[str]:
    expanded = ci_variables.expand(pattern, variables)
    project_dir = variables.get("CI_PROJECT_DIR", "")
    if project_dir and expanded.startswith(f"{project_dir}/"):
        expanded = expanded[len(project_dir) + 1 :]
    cleaned = re.sub(r"(^|/)\./", r"\1", expanded).strip("/")
    if expanded.startswith("/") or not cleaned or ".." in cleaned.split("/"):
        notes.append(f"{keyword}: {pattern} is not in the project's folder")
        return []
    if cleaned == ".":
        return list(paths)
    try:
        compiled = PathPattern(cleaned, below=below, ends_deep=True)
        found = [path for path in paths if compiled.matches(path)]
    except RegexError as error:
        notes.append(f"{keyword}: the pattern {pattern} cannot be used: {error}")
        return []
    if not found:
        notes.append(f"{keyword}: no files match {pattern}")
    return found
