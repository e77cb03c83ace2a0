"""Whole jobs, as gitlab-runner of several ages drives them: what the job's log, GitLab and the host see of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from backends import ON_ONE
from disposable_host import DisposableHost
from our_driver import FAST, IMAGE, SETTINGS, TOOL, assert_sound, in_machine, stand_in, write
from runner import ANCIENT, OLD, Behaviour, Job, RunnerStandIn

RUNNERS = {
    "new": FAST,
    "new-one-pipe": replace(FAST, one_pipe=True),
    "trap": replace(FAST, script_form="trap"),
    "old": OLD,
    "old-two-pipes": replace(OLD, one_pipe=False),
    "ancient": ANCIENT,
}
ALL_STAGES = (
    "prepare_script", "get_sources", "restore_cache", "download_artifacts", "build_script", "step_release",
    "after_script", "archive_cache", "upload_artifacts_on_success", "cleanup_file_variables",
)  # fmt: skip

# The last line of a job's log; a host without controllers tells no memory.
END = rb"nspawn-runner: took [0-9.]+ s, CPU time [0-9.]+ s(?:, memory up to [0-9]+ MiB)?(?:, wrote [0-9]+ MiB)?\n"


@pytest.fixture
def runner(host: DisposableHost) -> Iterator[RunnerStandIn]:
    yield from stand_in(host)


@pytest.fixture(params=["btrfs_host", "trixie_host"])
def any_host(request: pytest.FixtureRequest) -> DisposableHost:
    """A host with snapshots, and one with overlays and another systemd."""
    found: DisposableHost = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def any_runner(any_host: DisposableHost) -> Iterator[RunnerStandIn]:
    yield from stand_in(any_host)


@pytest.mark.parametrize("behaviour", RUNNERS.values(), ids=RUNNERS)
def test_a_whole_job(any_runner: RunnerStandIn, behaviour: Behaviour) -> None:
    scripts = {name: f'mkdir -p "$CI_PROJECT_DIR"; echo "in {name}"; echo "of {name}" >&2' for name in ALL_STAGES}
    scripts["build_script"] += '; echo "$ODD|$(cat "$KEY")|$PWD|$CI_JOB_STATUS|$(hostname)|$(id -un)"'
    scripts["after_script"] += '; echo "after $CI_JOB_STATUS"'
    job = Job(scripts=scripts, image=IMAGE, variables={"ODD": "it's $5\n\\é"}, file_variables={"KEY": "a\nb"})
    result = any_runner.job(job, behaviour)
    assert result.status == "success", result.trace.decode()
    assert_sound(result)
    assert result.stages == ["config", "prepare", *ALL_STAGES, "cleanup"]

    assert result.answer is not None
    driver = result.answer.pop("driver")
    assert (sorted(driver), driver["name"]) == (["name", "version"], "nspawn-runner")
    assert result.answer == {
        "hostname": "run-1001", "builds_dir": "/builds", "cache_dir": "/cache", "builds_dir_is_shared": False,
        "shell": "bash",
    }  # fmt: skip
    assert result.call("config").stderr == b""

    prepared = result.call("prepare")
    assert re.fullmatch(rb"image bookworm, machine run-1001, ready in \d+\.\d\d s\n", prepared.stdout), prepared.stdout
    assert prepared.stderr == b""

    for name in ALL_STAGES:
        call = result.call(name)
        if behaviour.one_pipe:
            assert call.stdout.startswith(f"in {name}\nof {name}\n".encode())
        else:
            assert call.stdout.startswith(f"in {name}\n".encode())
            assert re.sub(END, b"", call.stderr) == f"of {name}\n".encode()
    assert len(re.findall(END, result.trace)) == 1
    # A shell writes line by line, and what goes to stderr may come between two lines of stdout.
    out = result.trace.replace(b"of build_script\n", b"")
    assert "it's $5\n\\é|a\nb|/builds/group/project|running|run-1001|root\n".encode() in out
    assert b"after success\n" in result.trace


STATUSES = (1, 2, 3, 42, 91, 92, 137, 143, 255)


@ON_ONE
@pytest.mark.parametrize("form", ["subshell", "trap", "plain"])
def test_each_status_of_a_script_is_told(runner: RunnerStandIn, form: str) -> None:
    """Repeated attempts of one stage: a number that an earlier attempt left behind would show."""
    fail = f"n=$(cat /n || echo 0); echo $((n + 1)) > /n; codes=({' '.join(map(str, STATUSES))} 0); exit ${{codes[n]}}"
    job = Job(scripts={"get_sources": fail, "clear_worktree": ":"}, variables={"GET_SOURCES_ATTEMPTS": "10"})
    behaviour = replace(FAST, script_form=form, retry_seconds=0.01)  # type: ignore[arg-type]
    result = runner.job(replace(job, image=IMAGE), behaviour)
    calls = [call for call in result.calls if call.stage == "get_sources"]
    assert [call.exit_code for call in calls] == [*STATUSES, None]
    assert [call.verdict for call in calls] == ["build_failure"] * len(STATUSES) + ["success"]
    assert result.status == "success"


@ON_ONE
@pytest.mark.parametrize(
    ("script", "behaviour", "number"),
    [
        ("exit 42", FAST, 42),
        ("kill -9 $$", FAST, 137),
        ("kill -TERM $$", replace(FAST, script_form="plain"), 143),
        ("exit 42", OLD, 91),
        ("exit 1", ANCIENT, 91),
    ],
)
def test_a_failing_job(runner: RunnerStandIn, script: str, behaviour: Behaviour, number: int) -> None:
    job = Job(scripts={"build_script": f"echo begun; {script}", "after_script": "echo saw $CI_JOB_STATUS"}, image=IMAGE)
    result = runner.job(job, behaviour)
    assert (result.status, result.exit_code) == ("script_failure", number), result.trace.decode()
    assert_sound(result)
    assert b"begun\n" in result.trace
    assert b"saw failed\n" in result.trace
    assert b"nspawn-runner:" not in re.sub(END, b"", result.trace)


@ON_ONE
def test_five_jobs_at_the_same_time(runner: RunnerStandIn) -> None:
    jobs = [
        Job(id=1001 + number, image=IMAGE, scripts={"build_script": f"hostname; sleep 0.5; exit {number * 7}"})
        for number in range(5)
    ]
    running = [runner.start(job) for job in jobs]
    try:
        results = [one.wait(120) for one in running]
    finally:
        for one in running:
            one.__exit__(None, None, None)
    assert [result.exit_code or 0 for result in results] == [0, 7, 14, 21, 28]
    for job, result in zip(jobs, results, strict=True):
        assert_sound(result)
        assert result.call("build_script").stdout == f"run-{job.id}\n".encode()


ASK = 'exec 3<>/dev/tcp/127.0.0.1/8080; printf "GET /here HTTP/1.0\\r\\n\\r\\n" >&3; head --lines=1 <&3'


@ON_ONE
@pytest.mark.parametrize("behaviour", [FAST, OLD], ids=["new", "old"])
def test_a_server_left_running_answers_in_later_stages(runner: RunnerStandIn, behaviour: Behaviour) -> None:
    start = """mkdir /srv/www; echo hello > /srv/www/here
