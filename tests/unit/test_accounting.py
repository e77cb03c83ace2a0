"""What a stage's entry says: whose fault it was, and nothing that a job may have said."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from journal_datagrams import fields_of

from nspawn_runner.errors import Cancelled, Error, HostError, JobError, UsageError
from nspawn_runner.gitlab.job import Job
from nspawn_runner.host import journal
from nspawn_runner.host.process import CommandError
from nspawn_runner.jobs import accounting

SECRET = "hunter2"  # noqa: S105


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "socket"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(journal.SOCKET)
        made.setblocking(False)
        yield made


ENDS = [
    (JobError(SECRET), "failed", "5", "failed after 0.0 s"),
    (HostError("disk full", facts=SECRET), "system failure", "3", "met a system failure after 0.0 s: disk full"),
    (CommandError(["cp", SECRET], 1, SECRET.encode()), "system failure", "3", "met a system failure after 0.0 s"),
    (UsageError(SECRET), "system failure", "3", "met a system failure after 0.0 s"),
    (Error(SECRET), "system failure", "3", "met a system failure after 0.0 s"),
    (BrokenPipeError(32, SECRET), "system failure", "3", "met a system failure after 0.0 s"),
    (KeyError(SECRET), "system failure", "3", "met a system failure after 0.0 s"),
    (Cancelled(15), "canceled", "5", "was canceled after 0.0 s"),
]


@pytest.mark.parametrize(("error", "result", "priority", "ending"), ENDS)
def test_errors_are_blamed_and_passed_on(
    entries: socket.socket, error: BaseException, result: str, priority: str, ending: str
) -> None:
    stage = accounting.StageEntry("run", "build_script")
    stage.about(Job("4711", project="7", image="debian\nx"))
    with pytest.raises(type(error)), stage:
        raise error
    entry = fields_of(entries.recv(65536))
    assert entry.pop("MESSAGE").startswith("job 4711: run build_script ")
    assert float(entry.pop("NSPAWN_RUNNER_DURATION")) < 5
    assert entry == {
        "PRIORITY": priority,
        "SYSLOG_IDENTIFIER": "nspawn-runner",
        "NSPAWN_RUNNER_JOB": "4711",
        "NSPAWN_RUNNER_PROJECT": "7",
        "NSPAWN_RUNNER_IMAGE": "debian\nx",
        "NSPAWN_RUNNER_STAGE": "run",
        "NSPAWN_RUNNER_SCRIPT": "build_script",
        "NSPAWN_RUNNER_RESULT": result,
    }
    text = stage.sentence(result, 0.04, error)
    assert text.endswith(ending)
    assert SECRET not in text


@pytest.mark.parametrize(("status", "message"), [(0, "prepare succeeded"), (1, "prepare failed")])
def test_a_stage_without_an_error(entries: socket.socket, status: int, message: str) -> None:
    with accounting.StageEntry("prepare") as entry:
        entry.status = status
    assert fields_of(entries.recv(65536))["MESSAGE"].startswith(message)
    with pytest.raises(BlockingIOError):
        entries.recv(65536)


def test_a_stage_that_failed_before_it_knew_its_job(entries: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUSTOM_ENV_CI_JOB_ID", "12")
    with pytest.raises(HostError), accounting.StageEntry("cleanup"):
        raise HostError("the settings are wrong")
    assert fields_of(entries.recv(65536))["NSPAWN_RUNNER_JOB"] == "12"


def test_what_is_no_job_is_not_quoted(entries: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUSTOM_ENV_CI_JOB_ID", SECRET)
    with pytest.raises(HostError), accounting.StageEntry("config"):
        raise HostError(f"{SECRET} is not a job id")
    entry = entries.recv(65536)
    assert SECRET.encode() not in entry
    assert "NSPAWN_RUNNER_JOB" not in fields_of(entry)
