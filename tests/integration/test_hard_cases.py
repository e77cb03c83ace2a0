"""What once went wrong between a script and its machine: the bus restarts, a signal comes early, a file fills up."""

import os
import signal
import time

import pytest
from backends import ON_ONE
from by_hand import SECONDS, SYSTEM_FAILURE, Job, lines_of, write
from disposable_host import DisposableHost


@ON_ONE
def test_script_that_restarts_the_bus_runs_on(host: DisposableHost) -> None:
    """systemd-run loses its connection then, and ends before the script does."""
    with Job(host) as job:
        job.prepare()
        done = job.script("echo before; systemctl restart dbus; echo after; sleep 1; echo end; exit 5")
        assert (done.out, done.code) == (b"before\nafter\nend\n", "5\n")


@ON_ONE
@pytest.mark.parametrize("seconds", [0.03, 0.06, 0.1, 0.2])
def test_signal_at_the_start_of_a_script_ends_it(host: DisposableHost, seconds: float) -> None:
    with Job(host) as job:
        job.prepare()
        with job.start("sleep 60") as process:
            time.sleep(seconds)
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate(timeout=30)
        assert process.returncode != 0
        assert job.script("! pgrep --full '^sleep 60'").status == 0


@ON_ONE
def test_output_is_whole_up_to_a_signal(host: DisposableHost) -> None:
    with Job(host) as job:
        job.prepare()
        with job.start("seq 2000000; sleep 60", merged=True) as process:
            assert process.stdout is not None
            head = process.stdout.read(1 << 20)
            os.killpg(process.pid, signal.SIGTERM)
            rest, _ = process.communicate(timeout=SECONDS)
        numbers = [line for line in (head + rest).splitlines() if line.isdigit()]
        assert numbers == [str(number).encode() for number in range(1, len(numbers) + 1)]


@ON_ONE
@pytest.mark.parametrize("merged", [True, False])
def test_signal_ends_a_script_whose_output_nobody_reads(host: DisposableHost, merged: bool) -> None:
    with Job(host) as job:
        job.prepare()
        with job.start("yes", merged=merged) as process:
            time.sleep(2)
            os.killpg(process.pid, signal.SIGTERM)
            assert process.wait(SECONDS) == SYSTEM_FAILURE
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        assert job.script("! pgrep -x yes").status == 0


def test_job_cannot_fill_the_hosts_run(host: DisposableHost) -> None:
    """All that a machine may write lies where the job's other files lie, within their limit."""
    with Job(host, settings='[limits]\ndisk_max = "100M"\n') as job:
        job.prepare()
        before = os.statvfs(host.path("/run")).f_bavail
        for file in job.output("find /etc -maxdepth 1 -name 'host*' -o -maxdepth 1 -name resolv.conf").split():
            assert b"No space left" in job.script(f"head --bytes=200M /dev/zero >> {file}").err
            job.output(f": > {file}; sync")
        assert before - os.statvfs(host.path("/run")).f_bavail < 1000


def test_cleanup_needs_no_room_in_run(host: DisposableHost) -> None:
    with Job(host) as job:
        job.prepare()
        host.run(["sh", "-c", "cat /dev/zero > /run/nspawn-runner/filler"], check=False)
        try:
            job.cleanup()
        finally:
            host.path("/run/nspawn-runner/filler").unlink()
        assert not host.path(f"/run/nspawn-runner/{job.machine}.json").exists()


SYNC = """python3 -c '
import ctypes, os
libc = ctypes.CDLL(None)
print(libc.fsync(-1), libc.syscall(437, -100, b"/etc/passwd", bytes(24), 24) >= 0)
os.open("/root/synced", os.O_CREAT | os.O_WRONLY | os.O_SYNC)
'"""


@pytest.mark.parametrize("name", ["overlay_host", "btrfs_host", "trixie_host"])
def test_sync_costs_nothing_and_nothing_else_is_lost_by_it(request: pytest.FixtureRequest, name: str) -> None:
    """A program may use openat2 without another way, as bubblewrap does, and O_SYNC, as runc does."""
    with Job(request.getfixturevalue(name)) as job:
        job.prepare()
        job.host.run(["systemctl", "daemon-reload"])
        assert job.output(SYNC) == "0 True\n"
    with Job(request.getfixturevalue(name), settings='profile = "own"\nprofiles.own.suppress_sync = false\n') as job:
        job.prepare()
        assert job.output(SYNC) == "-1 True\n"


@pytest.mark.parametrize("made", ["", "; ip address add 10.213.0.1/20 dev nspr0; ip link set nspr0 up"])
def test_a_bridge_that_others_made_is_completed(overlay_host: DisposableHost, made: str) -> None:
    """Also so that it keeps its hardware address when machines come and go: with that neighbours would be forgotten."""
    overlay_host.run(["sh", "-c", f"ip link delete nspr0; ip link add name nspr0 type bridge{made}"])
    with Job(overlay_host) as job:
        job.prepare()
        for _ in range(4):
            with Job(overlay_host) as other:
                other.prepare()
            assert "0% packet loss" in job.output("ping -c 1 -w 5 10.213.0.1")
            assert "PERMANENT" in lines_of(overlay_host, "ip neighbour show dev nspr0")[0]
        assert overlay_host.path("/sys/class/net/nspr0/addr_assign_type").read_text() == "3\n"


def test_log_that_cannot_be_written_is_the_hosts_fault(overlay_host: DisposableHost) -> None:
    with Job(overlay_host) as job:
        job.prepare()
        path = write(overlay_host, "echo text; sleep 60")
        words = " ".join(str(word) for word in job.argv("run", path, "build_script"))
        done = overlay_host.run(["sh", "-c", f"exec {words} >/dev/full"], env=job.env, check=False, timeout=SECONDS)
        assert done.returncode == SYSTEM_FAILURE
        assert b"No space left" in done.stderr
        assert job.script("! pgrep --full '^sleep 60'").status == 0
