"""The stand-in for gitlab-runner notices what drivers do wrong; shown with tiny drivers, on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Literal

import pytest
from runner import ANCIENT, NEW, OLD, Behaviour, Call, Driver, Event, Job, JobResult, RunnerStandIn, shell_script

ANSWER = """echo '{"builds_dir": "'$FOLDER'/builds", "cache_dir": "/cache", "job_env": {"FROM_CONFIG": "yes"}}'"""
RUN = """bash "$1" || { echo $? > "$BUILD_EXIT_CODE_FILE"; exit "$BUILD_FAILURE_EXIT_CODE"; }"""
FAST = replace(NEW, retry_seconds=0.01, graceful_kill_seconds=0.3, force_kill_seconds=0.2)


class ThisMachine:
    """A host that is the machine of the tests."""

    def popen(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
    ) -> subprocess.Popen[bytes]:
        path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, **(env or {})}
        return subprocess.Popen(argv, env=environment, stdin=stdin, stdout=stdout, stderr=stderr)

    def path(self, inside: str | Path) -> Path:
        return Path(inside)


class Fake:
    """A driver of four lines of shell, and a runner that calls it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def stand_in(
        self,
        *,
        config: str = ANSWER,
        prepare: str = "true",
        run: str = RUN,
        cleanup: str = "true",
        behaviour: Behaviour,
    ) -> RunnerStandIn:
        def stage(text: str) -> list[str]:
            return ["bash", "-c", f"FOLDER={self.folder}\n{text}", "stage"]

        driver = Driver(stage(config), stage(prepare), stage(run), stage(cleanup))
        behaviour = replace(behaviour, temporary_folder=str(self.folder))
        return RunnerStandIn(ThisMachine(), driver, behaviour, folder=str(self.folder))

    def job(self, job: Job | None = None, *, behaviour: Behaviour = FAST, **stages: str) -> JobResult:
        return self.stand_in(behaviour=behaviour, **stages).job(
            job or Job(scripts={"build_script": "echo built"}), timeout_seconds=20
        )


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


def test_a_good_driver_succeeds(fake: Fake) -> None:
    result = fake.job()
    assert result.status == "success", result.message
    assert result.stages == [
        "config", "prepare", "prepare_script", "get_sources", "build_script", "cleanup_file_variables", "cleanup",
    ]  # fmt: skip
    assert result.trace.endswith(b"\nbuilt\n")
    assert result.answer
    assert result.answer["cache_dir"] == "/cache"
    assert [call.verdict for call in result.calls] == ["success"] * 7
    assert not list(fake.folder.glob("custom-executor*"))


def test_the_order_of_all_stages(fake: Fake) -> None:
    names = [
        "prepare_script", "get_sources", "restore_cache", "download_artifacts", "build_script", "step_release",
        "after_script", "archive_cache", "upload_artifacts_on_success", "cleanup_file_variables",
    ]  # fmt: skip
    only_on_failure = ["archive_cache_on_failure", "upload_artifacts_on_failure"]
    scripts = dict.fromkeys([*reversed(names), *only_on_failure], 'mkdir -p "$CI_PROJECT_DIR"')
    assert fake.job(Job(scripts=scripts)).stages[2:-1] == names
    failed = fake.job(Job(scripts={**scripts, "build_script": "exit 3"}))
    assert failed.stages[6:-1] == ["build_script", "after_script", *only_on_failure, "cleanup_file_variables"]


@pytest.mark.parametrize("form", ["subshell", "trap", "plain"])
def test_the_number_of_a_failing_script_arrives(fake: Fake, form: Literal["subshell", "trap", "plain"]) -> None:
    result = fake.job(Job(scripts={"build_script": "exit 42"}), behaviour=replace(FAST, script_form=form))
    assert (result.status, result.exit_code) == ("script_failure", 42)
    assert result.call("build_script").status == 91


