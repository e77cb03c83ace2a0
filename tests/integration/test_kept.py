"""keep_failed: the root of a failed job is kept, can be entered, and goes by gc."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from by_hand import SECONDS, SYSTEM_FAILURE, TOOL, Job, Unchanged, login, payload, terminate
from disposable_host import STATE_FOLDER, DisposableHost
from faults import full_run

KEEP = 'keep_failed = "2h"\n'


class KeptJob(Job):
    """A job that the runner calls for: by hand with --id nothing is kept. What is kept is removed as a person does."""

    def __init__(self, host: DisposableHost, number: int, settings: str = KEEP) -> None:
        super().__init__(host, str(number), payload=payload(number), settings=settings)

    def __exit__(self, *_: object) -> None:
        assert self.host.run([TOOL, "cleanup", "--id", self.id]).stderr == b""


@contextlib.contextmanager
def logged_in(host: DisposableHost, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A shell of login that has shown its prompt."""
    ours, theirs = pty.openpty()
    with host.popen([TOOL, "login", name], stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while b"# " not in shown:
            shown += os.read(ours, 4096)
        yield process
    os.close(ours)


def listed(host: DisposableHost) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(host.run([TOOL, "list", "--json"]).stdout)
    return found


@pytest.mark.parametrize("limits", ["", '[limits]\ndisk_max = "300M"\n'])
def test_a_failed_job(host: DisposableHost, limits: str) -> None:
    with Unchanged(host), KeptJob(host, 7801, KEEP + limits) as job:
        job.prepare(None)
        job.script("echo the trace >/root/trace; mkdir /tmp/in-memory; exit 3")
        said = job.script("true", "cleanup_file_variables").message
        assert "'s root is kept on" in said
        assert said.endswith("for 2 h: nspawn-runner login 7801\n")
        for _ in range(2):  # the runner may call it again
            job.cleanup()
        (row,) = listed(host)
        assert (row["state"], row["cpu_seconds"]) == ("kept", None)
        assert 7100 < row["kept_until"] - time.time() < 7300
        table = host.run([TOOL, "list"]).stdout.decode()
        assert "look into it: nspawn-runner login run-7801\n" in table
        assert host.run(["systemctl", "is-active", job.unit], check=False).returncode != 0
        status, shown = login(host, "7801", b"cat /root/trace; id -u; ls /sys/class/net | xargs; exit 5\n")
        assert status == 5, shown
        assert "the trace\r\n0\r\nlo\r\n" in shown
        words = ["sh", "-c", 'cat - /root/trace; echo "$0"; exit 6', "a $HOME 'b' %n"]
        done = host.run([TOOL, "login", "7801", "--", *words], stdin=b"given\n", check=False)
        assert (done.returncode, done.stdout) == (6, b"given\nthe trace\na $HOME 'b' %n\n")
        # The file that the output goes to is not the root's to keep.
        into_file = f"{TOOL} login 7801 -- readlink /proc/self/fd/1 >/root/said; cut -c 1-5 /root/said; rm /root/said"
        assert host.run(["sh", "-c", into_file]).stdout == b"pipe:\n"
        assert host.run([TOOL, "gc"]).stdout == b"nothing is left over\n"
        assert "job 7801 is over; its root is kept" in job.script("true").message


def test_nothing_is_kept_where_it_cannot_be_noted(host: DisposableHost) -> None:
    with Unchanged(host), KeptJob(host, 7812) as job:
        job.prepare(None)
        job.script("exit 3")
        with full_run(host):
            job.cleanup()
        assert listed(host) == []


def test_gc_ends_it(host: DisposableHost) -> None:
    with Unchanged(host), KeptJob(host, 7802, 'keep_failed = "2s"\n') as job:
        job.prepare(None)
        job.script("exit 3")
        job.cleanup()
        assert [row["state"] for row in listed(host)] == ["kept"]
        time.sleep(2.1)
        said = host.run([TOOL, "gc"]).stdout
        assert b"it was kept long enough" in said
        assert listed(host) == []


def test_gc_leaves_one_that_somebody_is_in(host: DisposableHost) -> None:
    with Unchanged(host), KeptJob(host, 7803, 'keep_failed = "1s"\n') as job:
        job.prepare(None)
        job.script("exit 3")
        job.cleanup()
        time.sleep(1.1)
        with logged_in(host, job.id) as process:
            assert host.run([TOOL, "gc"]).stdout == b"nothing is left over\n"
            process.kill()
        assert b"removed" in host.run([TOOL, "gc"]).stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_login_that_is_killed(host: DisposableHost, number: int) -> None:
    with Unchanged(host), KeptJob(host, 7808) as job:
        job.prepare(None)
        job.script("echo the trace >/root/trace; exit 3")
        job.cleanup()
        with logged_in(host, job.id) as process:
            terminate(process, number)
        assert "the trace" in login(host, job.id, b"cat /root/trace; exit 0\n")[1]


def test_whoever_looks_into_it_is_confined(host: DisposableHost) -> None:
    """As the job was: what it left there may be hostile."""
    settings = KEEP + 'user_namespace = false\n[limits]\nmemory_max = "256M"\n'
    with Unchanged(host), KeptJob(host, 7809, settings) as job:
        job.prepare(None)
        job.script("exit 3")
        job.cleanup()
        typed = b"mknod hd b 7 0 && head -c 1 hd; echo d=$?; python3 -c 'b\"x\" * (600 << 20)'; echo m=$?; exit 0\n"
        shown = login(host, job.id, typed)[1]
        assert re.search(r"\bd=[1-9]", shown), shown
        assert re.search(r"\bm=137", shown), shown


def test_nothing_is_kept_on_a_disk_that_is_nearly_full(small_host: DisposableHost) -> None:
    host = small_host
    with Unchanged(host), KeptJob(host, 7811) as job:
        job.prepare(None)
        job.script("exit 3")
        disk = os.statvfs(host.path(STATE_FOLDER))
        much = disk.f_bavail * disk.f_frsize - disk.f_blocks * disk.f_frsize // 12
        host.run(["fallocate", f"--length={much}", f"{STATE_FOLDER}/.filler"])
        try:
            assert "kept" not in job.script("true", "cleanup_file_variables").message
            job.cleanup()
            assert listed(host) == []
        finally:
            host.path(f"{STATE_FOLDER}/.filler").unlink()


def test_nothing_is_kept_of_what_is_gone(host: DisposableHost) -> None:
    with Unchanged(host), KeptJob(host, 7813) as job:
        job.prepare(None)
        job.script("exit 3")
        host.run(["systemctl", "stop", job.unit])
        remove = "btrfs subvolume delete" if host.state == "btrfs" else "rm -r"
        host.run(["sh", "-c", f"{remove} {job.record()['layer']}"])
        job.cleanup()
        assert listed(host) == []


def test_a_run_that_is_killed_has_not_succeeded(host: DisposableHost) -> None:
    with Unchanged(host), KeptJob(host, 7812) as job:
        job.prepare(None)
        running = job.start("echo begun; sleep 60")
        assert running.stdout is not None
        assert running.stdout.readline() == b"begun\n"
        terminate(running, signal.SIGKILL)
        running.communicate(timeout=SECONDS)
        job.cleanup()
        assert [row["state"] for row in listed(host)] == ["kept"]


def test_what_is_not_kept(host: DisposableHost) -> None:
    """A success, a failure of after_script alone, and what is called by hand."""
    with Unchanged(host), KeptJob(host, 7804) as job:
        job.prepare(None)
        job.output("true")
        assert job.script("exit 1", "after_script").status != 0
        assert "root" not in job.script("true", "cleanup_file_variables").message
        job.cleanup()
        with Job(host, settings=KEEP) as own:
            own.prepare()
            own.script("exit 1")
        assert listed(host) == []


def test_a_machine_that_was_lost(host: DisposableHost) -> None:
    with Unchanged(host), KeptJob(host, 7805) as job:
        job.prepare(None)
        job.output("echo the trace >/root/trace")
        host.run(["kill", "-9", job.main_pid()])
        assert job.script("true").status == SYSTEM_FAILURE
        job.cleanup()
        assert "the trace" in login(host, "7805", b"cat /root/trace; exit 0\n")[1]


def test_the_same_job_again(host: DisposableHost) -> None:
    """Its new machine takes the place of what was kept."""
    with Unchanged(host), KeptJob(host, 7806) as job:
        job.prepare(None)
        job.script("touch /root/trace; exit 1")
        job.cleanup()
        job.prepare(None)
        assert job.output("ls /root") == ""
        job.cleanup()
        assert listed(host) == []


def test_a_cleanup_that_is_killed(host: DisposableHost) -> None:
    """Whatever it left, the next one or gc ends it."""
    with Unchanged(host):
        for milliseconds in (30, 60, 100, 200):
            with KeptJob(host, 7807) as job:
                job.prepare(None)
                job.script("exit 1")
                argv = ["timeout", "--signal=KILL", f"{milliseconds / 1000}", *job.argv("cleanup")]
                host.run(argv, env=job.env, check=False)
                job.cleanup()
                host.run([TOOL, "gc"])
                assert {row["state"] for row in listed(host)} <= {"kept"}
        assert listed(host) == []
