"""Jobs that end before their time: cancelled, timed out, aborted, their driver killed or their machine removed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest
from backends import ON_ONE
from disposable_host import DisposableHost
from our_driver import FAST, IMAGE, SETTINGS, TOOL, assert_sound, in_machine, stand_in, write
from runner import ANCIENT, OLD, Action, Behaviour, Event, Job, RunnerStandIn

STUBBORN = "trap '' TERM; echo begun; while :; do sleep 0.1; done"
FORMS = ("subshell", "trap", "plain")


@pytest.fixture
def runner(host: DisposableHost) -> Iterator[RunnerStandIn]:
    yield from stand_in(host)


@pytest.fixture
def grace(host: DisposableHost) -> Iterator[None]:
    """A second of grace for scripts that are stopped."""
    write(host, SETTINGS, "stop_grace_seconds = 1\n")
    yield
    host.path(SETTINGS).unlink()


def slow(action: Action, script: str = "echo begun; sleep 300; echo never") -> Job:
    """A job that lasts long, and to which something happens once it is there."""
    scripts = {
        "get_sources": 'mkdir -p "$CI_PROJECT_DIR"; cat /proc/sys/kernel/random/boot_id',
        "build_script": script,
        "step_release": "echo never",
        "after_script": 'echo "saw $CI_JOB_STATUS"; cat /proc/sys/kernel/random/boot_id; pgrep sleep || echo no sleep',
        "upload_artifacts_on_failure": "echo uploaded",
    }
    return Job(scripts=scripts, image=IMAGE, events=[Event(action, "build_script", 0.1, output="begun")])


@ON_ONE
@pytest.mark.parametrize(("form", "one_pipe"), [(form, False) for form in FORMS] + [("subshell", True)])
def test_cancel_leaves_the_machine_to_after_script(runner: RunnerStandIn, form: str, one_pipe: bool) -> None:
    behaviour = replace(FAST, script_form=form, one_pipe=one_pipe)  # type: ignore[arg-type]
    result = runner.job(slow("cancel"), behaviour)
    assert result.status == "canceled", result.trace.decode()
    assert_sound(result)
    build = result.call("build_script")
    assert build.signals == ["TERM"]
    # some forms of script end with 0 then, which must not count
    assert build.status == behaviour.system_failure_exit_code
    assert b"nspawn-runner: stopped by SIGTERM\n" in result.trace
    assert b"never" not in result.trace
    after = result.call("after_script").stdout.decode().splitlines()
    assert after == ["saw canceled", result.call("get_sources").stdout.decode().strip(), "no sleep"]
    assert b"uploaded\n" in result.trace
    assert result.seconds < 15


@ON_ONE
@pytest.mark.parametrize(("behaviour", "form"), [(OLD, "plain"), (OLD, "trap"), (ANCIENT, "plain")])
def test_cancel_of_old_runners_ends_the_job(runner: RunnerStandIn, behaviour: Behaviour, form: str) -> None:
    result = runner.job(slow("cancel"), replace(behaviour, script_form=form))  # type: ignore[arg-type]
    assert result.status == "canceled", result.trace.decode()
    assert_sound(result)
    assert result.stages[4:] == ["build_script", "cleanup"]
    assert result.call("build_script").status == behaviour.system_failure_exit_code
    assert result.seconds < 15


@ON_ONE
@pytest.mark.parametrize(("action", "status"), [("time_out", "timed_out"), ("abort", "system_failure")])
def test_the_end_of_the_whole_job(runner: RunnerStandIn, action: Action, status: str) -> None:
    result = runner.job(slow(action))
    assert result.status == status
    assert_sound(result)
    assert result.call("build_script").signals == ["TERM"]
    assert result.stages[4:] == ["build_script", "cleanup"]


@ON_ONE
def test_the_script_s_own_time_is_over(runner: RunnerStandIn) -> None:
    result = runner.job(replace(slow("cancel"), events=[], script_timeout_seconds=3))
    assert result.status == "timed_out", result.trace.decode()
    assert_sound(result)
    assert b"saw timedout\n" in result.trace
    assert b"uploaded\n" in result.trace


@ON_ONE
def test_a_script_may_tidy_up_when_it_is_cancelled(runner: RunnerStandIn) -> None:
    # systemd may send its SIGTERM to the first sleep of the trap too
    tidy = "for n in $(seq 10); do sleep 0.1 || true; done; echo tidied up; exit 0"
    script = f"trap '{tidy}' TERM; echo begun; sleep 300 & wait"
    result = runner.job(slow("cancel", script))
    assert result.status == "canceled"
    assert b"tidied up\n" in result.trace
    assert result.call("build_script").status == FAST.system_failure_exit_code
    assert_sound(result)


@ON_ONE
@pytest.mark.parametrize("behaviour", [FAST, OLD], ids=["new", "old"])
def test_a_script_that_ignores_sigterm_is_killed_after_the_grace(
    runner: RunnerStandIn, grace: None, behaviour: Behaviour
) -> None:
    result = runner.job(slow("cancel", STUBBORN), behaviour)
    assert result.status == "canceled", result.trace.decode()
    assert_sound(result)
    build = result.call("build_script")
    assert build.signals == ["TERM"]
    assert build.status == behaviour.system_failure_exit_code
    assert build.seconds > 1
    assert (b"no sleep\n" in result.trace) == (behaviour.cancel == "new")


@ON_ONE
def test_cancel_ends_what_the_script_has_in_the_background_too(runner: RunnerStandIn, host: DisposableHost) -> None:
    """What an earlier stage left running stays."""
    job = slow("cancel", "setsid sleep 301 & echo begun; sleep 300")
    early = "sleep 302 & " + job.scripts["get_sources"]
    after = "pgrep --full --list-full '^sleep 30' | cut --delimiter=' ' --fields=2-"
    result = runner.job(replace(job, scripts={**job.scripts, "get_sources": early, "after_script": after}))
    assert result.status == "canceled"
    assert result.call("after_script").stdout == b"sleep 302\n", result.trace.decode()
    assert_sound(result)


@pytest.mark.parametrize("after_seconds", [0.0, 0.1, 0.25])
def test_cancel_in_prepare(runner: RunnerStandIn, after_seconds: float) -> None:
    job = Job(image=IMAGE, events=[Event("cancel", "prepare", after_seconds)], scripts={"get_sources": "sleep 300"})
    result = runner.job(job)
    assert result.status == "canceled"
    assert result.stages[-1] == "cleanup"
    assert_sound(result)
    assert result.seconds < 15


@pytest.mark.parametrize("after_seconds", [0.05, 0.1, 0.2])
def test_a_driver_killed_in_prepare_leaves_nothing_in_the_way(runner: RunnerStandIn, after_seconds: float) -> None:
    job = Job(image=IMAGE, events=[Event("kill_driver", "prepare", after_seconds)], scripts={"build_script": "echo up"})
    result = runner.job(job)
    assert result.status == "success", result.trace.decode()
    assert b"up\n" in result.trace
    assert_sound(result)


def test_a_driver_killed_in_run_is_cleaned_up_after(runner: RunnerStandIn) -> None:
    result = runner.job(slow("kill_driver"))
    assert result.status == "system_failure"
    assert result.call("build_script").status == -signal.SIGKILL
    assert b"saw failed\n" in result.trace
    assert_sound(result)


def test_a_machine_removed_under_its_script(runner: RunnerStandIn, host: DisposableHost) -> None:
    with runner.start(replace(slow("cancel"), events=[])) as running:
        running.await_output(b"begun")
        host.run([TOOL, "cleanup", "--id", "1001"])
        result = running.wait(60)
    assert result.status == "system_failure", result.trace.decode()
    build = result.call("build_script")
    assert build.status == FAST.system_failure_exit_code
    assert b"nspawn-runner: the machine run-1001 died under the script: it was cleaned up\n" in build.stderr
    after = result.call("after_script")
    assert after.verdict == "system_failure"
    assert b"has no machine" in after.stderr or b"is being removed" in after.stderr
    assert_sound(result)


def test_cleanup_wins_over_a_script_that_does_not_end(runner: RunnerStandIn) -> None:
    """The runner does not wait for ever: run is in its ten seconds of grace when cleanup comes."""
    result = runner.job(slow("time_out", STUBBORN), replace(FAST, finish_wait_seconds=0.2))
    assert result.status == "timed_out"
    build, cleanup = result.call("build_script"), result.call("cleanup")
    assert (cleanup.status, cleanup.stdout, cleanup.stderr) == (0, b"", b"")
    assert build.ended is not None
    assert build.ended < cleanup.began + 5
    assert build.signals == ["TERM"]
    assert build.status == FAST.system_failure_exit_code


def test_a_driver_killed_by_its_runner_is_cleaned_up_after(runner: RunnerStandIn) -> None:
    """A runner that waits less than our grace sends SIGKILL."""
    result = runner.job(slow("cancel", STUBBORN), replace(FAST, graceful_kill_seconds=0.5))
    assert result.status == "canceled"
    assert result.call("build_script").signals == ["TERM", "KILL"]
    assert b"saw canceled\n" in result.trace
    assert_sound(result)


@ON_ONE
def test_cancel_of_one_job_leaves_another_alone(runner: RunnerStandIn, host: DisposableHost) -> None:
    other = Job(id=1002, image=IMAGE, scripts={"build_script": "echo begun; until [ -e /go ]; do sleep 0.1; done"})
    with runner.start(other) as beside:
        beside.await_output(b"begun")
        assert runner.job(slow("cancel")).status == "canceled"
        in_machine(host, "run-1002", "touch /go")
        result = beside.wait(60)
    assert result.status == "success", result.trace.decode()
    assert_sound(result)


@ON_ONE
@pytest.mark.parametrize(
    ("behaviour", "build", "ignore", "expected"),
    [
        (FAST, "true", "false", ("script_failure", FAST.build_failure_exit_code)),
        (FAST, "exit 4", "false", ("script_failure", 4)),
        (FAST, "true", "true", ("success", None)),
        (OLD, "true", "false", ("success", None)),
    ],
    ids=["counts", "after a failure", "ignored", "old"],
)
def test_an_after_script_that_does_not_end(
    runner: RunnerStandIn, behaviour: Behaviour, build: str, ignore: str, expected: tuple[str, int | None]
) -> None:
    """The runner stops it, and then believes what its driver says of it: never that the host has failed."""
    scripts = {
        "build_script": build,
        "after_script": "echo begun; sleep 300; echo never",
        "upload_artifacts_on_failure": "pgrep sleep || echo no sleep",
    }
    variables = {"AFTER_SCRIPT_IGNORE_ERRORS": ignore}
    job = Job(scripts=scripts, image=IMAGE, variables=variables, after_script_timeout_seconds=1.5)
    result = runner.job(job, behaviour)
    assert (result.status, result.exit_code) == expected, result.trace.decode()
    after = result.call("after_script")
    assert after.signals == ["TERM"]
    assert b"begun\n" in result.trace
    assert b"never" not in result.trace
    assert b"nspawn-runner: stopped by SIGTERM" in result.trace
    assert (after.verdict == "build_failure") == (ignore == "false")
    if expected[0] != "success":
        assert b"no sleep\n" in result.trace
    assert result.trace.count(b"nspawn-runner: took ") == 1
    assert_sound(result)


@ON_ONE
@pytest.mark.parametrize("action", ["cancel", "time_out"])
def test_a_job_that_ends_in_its_after_script(runner: RunnerStandIn, action: Action) -> None:
    """What the runner knows better stays: the job's own time, and a person's wish."""
    job = Job(
        scripts={"build_script": "true", "after_script": "echo begun; sleep 300"},
        image=IMAGE,
        variables={"AFTER_SCRIPT_IGNORE_ERRORS": "false"},
        events=[Event(action, "after_script", 0.1, output="begun")],
    )
    behaviour = OLD if action == "cancel" else FAST  # a new runner lets a cancelled job's after_script go on
    result = runner.job(job, behaviour)
    assert result.status == ("canceled" if action == "cancel" else "timed_out"), result.trace.decode()
    assert result.trace.count(b"nspawn-runner: took ") == 1
    assert_sound(result)
