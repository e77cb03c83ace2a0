"""The job: whose it is comes from facts a project cannot set."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nspawn_runner.errors import Error, HostError
from nspawn_runner.gitlab.job import Job, from_environment, from_payload

PAYLOAD: dict[str, Any] = {
    "id": 4711,
    "token": "glcbt-secret-token",
    "job_info": {"name": "test", "project_id": 12},
    "git_info": {"repo_url": "https://ci-token:secret@gitlab.example.com:8443/group/x.git", "protected": True},
    "runner_info": {"timeout": 3600},
    "variables": [
        {"key": "CI_COMMIT_REF_PROTECTED", "value": "false"},
        {"key": "CI_COMMIT_REF_PROTECTED", "value": "true"},
        {"key": "CI_PROJECT_PATH", "value": "group/x"},
        {"key": "CI_RUNNER_ID", "value": "42"},
    ],
    "image": {"name": "registry.example.com/debian:bookworm"},
}
HOSTILE_IDS = ["", "1;rm -rf /", "../../x", "-x", "1" * 300, " 1", "1\n", "١", "0x1", "1.0"]


def write(tmp_path: Path, content: bytes) -> dict[str, str]:
    file = tmp_path / "payload.json"
    file.write_bytes(content)
    return {"JOB_RESPONSE_FILE": str(file)}


def test_payload_says_everything(tmp_path: Path) -> None:
    environ = write(tmp_path, json.dumps(PAYLOAD).encode())
    assert from_environment(environ) == Job(
        id="4711",
        server="gitlab.example.com:8443",
        project="12",
        protected=True,
        image="registry.example.com/debian:bookworm",
        timeout_seconds=3600,
        project_path="group/x",
        runner=42,
        trusted=True,
    )


def test_variables_of_the_job_do_not_count_where_there_is_a_payload(tmp_path: Path) -> None:
    environ = write(tmp_path, json.dumps(PAYLOAD).encode())
    environ |= {
        "CUSTOM_ENV_CI_JOB_ID": "1",
        "CUSTOM_ENV_CI_JOB_IMAGE": "other",
        "CUSTOM_ENV_CI_PROJECT_ID": "99",
        "CUSTOM_ENV_CI_SERVER_HOST": "elsewhere",
    }
    assert from_environment(environ) == from_environment(write(tmp_path, json.dumps(PAYLOAD).encode()))


def with_variables(*variables: tuple[str, str]) -> dict[str, Any]:
    """Give the payload of an older runner and GitLab, which tells by variables what newer ones have fields for."""
    git = {"repo_url": "https://ci-token:secret@gitlab.example.com/sub/group/x.git"}
    return {**PAYLOAD, "git_info": git, "variables": [{"key": key, "value": value} for key, value in variables]}


PROTECTED, PATH, RUNNER = "CI_COMMIT_REF_PROTECTED", "CI_PROJECT_PATH", "CI_RUNNER_ID"


def test_older_payload_tells_by_variables() -> None:
    job = from_payload(with_variables((PROTECTED, "true"), (PATH, "group/x"), (RUNNER, "42"), (RUNNER, "42")), "f")
    assert (job.protected, job.project_path, job.runner) == (True, "group/x", 42)


@pytest.mark.parametrize("first", [True, False], ids=["its own first", "GitLab's first"])
def test_a_project_that_sets_such_a_variable_gains_nothing(first: bool) -> None:
    own = [(PROTECTED, "true"), (PATH, "x"), (RUNNER, "1")]
    true = [(PROTECTED, "false"), (PATH, "group/x"), (RUNNER, "2")]
    job = from_payload(with_variables(*(own + true if first else true + own)), "f")
    assert (job.protected, job.project_path, job.runner) == (False, "", None)


@pytest.mark.parametrize("path", ["other/x", "x", "roup/x", "", "/group/x"])
def test_a_path_that_the_repository_does_not_have_is_none(path: str) -> None:
    assert from_payload(with_variables((PATH, path)), "f").project_path == ""


def test_newer_payload_tells_by_itself() -> None:
    """GitLab 18.4 and 18.5; variables of the same meaning do not count then."""
    payload = with_variables((PROTECTED, "true"), (PATH, "sub/group/x"))
    payload |= {"job_info": {"project_full_path": "group/x"}, "git_info": {**payload["git_info"], "protected": False}}
    job = from_payload(payload, "f")
    assert (job.protected, job.project_path) == (False, "group/x")


def test_older_runner_without_payload() -> None:
    environ = {
        "CUSTOM_ENV_CI_JOB_ID": "7",
        "CUSTOM_ENV_CI_JOB_IMAGE": "sid",
        "CUSTOM_ENV_CI_PROJECT_ID": "3",
        "CUSTOM_ENV_CI_SERVER_HOST": "gitlab.example.com",
        "CUSTOM_ENV_CI_JOB_TIMEOUT": "60",
    }
    assert from_environment(environ) == Job("7", "gitlab.example.com", "3", False, "sid", 60)


@pytest.mark.parametrize("job_id", HOSTILE_IDS)
def test_hostile_ids_are_refused_from_every_source(job_id: str) -> None:
    calls: list[Callable[[], Job]] = [
        lambda: from_environment({}, job_id=job_id),
        lambda: from_environment({"CUSTOM_ENV_CI_JOB_ID": job_id}),
        lambda: from_payload({**PAYLOAD, "id": job_id}, "f"),
    ]
    for call in calls:
        with pytest.raises(HostError) as raised:
            call()
        assert 1 <= len(raised.value.lines()) <= 3
        assert all("\n" not in line and len(line) < 300 for line in raised.value.lines())


BROKEN = [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b"{}", b'{"id": {}}']


@pytest.mark.parametrize("content", BROKEN)
def test_broken_payload_is_an_error_that_shows_nothing_of_it(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(HostError):
        from_environment(write(tmp_path, content))


def test_payload_that_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", "/dev/zero", "a\0b"):
        with pytest.raises(HostError, match="payload"):
            from_environment({"JOB_RESPONSE_FILE": str(path)})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


# In a fresh checkout hypothesis first makes its tables of Unicode, which takes seconds.
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(PAYLOAD, JSON)))
def test_any_payload_gives_a_job_or_an_error(payload: dict[str, Any]) -> None:
    try:
        job = from_payload(payload, "f")
    except Error as error:
        lines = error.lines()
    else:
        lines = [job.id]
        assert job.id.isdigit()
    assert 1 <= len(lines) <= 3
