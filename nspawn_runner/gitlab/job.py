"""The job that a stage is called for: from the runner's payload if there is one, else from the environment.

Every ``CUSTOM_ENV_CI_*`` variable can be set by the job itself; ``JOB_RESPONSE_FILE`` (gitlab-runner >= 14.1) cannot.
Fields and versions: gitlab-runner's ``common/spec`` and ``executors/custom/custom.go``.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterable, Mapping

from ..errors import HostError, JobError, printable
from ..light_typing import Any, NamedTuple
from ..names import is_job_id

MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
LOCAL = "local"
_LIMIT_PREFIX = "NSPAWN_"  # of the variables by which a job asks for limits: settings.amounts.JOB_VARIABLES
_TOO_LARGE = 1 << 40  # for GitLab's numbers; systemd does not accept much longer times
_MAX_SERVER = 100  # characters, since a folder's name begins with them


class Job(NamedTuple):
    """What we need to know about a job; ``image`` is what it asks for, or empty.

    ``server`` is the GitLab server's host, ``local`` for a job started by hand, or empty where it is not known.
    ``project`` is the project's numeric id, ``protected`` whether its ref is; ``timeout_seconds`` is None if unknown;
    ``services`` is what it says of services, and with any ``variables`` what the payload says of its variables, both
    for gitlab.service_requests to read. ``trusted`` tells whether no project can have made this up;
    ``project_path`` (group/project) and the runner's id are empty and None where that cannot be said of them.
    ``limits_asked`` are its variables that begin with NSPAWN_, as it wrote them; ``steps`` are the names of its
    scripts in their order, none where they are not known. ``queued_seconds`` is how long it waited for a runner, None
    where GitLab does not say so.
    """

    id: str
    server: str = ""
    project: str = ""
    protected: bool = False
    image: str = ""
    timeout_seconds: int | None = None
    services: Any = None
    project_path: str = ""
    runner: int | None = None
    trusted: bool = False
    limits_asked: Mapping[str, str] = {}
    steps: tuple[str, ...] = ()
    variables: Any = None
    queued_seconds: float | None = None


def from_environment(environ: Mapping[str, str], *, job_id: str | None = None) -> Job:
    """Return the job that the runner calls us for, or the job ``job_id`` of a call by hand.

    Raises HostError for a missing or malformed id or an invalid payload, JobError for an image without a name.
    """
    if job_id is not None:
        return Job(checked_id(job_id, "--id"), server=LOCAL)
    payload = environ.get("JOB_RESPONSE_FILE", "")
    if payload:
        return from_payload(_read_payload(payload), payload)
    return _from_variables(environ)


def made_up_id(number: int = 0) -> str:
    """Return an id for a job that GitLab does not know: the time, then our process's number and the job's ``number``.

    Jobs that one process starts in the same second have different numbers, below 1000. A shell can count with it.
    """
    return f"{int(time.time()) % 10**8}{os.getpid():07d}{number:03d}"


def checked_id(text: str, source: str) -> str:
    """Return ``text`` if it is a job's id (1 to 20 digits), else raise a HostError that names ``source``."""
    if not text:
        raise HostError("there is no job id", advice="call this from gitlab-runner, or give one: --id 1")
    if not is_job_id(text):
        raise HostError(f"{source} is not a job id: '{printable(text, 60)}'", advice="a job id is 1 to 20 digits")
    return text


def from_payload(data: Any, file: str) -> Job:
    """Return the job in ``data``, the parsed JSON of the runner's payload ``file``; raises HostError and JobError."""
    if not isinstance(data, dict):
        raise HostError(f"the job's payload {printable(file)} is not a JSON object")
    variables = _undisputed(data.get("variables"))
    git = _table(data, "git_info")
    info = _table(data, "job_info")
    project = info.get("project_id")
    runner = variables.get("CI_RUNNER_ID", "")
    timeout, queued = _table(data, "runner_info").get("timeout"), info.get("time_in_queue_seconds")
    image = _table(data, "image").get("name")
    protected = git.get("protected")
    if not isinstance(protected, bool):
        # GitLab < 18.4
        protected = variables.get("CI_COMMIT_REF_PROTECTED") == "true"
    if image is not None and not isinstance(image, str):
        raise JobError("the job's image has no name", advice="write image: NAME in .gitlab-ci.yml")
    return Job(
        id=checked_id(str(data.get("id", "")), "the id in the job's payload"),
        server=_server(git.get("repo_url"), variables.get("CI_SERVER_HOST", "")),
        project=str(project) if type(project) is int and 0 < project < _TOO_LARGE else "",
        protected=protected,
        image=image or "",
        timeout_seconds=timeout if type(timeout) is int and 0 < timeout < _TOO_LARGE else None,
        services=data.get("services") or None,
        variables=data.get("variables") if data.get("services") else None,
        project_path=_project_path(info.get("project_full_path"), git.get("repo_url"), variables),
        runner=int(runner) if is_job_id(runner) else None,
        trusted=True,
        limits_asked=limits_asked(_pairs(data.get("variables"))),
        steps=_steps(data.get("steps")),
        queued_seconds=queued if isinstance(queued, int | float) and 0 <= queued < _TOO_LARGE else None,
    )