python3 -m http.server --directory /srv/www 8080 &
until (exec 3<>/dev/tcp/127.0.0.1/8080) 2> /dev/null; do sleep 0.05; done; echo up"""
    later = ("step_release", "after_script", "archive_cache")
    result = runner.job(Job(scripts={"build_script": start, **dict.fromkeys(later, ASK)}, image=IMAGE), behaviour)
    assert result.status == "success", result.trace.decode()
    assert_sound(result)
    for stage in later:
        assert result.call(stage).stdout.startswith(b"HTTP/1.0 200 OK\r\n")


@ON_ONE
def test_what_a_background_process_writes_later_does_not_end_it(runner: RunnerStandIn, host: DisposableHost) -> None:
    """It fills the pipe it inherited many times over; that goes to the machine's journal."""
    noise = "(for n in $(seq 30000); do echo a rather long line of noise, number $n; done; touch /done) &"
    wait = "for n in $(seq 300); do [ -e /done ] && break; sleep 0.1; done; [ -e /done ]"
    look = "journalctl --sync; journalctl --identifier=build_script --output=cat | tail --lines=1"
    scripts = {"build_script": noise, "step_wait": wait, "after_script": look}
    result = runner.job(Job(scripts=scripts, image=IMAGE))
    assert result.status == "success", result.trace.decode()
    assert_sound(result)
    assert result.call("after_script").stdout == b"a rather long line of noise, number 30000\n"


