"""The journal tells what a job's stages did, and nothing that is secret."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from by_hand import BUILD_FAILURE, SECONDS, SYSTEM_FAILURE, TOOL, Job, payload, terminate
from disposable_host import CHECKOUT, DisposableHost

SECRET = "xyzzy-4711-plugh"  # noqa: S105
SECRETS = {"CUSTOM_ENV_TOKEN": SECRET, "CUSTOM_ENV_CI_JOB_IMAGE": SECRET, "TOKEN": SECRET}


def entries(host: DisposableHost, job_id: str, *matches: str) -> list[dict[str, Any]]:
    host.run(["journalctl", "--sync"])
    argv = ["journalctl", "--output=json", "--all", "--no-pager", f"NSPAWN_RUNNER_JOB={job_id}", *matches]
    return [json.loads(line) for line in host.run(argv).stdout.splitlines()]


def told(host: DisposableHost, job_id: str) -> list[dict[str, Any]]:
    """Return the entries of the job's stages."""
    found = entries(host, job_id, "SYSLOG_IDENTIFIER=nspawn-runner")
    assert SECRET not in json.dumps(found)
    for entry in found:
        assert 0 <= float(entry["NSPAWN_RUNNER_DURATION"]) < SECONDS
    return found


def ends(found: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    names = ("NSPAWN_RUNNER_STAGE", "NSPAWN_RUNNER_SCRIPT", "NSPAWN_RUNNER_RESULT", "PRIORITY")
    return [tuple(entry.get(name, "") for name in names) for entry in found]


@pytest.fixture
def job(either_host: DisposableHost) -> Iterator[Job]:
    """A job as gitlab-runner calls it, with secrets wherever a job has some."""
    job_id = int(Job(either_host).id)
    variables = [{"key": "TOKEN", "value": SECRET, "masked": True}]
    data = payload(job_id, variables=variables, token=SECRET)
    with Job(either_host, str(job_id), payload=data, env=SECRETS) as made:
        yield made


def test_success_and_failure(job: Job) -> None:
    assert job.call("config").status == 0
    job.prepare(None)
    assert job.output(f"echo {SECRET}") == f"{SECRET}\n"
    assert job.script(f"echo {SECRET} >&2; exit 3", "step_x").status == BUILD_FAILURE
    job.cleanup()
    found = told(job.host, job.id)
    assert ends(found) == [
        ("config", "", "success", "6"),
        ("prepare", "", "success", "6"),
        ("run", "build_script", "success", "6"),
        ("run", "step_x", "failed", "5"),
        ("cleanup", "", "success", "6"),
    ]
    names = ("PROJECT", "IMAGE", "MACHINE")
    assert [[entry.get(f"NSPAWN_RUNNER_{name}") for name in names] for entry in found] == [
        ["7", "bookworm", None],
        *[["7", "bookworm", job.machine]] * 4,
    ]
    assert found[3]["MESSAGE"].startswith(f"job {job.id}: run step_x failed after ")


def test_a_cancelled_script(job: Job) -> None:
    job.prepare(None)
    with job.start(f"echo begun; : {SECRET}; sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        terminate(process)
        process.communicate(timeout=SECONDS)
    assert ends(told(job.host, job.id))[-1] == ("run", "build_script", "canceled", "5")


def test_a_machine_that_ended_under_its_script(job: Job) -> None:
    job.prepare(None)
    pid = job.main_pid()
    with job.start("echo begun; sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        job.host.run(["kill", "-KILL", pid])
        process.communicate(timeout=SECONDS)
    assert process.returncode == SYSTEM_FAILURE
    found = told(job.host, job.id)
    assert sorted(ends(found)[-2:]) == [("reap", "", "success", "6"), ("run", "build_script", "system failure", "3")]
    assert any(f"the machine {job.machine} ended by itself (signal killed KILL" in entry["MESSAGE"] for entry in found)


def test_a_reboot(job: Job) -> None:
    job.prepare(None)
    job.script("systemctl reboot; sleep 1000")
    job.output("true")
    assert any("went down for a reboot" in entry["MESSAGE"] for entry in told(job.host, job.id))


def test_the_faults_of_the_host_and_of_the_job(job: Job) -> None:
    assert job.script("true").status == SYSTEM_FAILURE
    job.options = ["--config", "/nonexistent"]
    assert job.call("prepare").status == SYSTEM_FAILURE
    job.options = []
    assert job.call("prepare", "nonesuch").status == BUILD_FAILURE
    found = told(job.host, job.id)
    assert ends(found) == [
        ("run", "build_script", "system failure", "3"),
        ("prepare", "", "system failure", "3"),
        ("prepare", "", "failed", "5"),
    ]
    assert found[0]["MESSAGE"].endswith(f": job {job.id} has no machine")
    assert found[1]["MESSAGE"].endswith(": there is no settings file /nonexistent")


def test_names_of_a_hostile_job(overlay_host: DisposableHost) -> None:
    job_id = int(Job(overlay_host).id)
    name = f"x\nNSPAWN_RUNNER_JOB=1\n\n__CURSOR=\0{'y' * 2000}"
    with Job(overlay_host, str(job_id), payload=payload(job_id, image={"name": name})) as job:
        assert job.call("prepare").status == BUILD_FAILURE
        found = told(overlay_host, job.id)
        assert ends(found) == [("prepare", "", "failed", "5")]
        # What is not printable is shown as numbers.
        shown = found[0]["NSPAWN_RUNNER_IMAGE"]
        assert (shown if isinstance(shown, str) else bytes(shown).decode()) == name[:1000]


def test_the_console_is_in_the_same_story(job: Job) -> None:
    job.prepare(None)
    console = entries(job.host, job.id, f"_SYSTEMD_UNIT={job.unit}")
    assert any("Welcome to" in entry["MESSAGE"] for entry in console if isinstance(entry["MESSAGE"], str))
    assert {entry["NSPAWN_RUNNER_MACHINE"] for entry in console} == {job.machine}
    assert {entry["NSPAWN_RUNNER_PROJECT"] for entry in console} == {"7"}


def test_exec_tells_its_stages(overlay_host: DisposableHost) -> None:
    began = time.time()
    file = "mkdir /tmp/told; cd /tmp/told; echo 'a: {script: [exit 4]}' > .gitlab-ci.yml"
    done = overlay_host.run(["bash", "-c", f"{file}; {TOOL} exec a --image bookworm"], check=False, timeout=SECONDS)
    assert done.returncode == 4, done.stderr.decode()
    overlay_host.run(["journalctl", "--sync"])
    argv = ["journalctl", "--output=json", f"--since=@{began:.0f}", "NSPAWN_RUNNER_SCRIPT=build_script"]
    last = json.loads(overlay_host.run(argv).stdout.splitlines()[-1])
    assert ends(told(overlay_host, last["NSPAWN_RUNNER_JOB"])) == [
        ("prepare", "", "success", "6"),
        ("run", "get_sources", "success", "6"),
        ("run", "build_script", "failed", "5"),
        ("cleanup", "", "success", "6"),
    ]


def test_stages_do_without_a_journal(overlay_host: DisposableHost) -> None:
    """Nothing waits and nothing is said where the journal does not listen."""
    overlay_host.run(["mv", "/run/systemd/journal/socket", "/run/systemd/journal/away"])
    try:
        done = overlay_host.run([TOOL, "config", "--id", "1"])
    finally:
        overlay_host.run(["mv", "/run/systemd/journal/away", "/run/systemd/journal/socket"])
    assert done.stderr == b""
    assert json.loads(done.stdout)["hostname"] == "run-1"


def test_telling_costs_no_heavy_imports(overlay_host: DisposableHost) -> None:
    code = (
        f"import sys; sys.path.insert(0, '{CHECKOUT}'); from nspawn_runner import cli; "
        "assert cli.main(['config', '--id', '1']) == 0; print(*sys.modules, file=sys.stderr)"
    )
    done = overlay_host.run(["python3", "-I", "-S", "-c", code])
    loaded = set(done.stderr.decode().split())
    assert "nspawn_runner.host.journal" in loaded
    assert not {"socket", "selectors", "subprocess", "nspawn_runner.jobs.metrics"} & loaded
    assert "nspawn_runner.machines.records" not in loaded
