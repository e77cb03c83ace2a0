"""A unit means the same after systemd has read it again, on the host and in a machine, at every stage of a job."""

import itertools
import time

import pytest
from by_hand import BUILD_FAILURE, SECONDS, SYSTEM_FAILURE, Job, Unchanged, terminate, wait_until
from disposable_host import DisposableHost

HOSTS = ("btrfs_host", "trixie_host")  # each has another systemd and other layers
AGAIN = ("daemon-reload", "daemon-reexec")
PLACES = list(itertools.product(HOSTS, AGAIN))
REBOOT = "systemctl reboot; sleep 60"
REACHES_ITS_ROUTER = "ping -c 1 -W 5 $(ip route show default | cut -d ' ' -f 3) >/dev/null && echo reaches"
NAMES = "ExecStart,ExecStopPost,KillMode,Description,LoadState,OOMPolicy,TasksMax,SyslogIdentifier"
SHOWN = f"--property={NAMES},CPUQuotaPerSecUSec"


@pytest.fixture(params=PLACES, ids=" ".join)
def place(request: pytest.FixtureRequest) -> tuple[DisposableHost, str]:
    name, again = request.param
    host: DisposableHost = request.getfixturevalue(name)
    return host, again


def commands(job: Job) -> list[str]:
    """Return what systemd knows of the machine's unit, but for when and with which pid it ran."""
    shown = job.host.run(["systemctl", "show", SHOWN, job.unit]).stdout.decode().splitlines()
    return [line.partition(" ; start_time=")[0].replace("\\x", "") for line in sorted(shown)]


def test_the_hosts_systemd(place: tuple[DisposableHost, str]) -> None:
    host, again = place
    with Unchanged(host):
        with Job(host, settings="[limits]\ncpus = 1.5\n") as job:
            job.prepare()
            before = commands(job)
            assert "CPUQuotaPerSecUSec=1.500000s" in before
            for _ in range(2):
                host.run(["systemctl", again])
            assert commands(job) == before
            assert job.script("exit 3").code == "3\n"
            assert job.script(REBOOT).status == BUILD_FAILURE
            assert job.output(REACHES_ITS_ROUTER) == "reaches\n"
            with job.start("echo ready; sleep 600") as process:
                assert process.stdout
                assert process.stdout.readline() == b"ready\n"
                host.run(["systemctl", again])
                began = time.monotonic()
                host.run(["kill", "-KILL", job.main_pid()])
                _, err = process.communicate(timeout=SECONDS)
            assert (process.returncode, time.monotonic() - began < 10) == (SYSTEM_FAILURE, True), err
            assert b"died under the script" in err
        with Job(host) as job:
            job.prepare()
            layer = job.layer()
            host.run(["systemctl", again])
            host.run(["systemctl", "stop", job.unit])
            wait_until(lambda: not layer.exists())


@pytest.mark.parametrize("name", HOSTS)
def test_while_a_machine_boots_and_goes(request: pytest.FixtureRequest, name: str) -> None:
    host = request.getfixturevalue(name)
    loop = host.popen(["sh", "-c", "while sleep 0.05; do systemctl daemon-reload; done"])
    try:
        with Unchanged(host), Job(host) as job:
            job.prepare()
            assert job.output("echo works; sleep 0.3") == "works\n"
            job.cleanup()
    finally:
        loop.kill()
        loop.wait()


def test_the_machines_systemd(place: tuple[DisposableHost, str]) -> None:
    """As at the installation of any service."""
    host, again = place
    script = f"""
unit=$(sed 's|.*/||' /proc/$$/cgroup | grep '^nspawn-runner' | head -n 1)
show() {{ systemctl show {SHOWN} "$unit" | sed 's/ ; start_time=.*//'; }}
show > /tmp/before
(setsid sleep 400 >/dev/null 2>&1 &)
systemctl {again}
show | diff /tmp/before - && grep LoadState /tmp/before
exit 4
"""
    with Job(host) as job:
        job.prepare()
        done = job.script(script)
        assert (done.out, done.code) == (b"LoadState=loaded\n", "4\n"), done.err.decode()
        assert job.script("pgrep --full '^sleep 400'").status == 0


@pytest.mark.parametrize("name", ["overlay_host", "trixie_host"])
@pytest.mark.parametrize("sweep", ["isolate multi-user.target", "default", "isolate basic.target"])
def test_a_script_outlives_a_sweep(request: pytest.FixtureRequest, name: str, sweep: str) -> None:
    with Job(request.getfixturevalue(name)) as job:
        job.prepare()
        done = job.script(f"systemctl {sweep}; sleep 0.5; echo lives on; exit 5")
        assert (done.out, done.code) == (b"lives on\n", "5\n"), done.err.decode()