@ON_ONE
def test_a_reboot_under_a_script(runner: RunnerStandIn) -> None:
    boot = "cat /proc/sys/kernel/random/boot_id"
    scripts = {
        "get_sources": 'mkdir -p "$CI_PROJECT_DIR"; echo kept > /root/state',
        "build_script": f"{boot}; systemctl reboot; sleep 60; echo never",
        "after_script": f"{boot}; cat /root/state; systemctl is-system-running --wait",
    }
    result = runner.job(Job(scripts=scripts, image=IMAGE))
    assert (result.status, result.exit_code) == ("script_failure", 143), result.trace.decode()
    assert_sound(result)
    assert b"never" not in result.trace
    said = result.call("build_script").stderr.decode()
    assert "nspawn-runner: the machine run-1001 was rebooted under the script" in said
    before = result.call("build_script").stdout.decode().split()[0]
    after = result.call("after_script").stdout.decode().split()
    assert after[0] != before
    assert after[1:] == ["kept", "running"]


@ON_ONE
def test_a_reboot_before_the_sources_and_a_second_attempt(runner: RunnerStandIn) -> None:
    scripts = {
        "prepare_script": "touch /root/state",
        "get_sources": 'mkdir -p "$CI_PROJECT_DIR"; if rm /root/state; then systemctl reboot; sleep 60; fi',
        "build_script": "echo built",
    }
    result = runner.job(Job(scripts=scripts, variables={"GET_SOURCES_ATTEMPTS": "2"}, image=IMAGE))
    assert result.status == "success", result.trace.decode()
    assert result.call("get_sources").exit_code == 143
    assert_sound(result)


def test_a_machine_that_powers_itself_off(runner: RunnerStandIn) -> None:
    scripts = {"build_script": "systemctl poweroff; sleep 60", "after_script": "echo after"}
    result = runner.job(Job(scripts=scripts, image=IMAGE))
    assert (result.status, result.exit_code) == ("script_failure", 143), result.trace.decode()
    assert b"run-1001 was powered off under the script" in result.trace
    assert result.call("after_script").verdict == "build_failure"
    assert b"is gone: it was powered off from inside" in result.call("after_script").stderr
    assert_sound(result)


@pytest.mark.parametrize("behaviour", [FAST, ANCIENT], ids=["new", "ancient"])
def test_a_machine_that_is_killed_under_the_script(
    runner: RunnerStandIn, host: DisposableHost, behaviour: Behaviour
) -> None:
    with runner.start(Job(scripts={"build_script": "echo begun; sleep 60"}, image=IMAGE), behaviour) as running:
        running.await_output(b"begun")
        host.run(["systemctl", "kill", "--kill-whom=all", "--signal=KILL", "nspawn-runner-run-1001.service"])
        result = running.wait(60)
    assert result.status == "system_failure", result.trace.decode()
    assert result.call("build_script").status == behaviour.system_failure_exit_code
    assert b"nspawn-runner: the machine run-1001 died under the script: " in result.trace
    assert_sound(result)