@pytest.mark.parametrize(
    ("run", "status", "exit_code", "message"),
    [
        ('exit "$BUILD_FAILURE_EXIT_CODE"', "script_failure", 91, "exit status 91"),
        ('exit "$SYSTEM_FAILURE_EXIT_CODE"', "system_failure", None, "system failure"),
        ("exit 1", "system_failure", None, "unknown exit code 1"),
        ("kill -TERM $$", "system_failure", None, "unknown exit code -15"),
        ('echo what > "$BUILD_EXIT_CODE_FILE"; exit 91', "system_failure", None, "not an integer"),
        (': > "$BUILD_EXIT_CODE_FILE"; exit 91', "system_failure", None, "not an integer"),
        ("exec /nonexistent", "system_failure", None, "unknown exit code 127"),
    ],
)
def test_exit_statuses(fake: Fake, run: str, status: str, exit_code: int | None, message: str) -> None:
    result = fake.job(run=run)
    assert (result.status, result.exit_code) == (status, exit_code)
    assert message in result.message


def test_a_stale_exit_code_is_believed(fake: Fake) -> None:
    run = '[ "$2" = prepare_script ] && echo 7 > "$BUILD_EXIT_CODE_FILE" && exit 0; exit "$BUILD_FAILURE_EXIT_CODE"'
    result = fake.job(run=run)
    assert (result.status, result.exit_code) == ("script_failure", 7)


@pytest.mark.parametrize(
    "config",
    [
        "echo Preparing; " + ANSWER,
        ANSWER + "; echo done",
        "echo '[]'",
        "echo",
        """echo '{"builds_dir": 5}'""",
        "printf '\\377'",
    ],
)
def test_noise_on_the_answer(fake: Fake, config: str) -> None:
    result = fake.job(config=config)
    assert result.status == "system_failure"
    assert result.stages == ["config", "cleanup"] * 3
    assert "the answer is not what it should be" in result.message


def test_no_answer_needs_folders_in_the_settings(fake: Fake) -> None:
    assert "builds_dir is named neither" in fake.job(config="true").message
    folders = replace(FAST, builds_dir=str(fake.folder / "builds"), cache_dir="/cache")
    result = fake.job(config="true", behaviour=folders)
    assert (result.status, result.answer) == ("success", None)


@pytest.mark.parametrize("behaviour", [FAST, replace(FAST, one_pipe=True)])
def test_a_process_that_holds_the_pipe_is_seen(fake: Fake, behaviour: Behaviour) -> None:
    run = '[ "$2" = build_script ] || exit 0; (sleep 0.4) & exit 0'
    call = fake.job(run=run, behaviour=behaviour).call("build_script")
    assert call.eof_delay > 0.3
    call = fake.job(run=run.replace("(", "(exec >&- 2>&-; "), behaviour=behaviour).call("build_script")
    assert call.eof_delay < 0.2
    assert call.survivors


def test_a_failing_prepare_is_tried_again_after_a_cleanup(fake: Fake) -> None:
    prepare = 'echo x >> "$FOLDER/tries"; touch "$TMPDIR/mine"; [ $(wc -l < "$FOLDER/tries") = 3 ] || exit 92'
    result = fake.job(prepare=prepare)
    assert result.status == "success"
    assert result.stages[:8] == ["config", "prepare", "cleanup"] * 2 + ["config", "prepare"]
    assert len({call.temporary for call in result.calls}) == 3
    assert not list(fake.folder.glob("custom-executor*"))


@pytest.mark.parametrize(
    ("exit_status", "tries", "status"), [(92, 3, "system_failure"), (5, 3, "system_failure"), (91, 1, "script_failure")]
)
def test_only_a_build_failure_is_not_tried_again(fake: Fake, exit_status: int, tries: int, status: str) -> None:
    result = fake.job(prepare=f"exit {exit_status}")
    assert result.stages == ["config", "prepare", "cleanup"] * tries
    assert result.status == status


