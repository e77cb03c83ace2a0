"""Ends that nobody planned: machines that die under their script, signals to run and prepare, kills."""

import contextlib
import json
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from backends import ON_ONE
from by_hand import (
    BUILD_FAILURE,
    SECONDS,
    SYSTEM_FAILURE,
    Job,
    Unchanged,
    difference,
    holdings,
    payload,
    terminate,
    together,
    wait_until,
)
from disposable_host import DisposableHost

LONG = 600
READY = f"echo ready; sleep {LONG}; echo not seen"


@pytest.fixture(scope="module")
def machine(either_host: DisposableHost) -> Iterator[Job]:
    with Job(either_host, settings="stop_grace_seconds = 1\n") as job:
        job.prepare()
        yield job


@pytest.fixture
def job(host: DisposableHost) -> Iterator[Job]:
    """A machine of the test's own."""
    with Job(host) as own:
        own.prepare()
        yield own


def started(job: Job, script: str) -> subprocess.Popen[bytes]:
    """Start a script and wait until it has said that it is ready."""
    process = job.start(script)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    return process


KILLS = {
    "kill of the unit": "systemctl kill --signal=KILL {unit}",
    "stop of the unit": "systemctl stop {unit}",
    "terminate": "machinectl terminate {machine}",
    "poweroff": "machinectl poweroff {machine}",
    "kill of systemd-nspawn": "kill -9 {main_pid}",
    "kill of PID 1": "kill -9 $(machinectl show --property=Leader --value {machine})",
}


@pytest.mark.parametrize("how", KILLS)
def test_machine_that_dies_under_its_script(job: Job, how: str) -> None:
    command = KILLS[how].format(unit=job.unit, machine=job.machine, main_pid=job.main_pid())
    with started(job, READY) as process:
        job.host.run(["sh", "-c", command])
        out, err = process.communicate(timeout=SECONDS)
    message = err.decode()
    assert out == b""
    assert "Traceback" not in message
    assert job.machine in message
    if how == "poweroff":
        assert "was powered off under the script" in message
        assert process.returncode == BUILD_FAILURE
    else:
        assert "died under the script" in message or "was powered off under the script" in message
    if how != "poweroff":
        assert process.returncode == SYSTEM_FAILURE, message
        assert job.code() is None
    next_script = job.script("echo no")
    blamed = BUILD_FAILURE if how == "poweroff" else SYSTEM_FAILURE
    assert (next_script.status, next_script.out) == (blamed, b"")
    assert job.machine in next_script.message
    job.cleanup()


@pytest.mark.parametrize("how", KILLS)
def test_machine_that_ends_gives_back_what_it_held(host: DisposableHost, how: str) -> None:
    """By itself: nobody calls cleanup. Only its record stays, and how it ended."""
    disk = "" if host.state == "btrfs" else '[limits]\ndisk_max = "64M"\n'
    with Unchanged(host), Job(host, settings=disk) as job:
        before = holdings(host)
        job.prepare()
        command = KILLS[how].format(unit=job.unit, machine=job.machine, main_pid=job.main_pid())
        host.run(["sh", "-c", command])
        known = re.compile(rf"new: run /run/nspawn-runner/{job.machine}([.]json|/.*)?")

        def left() -> list[str]:
            return [line for line in difference(before, holdings(host)) if not known.fullmatch(line)]

        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not left(), seconds=10)
        assert left() == []


def test_machine_that_is_cleaned_up_under_its_script(job: Job) -> None:
    with started(job, READY) as process:
        job.cleanup()
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == SYSTEM_FAILURE, err
    assert b"Traceback" not in err
    assert job.machine.encode() in err


@ON_ONE
def test_poweroff_by_the_job(job: Job) -> None:
    done = job.script(f"systemctl poweroff; sleep {LONG}")
    assert done.status == BUILD_FAILURE
    assert "was powered off under the script" in done.message
    after = job.script("echo no", "after_script")
    assert after.status == BUILD_FAILURE
    assert "powered off from inside" in after.message
    job.cleanup()


SERVICE = """[Service]
ExecStart=/bin/sh -c 'echo started >> /root/starts; exec sleep infinity'
[Install]
WantedBy=multi-user.target
"""


def test_reboots(job: Job) -> None:
    """Thrice: the machine is back with its state, its network and its services; the host sees nothing of it."""
    host_boot = job.host.run(["systemctl", "show", "--property=UserspaceTimestamp"]).stdout
    job.output(f"cat > /etc/systemd/system/own.service <<'END'\n{SERVICE}END\nsystemctl enable --quiet own.service")
    address = job.output("ip -brief address show host0")
    assert address
    for count in range(1, 4):
        done = job.script(f"echo {count} > /root/count; systemctl reboot; sleep {LONG}; echo not seen")
        assert done.status == BUILD_FAILURE
        assert done.out == b""
        assert "was rebooted under the script" in done.message
        assert job.output("cat /root/count") == f"{count}\n"
        assert job.output("systemctl is-system-running --wait") == "running\n"
        assert job.output("systemctl is-active own.service; cat /root/starts") == "active\n" + "started\n" * count
        assert job.output("ip -brief address show host0").split()[2] == address.split()[2]
        job.output("ping -c 1 -W 10 -q $(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p')")
    assert job.host.run(["systemctl", "show", "--property=UserspaceTimestamp"]).stdout == host_boot


