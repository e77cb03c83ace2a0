"""login: a root shell or command in the machine of a running job, with a terminal or without; its status passed on."""

import os
import signal
import subprocess
from functools import partial

import pytest
from by_hand import TOOL, Job, Unchanged, lines_of, login, wait_until
from disposable_host import DisposableHost


def refused(host: DisposableHost, name: str) -> str:
    done = host.run([TOOL, "login", name], check=False)
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr
    return done.stderr.decode()


@pytest.mark.parametrize("host_name", ["overlay_host", "trixie_host"])
def test_a_shell_and_its_status(request: pytest.FixtureRequest, host_name: str) -> None:
    host: DisposableHost = request.getfixturevalue(host_name)
    with Unchanged(host), Job(host) as job:
        job.prepare()
        status, shown = login(host, job.id, b"echo i=$(id -un) h=$(hostname) d=$PWD t=; tty; exit 7\n")
        assert status == 7, shown
        assert f"i=root h={job.machine} d=/root" in shown
        assert "/dev/pts/" in shown
        assert login(host, job.machine, b"exit\n")[0] == 0
        assert job.output("echo works") == "works\n"


def test_a_machine_that_goes_under_it(overlay_host: DisposableHost) -> None:
    with Unchanged(overlay_host), Job(overlay_host) as job:
        job.prepare()
        status, shown = login(overlay_host, job.id, b"systemctl poweroff --force --force\n")
        assert status == 255, shown
        assert f"the machine {job.machine} has ended" in shown


def test_what_cannot_be(overlay_host: DisposableHost) -> None:
    assert "job 77 has no machine" in refused(overlay_host, "77")
    assert "job ../x\\x1b has no machine" in refused(overlay_host, "../x\x1b")
    with Job(overlay_host) as job:
        job.prepare()
        assert job.machine in refused(overlay_host, "78")


# A unit could not hold any of it.
ODD = """a $HOME ${HOME} %n %% "b" 'c' \\ \n end"""


@pytest.mark.parametrize("host_name", ["overlay_host", "trixie_host"])
def test_a_command_without_a_terminal(request: pytest.FixtureRequest, host_name: str) -> None:
    host: DisposableHost = request.getfixturevalue(host_name)
    with Unchanged(host), Job(host) as job:
        job.prepare()
        before = job.output("ls /run")
        script = 'systemctl daemon-reload; cat; echo "$0" "$1" "$(id -un)" "$PWD" >&2; exit 7'
        words = ["sh", "-c", script, ODD, "--"]
        done = host.run([TOOL, "login", job.id, "--", *words], stdin=b"through\n", check=False)
        assert (done.returncode, done.stdout, done.stderr.decode()) == (7, b"through\n", f"{ODD} -- root /root\n")
        nothing = host.run([TOOL, "login", job.machine, "--", "sh", "-c", "cat; tty"], check=False)
        assert (nothing.returncode, nothing.stdout, nothing.stderr) == (1, b"not a tty\n", b"")
        assert host.run([TOOL, "login", job.id, "--", "no-such"], check=False).returncode == 127
        shell = host.run([TOOL, "login", job.id], stdin=b"hostname; exit 3\n", check=False)
        assert (shell.returncode, shell.stdout.decode()) == (3, f"{job.machine}\n")
        assert job.output("ls /run") == before


def test_a_command_on_a_terminal(overlay_host: DisposableHost) -> None:
    with Unchanged(overlay_host), Job(overlay_host) as job:
        job.prepare()
        wait = "tty; echo ready; sleep 60"
        status, shown = login(overlay_host, job.id, b"\x03", "sh", "-c", wait, prompt=b"ready")
        assert (status, "/dev/pts/" in shown) == (130, True), shown
        assert login(overlay_host, job.id, b"", "sh", "-c", "echo ready; exit 9", prompt=b"ready")[0] == 9


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_interrupted(overlay_host: DisposableHost, number: signal.Signals) -> None:
    with Unchanged(overlay_host), Job(overlay_host) as job:
        job.prepare()
        words = ["sh", "-c", "echo up; sleep 61; sleep 62"]
        call = partial(overlay_host.popen, [TOOL, "login", job.id, "--", *words])
        with call(stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            os.killpg(process.pid, number)
            said = process.communicate(timeout=30)[1]
        assert (process.returncode, said.decode()) == (128 + number, f"nspawn-runner: stopped by {number.name}\n")
        wait_until(lambda: not lines_of(overlay_host, "pgrep --full '^sleep 6[12]'"))


# What a command is given for its streams, and what one that it leaves behind writes there later.
STAYS = (
    "echo now $(readlink /proc/self/fd/1 /proc/self/fd/2 | cut -c 1-5 | xargs); "
    "(sleep 1; echo later; touch /root/lived) & exit 4"
)


def test_a_machine_gets_no_hold_on_our_streams(overlay_host: DisposableHost) -> None:
    with Unchanged(overlay_host), Job(overlay_host) as job:
        job.prepare()
        call = f"{TOOL} login {job.id} -- sh -c '{STAYS}'"
        try:
            assert lines_of(overlay_host, f"{call} >/root/said 2>/root/said; echo $?") == ["4"]
            assert lines_of(overlay_host, f"timeout 5 {call} | cat; sleep 2") == ["now pipe: pipe:"]
            # What it left behind lives on; the machine's journal has what it says.
            assert "later" in job.output("rm /root/lived; journalctl --identifier=login --output=cat")
            assert lines_of(overlay_host, "cat /root/said") == ["now pipe: pipe:"]
        finally:
            overlay_host.run(["rm", "-f", "/root/said"])
        take = f"{TOOL} login {job.id} -- head -n 1"
        assert lines_of(overlay_host, f"seq 9 >/root/in; {{ {take}; {take}; cat; }} </root/in; rm /root/in") == [
            "1",
            "1",
            *map(str, range(1, 10)),
        ]
        full = overlay_host.run(["sh", "-c", f"{TOOL} login {job.id} -- seq 100000 >/dev/full"], check=False)
        said = "nspawn-runner: cannot write to our own standard streams: No space left on device\n"
        assert (full.returncode, full.stderr.decode()) == (2, said)
        assert lines_of(overlay_host, f"{TOOL} login {job.id} -- seq 1000000 | head -n 1") == ["1"]
