"""A job of a pipeline, ready to run, as the other modules of this room pass it on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Need(NamedTuple):
    """A job that another one waits for, with or without its artifacts; ``optional`` if it may be missing."""

    job: str
    artifacts: bool = True
    optional: bool = False


class Artifacts(NamedTuple):
    """What is kept of a job's files: patterns of paths from the project's folder; ``when`` is as GitLab's."""

    paths: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    untracked: bool = False
    when: str = "on_success"
    dotenv: tuple[str, ...] = ()
    reports: tuple[str, ...] = ()


class CiJob(NamedTuple):
    """A job ready to run: everything inherited, merged and expanded.

    ``services`` are tables as in the payload of a job. ``variables`` are all that the scripts see, in order;
    ``ignored`` are keywords that mean nothing locally, ``warnings`` what a person should know of the job. ``when`` is
    "never" if its rules keep it out of the pipeline. ``allow_failure`` tells whether any failure is allowed,
    ``allowed_codes`` which exit statuses are. ``needs`` and ``dependencies`` are None where the job does not say.
    ``problem`` tells what keeps it from running as things are before any job has run.
    """

    name: str
    stage: str
    image: str | None
    services: tuple[Mapping[str, Any], ...]
    variables: tuple[tuple[str, str], ...]
    before_script: tuple[str, ...]
    script: tuple[str, ...]
    after_script: tuple[str, ...]
    ignored: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    when: str = "on_success"
    allow_failure: bool = False
    allowed_codes: frozenset[int] = frozenset()
    needs: tuple[Need, ...] | None = None
    dependencies: tuple[str, ...] | None = None
    artifacts: Artifacts | None = None
    retry: int = 0
    retry_when: frozenset[str] = frozenset()
    timeout_seconds: int | None = None
    problem: str = ""