SCRIPTS_TO_STOP = {
    "a plain one": f"echo ready; sleep {LONG}",
    "with children": f"(setsid sleep {LONG} &); sleep {LONG} & echo ready; wait",
    "deaf ones": f"trap '' TERM; (trap '' TERM HUP INT; exec sleep {LONG}) & echo ready; while :; do sleep 1; done",
    "a shell that tidies up": f"trap 'echo tidied; exit 1' TERM; echo ready; sleep {LONG} & wait",
}


@pytest.mark.parametrize("kind", SCRIPTS_TO_STOP)
def test_sigterm_stops_the_script_not_the_machine(machine: Job, kind: str) -> None:
    process = started(machine, SCRIPTS_TO_STOP[kind])
    with process:
        terminate(process)
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == SYSTEM_FAILURE
    assert b"stopped by SIGTERM" in err
    assert (out == b"tidied\n") == (kind == "a shell that tidies up")
    assert machine.script(f"pgrep --full '^sleep {LONG}'").out == b""
    assert machine.output("systemctl is-system-running") == "running\n"


@ON_ONE
@pytest.mark.parametrize("grace_seconds", [0, 2])
def test_deaf_script_ends_with_its_grace(host: DisposableHost, grace_seconds: int) -> None:
    """At most two seconds after it, and the machine is there for after_script."""
    with Job(host, settings=f"stop_grace_seconds = {grace_seconds}\n") as job:
        job.prepare()
        with started(job, SCRIPTS_TO_STOP["deaf ones"]) as process:
            began = time.monotonic()
            terminate(process)
            process.communicate(timeout=SECONDS)
        assert grace_seconds <= time.monotonic() - began <= grace_seconds + 2
        assert process.returncode == SYSTEM_FAILURE
        assert job.output("echo after; pgrep --full '^sleep' || true") == "after\n"


def test_signal_to_config_leaves_nothing(overlay_host: DisposableHost) -> None:
    with Unchanged(overlay_host):
        for milliseconds in range(0, 80, 8):
            job = Job(overlay_host, payload=payload(5000))
            argv = job.argv("config")
            with job.host.popen(argv, env=job.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                time.sleep(milliseconds / 1000)
                terminate(process)
                out, err = process.communicate(timeout=2)
            assert b"Traceback" not in err
            # 1 and -15: before there was anybody to hear it
            assert process.returncode in ([0, SYSTEM_FAILURE] if out else [1, -signal.SIGTERM, SYSTEM_FAILURE])
            assert not out or json.loads(out)["driver"]


def test_kill_of_run_leaves_a_machine_that_works(machine: Job) -> None:
    with started(machine, READY) as process:
        terminate(process, signal.SIGKILL)
        process.communicate(timeout=SECONDS)
    assert machine.output("echo next") == "next\n"


SIGNALS = [(0.02, "TERM"), (0.1, "TERM"), (0.15, "INT"), (0.2, "TERM"), (0.3, "TERM"), (0.4, "INT"), (0.6, "TERM")]


def test_signal_to_prepare_leaves_nothing(host: DisposableHost) -> None:
    for delay, name in SIGNALS:
        with Unchanged(host):
            job = Job(host)
            with prepare(job) as process:
                time.sleep(delay)
                terminate(process, signal.Signals[f"SIG{name}"])
                _, err = process.communicate(timeout=SECONDS)
            if process.returncode == 0:
                job.cleanup()
            assert b"Traceback" not in err, err


def test_killed_prepare_is_mended_by_the_next(host: DisposableHost) -> None:
    delays = random.Random(4711)  # noqa: S311
    with Unchanged(host):
        job = Job(host)
        for _ in range(4):
            with prepare(job) as process:
                time.sleep(delays.uniform(0.03, 0.6))
                terminate(process, signal.SIGKILL)
                process.communicate(timeout=SECONDS)
            if delays.random() < 0.5:
                job.cleanup()
            else:
                job.prepare()
                assert job.output("echo works") == "works\n"
        job.cleanup()


def prepare(job: Job) -> subprocess.Popen[bytes]:
    argv = job.argv("prepare", "bookworm")
    return job.host.popen(argv, env=job.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_two_prepares_of_one_job(host: DisposableHost) -> None:
    """Whoever comes second starts afresh: no machine is left over and the one that is there works."""
    with Job(host) as job:
        ends = together(host, [(job, job.argv("prepare", "bookworm"))] * 2)
        assert [end.status for end in ends] == [0, 0], ends
        assert job.output("hostname") == f"{job.machine}\n"
        machines = host.run(["machinectl", "list", "--no-legend"]).stdout.decode()
        assert machines.count(job.machine) == 1