def environment_of(call: Call) -> dict[str, str]:
    return dict(line.split("=", 1) for line in call.stderr.decode().split("\0") if line)


def test_the_environment(fake: Fake) -> None:
    job = Job(variables={"CI_JOB_ID": "666", "LINES": "a\nb"}, file_variables={"KEY": "content"}, image="bookworm")
    tell = 'env -0 >&2; printf "PWD_IS=%s\\0MODES=%s\\0" "$PWD" "$(stat -c %a $JOB_RESPONSE_FILE $1 | xargs)" >&2;'
    result = fake.job(job, config=tell + ANSWER, run=tell)
    config, run = environment_of(result.call("config")), environment_of(result.call("get_sources"))
    assert config["CUSTOM_ENV_CI_PROJECT_DIR"] == ""
    assert run["CUSTOM_ENV_CI_PROJECT_DIR"] == f"{fake.folder}/builds/group/project"
    assert (run["CUSTOM_ENV_CI_JOB_ID"], run["CUSTOM_ENV_LINES"], run["CUSTOM_ENV_KEY"]) == ("666", "a\nb", "content")
    assert run["FROM_CONFIG"] == "yes"
    assert run["TMPDIR"] == run["PWD_IS"] == result.calls[0].temporary
    assert run["MODES"] == "600 700"
    assert "CI_JOB_ID" not in run
    ancient = environment_of(fake.job(job, run=tell, behaviour=replace(ANCIENT, one_pipe=False)).call("prepare_script"))
    assert not {"JOB_RESPONSE_FILE", "BUILD_EXIT_CODE_FILE"} & set(ancient)


def test_a_script_sees_variables_and_no_input(fake: Fake) -> None:
    job = Job(
        scripts={"build_script": 'read -r line || echo "$ODD|$(cat "$KEY")|$PWD|$CI_JOB_STATUS"'},
        variables={"ODD": "it's $5\n\\é"},
        file_variables={"KEY": "a\nb"},
    )
    for behaviour in (FAST, replace(OLD, retry_seconds=0.01)):
        result = fake.job(job, run='bash "$1"', behaviour=behaviour)
        assert f"it's $5\n\\é|a\nb|{fake.folder}/builds/group/project|running\n".encode() in result.trace


def test_the_result_is_known_to_after_script(fake: Fake) -> None:
    result = fake.job(Job(scripts={"build_script": "false", "after_script": "echo I saw $CI_JOB_STATUS; exit 9"}))
    assert b"I saw failed" in result.trace
    assert (result.status, result.exit_code) == ("script_failure", 1)
    scripts = {"build_script": "true", "after_script": "exit 9"}
    assert fake.job(Job(scripts=scripts)).status == "success"
    assert fake.job(Job(scripts=scripts, variables={"AFTER_SCRIPT_IGNORE_ERRORS": "false"})).exit_code == 9


def test_sources_are_tried_again(fake: Fake) -> None:
    job = Job(scripts={"get_sources": "exit 3"}, variables={"GET_SOURCES_ATTEMPTS": "3"})
    result = fake.job(job)
    assert result.stages[3:-2] == ["get_sources", "clear_worktree", "get_sources", "get_sources"]
    assert (result.status, result.exit_code) == ("script_failure", 3)


SLOW = {
    "build_script": "echo begun; sleep 5",
    "after_script": "echo I saw $CI_JOB_STATUS",
    "archive_cache_on_failure": "echo",
}


@pytest.mark.parametrize(
    ("cancel", "after"),
    [("new", ["after_script", "archive_cache_on_failure", "cleanup_file_variables"]), ("old", [])],
)
def test_cancel(fake: Fake, cancel: Literal["new", "old"], after: list[str]) -> None:
    job = Job(scripts=SLOW, events=[Event("cancel", "build_script", 0.1, output="begun")])
    result = fake.job(job, behaviour=replace(FAST, cancel=cancel, script_form="subshell"))
    assert result.status == "canceled"
    assert result.stages[5:] == [*after, "cleanup"]
    assert result.call("build_script").signals == ["TERM"]
    assert not result.call("build_script").survivors
    assert (b"I saw canceled" in result.trace) == (cancel == "new")
    assert result.seconds < 3