@pytest.mark.soak
def test_a_machine_without_a_bus(overlay_host: DisposableHost) -> None:
    """Nobody in it can say that a script is over, or start another; only the first stage waits."""
    with Job(overlay_host) as job:
        job.prepare()
        began = time.monotonic()
        done = job.script("systemctl stop dbus.socket dbus.service; kill -KILL $PPID; kill -KILL $$")
        assert (done.status, done.code) == (BUILD_FAILURE, "137\n"), done.err.decode()
        assert time.monotonic() - began < 30
        done = job.script("echo next", "after_script")
        assert done.status == BUILD_FAILURE
        assert "its bus has ended" in done.message
        began = time.monotonic()
        assert job.script("echo next", "upload_artifacts_on_failure").status == BUILD_FAILURE
        assert time.monotonic() - began < 30


def test_a_script_of_a_mute_machine_is_ended_soon(overlay_host: DisposableHost) -> None:
    with Unchanged(overlay_host), Job(overlay_host) as job:
        job.prepare()
        with job.start("kill -STOP $(pidof dbus-daemon); echo ready; sleep 600") as process:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            began = time.monotonic()
            terminate(process)
            process.communicate(timeout=SECONDS)
        assert time.monotonic() - began < 30
        job.cleanup()


# The network device that the machine gets at its next boot is taken away before it has its address.
NO_DEVICE = """
printf '[Unit]\\nDefaultDependencies=no\\n[Service]\\nType=oneshot\\nExecStart=/bin/ip link delete host0\\n' \
    >/etc/systemd/system/no-device.service
mkdir /etc/systemd/system/sysinit.target.wants
ln --symbolic ../no-device.service /etc/systemd/system/sysinit.target.wants
(sleep 0.3; systemctl reboot --force) &
"""
HARMS = {
    "wipes the memory file": "truncate --size=0 /proc/$$/fd/0",
    "rewinds it": "exec 9<>/proc/$$/fd/0; head --bytes=64 /dev/zero >&9",
    "nothing": ":",
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_script_that_kills_its_wrapper_fails_and_is_not_run_again(overlay_host: DisposableHost, harm: str) -> None:
    with Job(overlay_host) as job:
        job.prepare()
        done = job.script(f"echo ran >> /root/runs; {HARMS[harm]}; kill -KILL $PPID; sleep 1; exit 0")
        assert (done.status, done.code) == (BUILD_FAILURE, "137\n"), done.err.decode()
        assert job.output("cat /root/runs") == "ran\n"


@pytest.mark.parametrize(
    "deed",
    [
        "ln --symbolic --force /bin/true /bin/sh",
        "rm --force /bin/sh",
        "(sleep 0.3; systemctl poweroff --force) &",
        "(sleep 0.3; systemctl exit 1) &",
        "rm /usr/lib/systemd/systemd; (sleep 0.3; systemctl reboot --force) &",
        NO_DEVICE,
    ],
)
def test_a_job_that_breaks_its_machine_is_blamed_for_it(overlay_host: DisposableHost, deed: str) -> None:
    with Job(overlay_host) as job:
        job.prepare()
        assert job.script(deed).status == 0
        time.sleep(1)
        done = job.script("echo next", "step_next")
        assert (done.status, done.out) == (BUILD_FAILURE, b""), done.err.decode()
        assert len(done.err.splitlines()) < 20


@pytest.mark.parametrize("status", [1, 3])
def test_a_machine_that_exits_is_the_job_s_doing(overlay_host: DisposableHost, status: int) -> None:
    with Job(overlay_host) as job:
        job.prepare()
        done = job.script(f"systemctl exit {status}; sleep 60")
        assert (done.status, done.code) == (BUILD_FAILURE, "143\n"), done.err.decode()
        assert b"Failed to query unit state" not in done.err


@pytest.mark.parametrize("deed", ["kill -SEGV 1", "kill -ABRT 1", "kill -KILL -1", "halt --force", "kill -RTMIN+15 1"])
def test_rare_ends_are_the_job_s_doing(overlay_host: DisposableHost, deed: str) -> None:
    with Unchanged(overlay_host), Job(overlay_host) as job:
        job.prepare()
        done = job.script(f"{deed}; sleep 60")
        assert done.status == BUILD_FAILURE, done.err.decode()
        assert b"Traceback" not in done.err
        job.cleanup()


def test_what_ended_a_machine_is_told_once(overlay_host: DisposableHost) -> None:
    with Job(overlay_host) as job:
        job.prepare()
        first = job.script("systemctl poweroff --force; sleep 60").message
        assert "the end of the machine's console" in first
        assert first.startswith("nspawn-runner: ")
        for stage in ("after_script", "upload_artifacts_on_failure"):
            done = job.script("echo next", stage)
            assert (done.status, done.err.decode().splitlines()) == (
                BUILD_FAILURE,
                [f"nspawn-runner: the machine {job.machine} is gone: it was powered off from inside"],
            )