@ON_ONE
def test_the_machine_is_not_the_host(runner: RunnerStandIn, host: DisposableHost) -> None:
    look = "cat /proc/sys/kernel/random/boot_id /etc/machine-id; readlink /proc/self/ns/net; cat /proc/1/comm"
    with runner.start(Job(scripts={"build_script": f"{look}; echo begun; sleep 60"}, image=IMAGE)) as running:
        running.await_output(b"begun")
        assert in_machine(host, "run-1001", "cat /proc/self/uid_map").split()[1] != "0"
        record = host.path("/run/nspawn-runner/run-1001.json")
        assert record.stat().st_mode & 0o777 == 0o600
        assert json.loads(record.read_text())["state"] == "running"
        running.act("abort")
        result = running.wait(60)
    outside = host.run(["sh", "-c", look]).stdout.split()
    inside = result.call("build_script").stdout.split()
    assert not set(inside[1:3]) & set(outside[1:3])
    assert inside[3] == b"systemd"


def test_the_log_of_a_failed_job(any_runner: RunnerStandIn) -> None:
    """It says which unit failed, and at last what the job took."""
    unit = "[Service]\\nExecStart=/bin/sh -c 'echo no disk here; exit 3'\\n"
    script = f'printf "{unit}" >/etc/systemd/system/disk.service; systemctl start disk; sleep 0.5; exit 4'
    result = any_runner.job(Job(scripts={"build_script": script, "after_script": "echo after"}, image=IMAGE))
    assert (result.status, result.exit_code) == ("script_failure", 4)
    failed = result.call("build_script").stderr.decode()
    assert failed.startswith("nspawn-runner: failed in the machine: disk.service (exit-code, status 3)\n  ")
    assert "no disk here\n" in failed
    assert result.call("after_script").stderr == b""
    assert re.fullmatch(END, result.call("cleanup_file_variables").stderr)


@pytest.fixture
def kept(host: DisposableHost) -> Iterator[RunnerStandIn]:
    """A runner in a host that keeps what has failed."""
    write(host, SETTINGS, 'keep_failed = "2h"\n')
    yield from stand_in(host)
    host.path(SETTINGS).unlink()


@ON_ONE
@pytest.mark.parametrize("behaviour", [FAST, OLD], ids=["new", "old"])
@pytest.mark.parametrize(
    ("scripts", "ends_old"),
    [
        ({"build_script": "true"}, "build_script"),
        ({"build_script": "true", "step_release": "true"}, "step_release"),
        ({"build_script": "true", "after_script": "true", "archive_cache": "true"}, "after_script"),
        ({"build_script": "exit 4", "step_release": "true"}, "build_script"),
        ({"build_script": "exit 4", "after_script": "true", "upload_artifacts_on_failure": "true"}, "after_script"),
        ({"build_script": "true", "upload_artifacts_on_success": "exit 4"}, "build_script"),
        ({"get_sources": "exit 4"}, "get_sources"),
        ({"prepare_script": "exit 4"}, "prepare_script"),
    ],
)
def test_the_end_is_told_once(
    kept: RunnerStandIn, host: DisposableHost, behaviour: Behaviour, scripts: dict[str, str], ends_old: str
) -> None:
    """What the job took, and that its root is kept, comes whichever stages the runner leaves out."""
    result = kept.job(Job(scripts=scripts, image=IMAGE), behaviour)
    failed = any("exit" in script for script in scripts.values())
    assert result.status == ("script_failure" if failed else "success"), result.trace.decode()
    assert result.trace.count(b"nspawn-runner: took ") == 1
    assert result.trace.count(b"'s root is kept on") == (1 if failed else 0), result.trace.decode()
    (told,) = [call.stage for call in result.calls if b"took " in call.stdout + call.stderr]
    assert told == ("cleanup_file_variables" if behaviour == FAST and ends_old != "prepare_script" else ends_old)
    host.run([TOOL, "cleanup", "--id", "1001"])