def _read_payload(file: str) -> Any:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as opened:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise HostError(f"the job's payload {printable(file)} is not a file")
            content = opened.read(MAX_PAYLOAD_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise HostError(
            f"cannot read the job's payload {printable(file)}: {reason}", advice="JOB_RESPONSE_FILE names it"
        ) from None
    if len(content) > MAX_PAYLOAD_BYTES:
        raise HostError(f"the job's payload {printable(file)} is larger than {MAX_PAYLOAD_BYTES} bytes")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        # Neither the text nor the position is shown: the payload holds tokens.
        raise HostError(f"the job's payload {printable(file)} is not valid JSON", facts=type(error).__name__) from None


def _from_variables(environ: Mapping[str, str]) -> Job:
    """Return the job as an older runner describes it: in variables that the project may have set itself."""
    own = "CUSTOM_ENV_"  # is before the name of each variable of the job
    project = environ.get("CUSTOM_ENV_CI_PROJECT_ID", "")
    timeout = environ.get("CUSTOM_ENV_CI_JOB_TIMEOUT", "")
    return Job(
        id=checked_id(environ.get("CUSTOM_ENV_CI_JOB_ID", ""), "CUSTOM_ENV_CI_JOB_ID"),
        server=_server(None, environ.get("CUSTOM_ENV_CI_SERVER_HOST", "")),
        project=project if is_job_id(project) else "",
        protected=False,
        image=environ.get("CUSTOM_ENV_CI_JOB_IMAGE", ""),
        timeout_seconds=int(timeout) if is_job_id(timeout) and 0 < int(timeout) < _TOO_LARGE else None,
        services=environ.get("CUSTOM_ENV_CI_JOB_SERVICES") or None,
        limits_asked=limits_asked((key[len(own) :], text) for key, text in environ.items() if key.startswith(own)),
    )


def _table(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def _pairs(variables: Any) -> list[tuple[Any, Any]]:
    """Return the keys and values of the payload's ``variables``, of whatever type they are."""
    tables = variables if isinstance(variables, list) else []
    return [(table.get("key"), table.get("value")) for table in tables if isinstance(table, dict)]


def _undisputed(variables: Any) -> dict[str, str]:
    """Return name → value of the payload's variables that have only one value.

    The payload has GitLab's own, beside a project's of the same name. Which comes first depends on which variables
    refer to which (GitLab's ``Gitlab::Ci::Variables::Collection::Sort``), so a second value makes it unknown.
    """
    values: dict[str, set[str]] = {}
    for key, value in _pairs(variables):
        if isinstance(key, str) and isinstance(value, str):
            values.setdefault(key, set()).add(value)
    return {key: found.pop() for key, found in values.items() if len(found) == 1}


def limits_asked(variables: Iterable[tuple[Any, Any]]) -> dict[str, str]:
    """Return those of a job's ``variables`` by which it asks for limits; the last of a name counts, as in scripts."""
    asked = {
        key: value if isinstance(value, str) else ""
        for key, value in variables
        if isinstance(key, str) and key.startswith(_LIMIT_PREFIX)
    }
    return {key: value for key, value in asked.items() if value}


def _steps(steps: Any) -> tuple[str, ...]:
    tables = [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
    return tuple(name for step in tables if isinstance(name := step.get("name"), str) and step.get("script"))


def _project_path(told: Any, repo_url: Any, variables: Mapping[str, str]) -> str:
    """Return the project's path: as ``told`` to gitlab-runner >= 18.5, else if two other fields agree on it."""
    if isinstance(told, str) and told:
        return told
    path = variables.get("CI_PROJECT_PATH", "")
    # If GitLab is in a folder of its host, the URL has that before the path.
    agreed = isinstance(repo_url, str) and repo_url.removesuffix(".git").endswith(f"/{path}") and "/" in path
    return path if agreed else ""


def _server(repo_url: Any, fallback: str) -> str:
    """Return the host (and port) of the GitLab server, from the clone URL without its credentials."""
    host = fallback
    if isinstance(repo_url, str) and "://" in repo_url:
        host = repo_url.partition("://")[2].partition("/")[0].rpartition("@")[2]
    host = host.lower()
    plain = len(host) <= _MAX_SERVER and all(char.isascii() and (char.isalnum() or char in ".:-[]") for char in host)
    return host if plain else ""