def test_a_driver_that_ignores_sigterm_is_killed(fake: Fake) -> None:
    job = Job(scripts=SLOW, events=[Event("time_out", "prepare_script", output="begun")])
    result = fake.job(job, run='trap "" TERM; echo begun; sleep 5; sleep 5')
    assert result.status == "timed_out"
    call = result.call("prepare_script")
    assert call.signals == ["TERM", "KILL"]
    assert call.status == -signal.SIGKILL


def test_what_holds_the_pipe_beyond_sigkill_is_abandoned(fake: Fake) -> None:
    job = Job(scripts={"build_script": "echo"}, events=[Event("cancel", "prepare_script", 0.1, output="begun")])
    result = fake.job(job, run="setsid bash -c 'echo begun; exec sleep 2' & wait")
    assert result.call("prepare_script").ended is None
    assert "abandoned" in result.call("prepare_script").message
    assert result.seconds < 1.9


def test_cleanup_while_run_is_alive(fake: Fake) -> None:
    job = Job(scripts=SLOW, events=[Event("time_out", "prepare_script", output="begun")])
    behaviour = replace(FAST, graceful_kill_seconds=1, finish_wait_seconds=0.1)
    result = fake.job(job, run='trap "" TERM; echo begun; sleep 5', cleanup="true", behaviour=behaviour)
    run, cleanup = result.call("prepare_script"), result.call("cleanup")
    assert run.ended
    assert cleanup.ended
    assert cleanup.ended < run.ended


def test_a_job_can_be_steered_from_outside(fake: Fake) -> None:
    with fake.stand_in(behaviour=FAST).start(Job(scripts=SLOW)) as running:
        running.await_output(b"begun")
        running.act("kill_driver")
        # the script outlives its driver and holds the pipe, so that only a cancel ends the stage
        time.sleep(0.2)
        running.act("cancel")
        result = running.wait(10)
    assert result.call("build_script").status == -signal.SIGKILL
    assert result.status == "canceled"


def test_a_cancelled_prepare_is_not_tried_again(fake: Fake) -> None:
    job = Job(events=[Event("cancel", "prepare", after_seconds=0.1)])
    result = fake.job(job, prepare="sleep 5")
    assert (result.status, result.stages) == ("canceled", ["config", "prepare", "cleanup"])


@pytest.mark.parametrize(
    ("form", "to_all", "status"),
    [
        ("subshell", True, 1),
        ("subshell", False, 1),
        ("trap", True, 128 + signal.SIGTERM),
        ("trap", False, 0),
        ("plain", True, -signal.SIGTERM),
        ("plain", False, -signal.SIGTERM),
    ],
)
def test_scripts_end_by_sigterm(
    form: Literal["subshell", "trap", "plain"], to_all: bool, status: int, tmp_path: Path
) -> None:
    (tmp_path / "script").write_bytes(shell_script("echo begun; sleep 0.3", form))
    with subprocess.Popen(["/bin/bash", tmp_path / "script"], stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout
        assert process.stdout.readline() == b"begun\n"
        # bash loses a signal that meets it between the fork and the exec of sleep
        time.sleep(0.1)
        (os.killpg if to_all else os.kill)(process.pid, signal.SIGTERM)
    assert process.returncode == status


def test_the_outside_says_why_the_inside_failed(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda _: b"raise SystemExit('broken')")
        running = fake.stand_in(behaviour=FAST).start(Job())
    with running, pytest.raises(RuntimeError, match="broken"):
        running.wait(10)
