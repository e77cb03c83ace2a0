"""One script in a machine: its output, its true status, its environment. The tests share a machine."""

import os
import subprocess
from collections.abc import Iterator

import pytest
from by_hand import BUILD_FAILURE, SECONDS, SYSTEM_FAILURE, Done, Job, wait_until, write
from disposable_host import DisposableHost

SECRET = "s3cr3t-of-the-job"  # noqa: S105
LINES = 200_000
LOGIN = {
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "SHELL": "/bin/bash",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "TERM": "xterm",
    "PWD": "/root",
}
SERVICE = {
    "CUSTOM_ENV_SECRET": SECRET,
    "TOKEN": SECRET,
    "INVOCATION_ID": "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
    "JOURNAL_STREAM": "8:1",
    "LANG": "de_DE.UTF-8",
}


@pytest.fixture(scope="module")
def machine(either_host: DisposableHost) -> Iterator[Job]:
    with Job(either_host) as job:
        assert job.call("prepare", "bookworm", env=SERVICE).status == 0
        yield job


def test_output_is_complete(machine: Job) -> None:
    done = machine.script(f"seq {LINES}; seq {LINES} >&2")
    expected = "".join(f"{number}\n" for number in range(1, LINES + 1)).encode()
    assert done.status == 0
    assert done.out == expected
    assert done.err == expected


def test_output_is_bytes(machine: Job) -> None:
    code = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)"
    assert machine.script(f"python3 -c '{code}'; printf 'no end of line'") == Done(
        0, bytes(range(256)) * 1000 + b"no end of line", b""
    )


def test_output_comes_at_once(machine: Job) -> None:
    machine.output("rm -f /root/go")
    with machine.start("printf first; until [ -e /root/go ]; do sleep 0.05; done; echo second") as process:
        assert process.stdout
        assert os.read(process.stdout.fileno(), 100) == b"first"
        assert process.poll() is None
        machine.output("touch /root/go")
        assert process.stdout.read() == b"second\n"
    assert process.returncode == 0


def test_order_of_streams_that_are_one(machine: Job) -> None:
    with machine.start("for n in $(seq 500); do echo out $n; echo err $n >&2; done", merged=True) as process:
        output, _ = process.communicate(timeout=SECONDS)
    assert output == "".join(f"out {number}\nerr {number}\n" for number in range(1, 501)).encode()


def test_streams_stay_apart(machine: Job) -> None:
    done = machine.script("for n in 1 2 3; do echo out; echo err >&2; done")
    assert (done.out, done.err) == (b"out\n" * 3, b"err\n" * 3)


def test_streams_that_are_opened_again(machine: Job) -> None:
    done = machine.script("echo out > /dev/stdout; echo err > /dev/stderr; echo more >> /proc/self/fd/1")
    assert (done.status, done.out, done.err) == (0, b"out\nmore\n", b"err\n")


def test_reader_that_goes_away(machine: Job) -> None:
    """The script meets the broken pipe itself and goes on as it likes; the stage ends with it."""
    machine.output("rm -f /root/how")
    with machine.start("yes; echo $? > /root/how; exit 3") as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.read(4) == b"y\ny\n"
        process.stdout.close()
        process.stderr.read()
        assert process.wait(SECONDS) == BUILD_FAILURE
    assert machine.output("cat /root/how") == "141\n"
    assert machine.script("pgrep -x yes").status == BUILD_FAILURE


def test_sizes_of_scripts(machine: Job) -> None:
    assert machine.script("") == Done(0, b"", b"")
    assert machine.script("# nothing") == Done(0, b"", b"")
    comment = "# " + "x" * 98 + "\n"
    assert machine.script(comment * 10_500 + "echo end") == Done(0, b"end\n", b"")
    word = "x" * 5000
    assert machine.script(f"echo {word}\n" * 50) == Done(0, f"{word}\n".encode() * 50, b"")
    assert machine.script(f": '{'x' * 2_000_000}'; echo end") == Done(0, b"end\n", b"")


def test_nothing_in_a_script_is_expanded(machine: Job) -> None:
    text = r"""printf '%s\n' '$HOME ${PATH} $$ %n %i %% \x41 ; " `id` $(id) !!' """
    expected = r"""$HOME ${PATH} $$ %n %i %% \x41 ; " `id` $(id) !!""" + "\n"
    for stage in ("step_script", "$(touch /root/bad)", "%n ${PATH}", "x" * 5000, "", "a\nb", "../../x"):
        done = machine.script(text, stage)
        assert done == Done(0, expected.encode(), b""), stage


STATUSES = [0, 1, 2, 3, 91, 92, 126, 127, 128, 137, 143, 200, 203, 217, 245, 250, 251, 252, 253, 254, 255]


@pytest.mark.parametrize("status", STATUSES)
def test_exit_status(machine: Job, status: int) -> None:
    done = machine.script(f"exit {status}")
    expected = (BUILD_FAILURE, f"{status}\n") if status else (0, None)
    assert (done.status, done.code) == expected
    assert done[1:3] == (b"", b"")


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
        ("kill -INT $$", 130),
        ("kill -HUP $$", 129),
        ("kill -SEGV $$", 139),
        ("set -e; false", 1),
        ("no-such-command", 127),
        ("if true; then", 2),
        ("exec false", 1),
        ("exec sh -c 'exit 7'", 7),
        ("echo exited 0 1<>/dev/fd/0; exit 7", 7),
        (": > /dev/fd/0; exit 7", 7),
    ],
)
def test_status_of_a_bad_end(machine: Job, script: str, code: int) -> None:
    done = machine.script(script)
    assert (done.status, done.code) == (BUILD_FAILURE, f"{code}\n")
    assert b"nspawn-runner" not in done.err


@pytest.mark.parametrize("script", ["kill -9 -1; sleep 60", "kill -9 $PPID; sleep 60", "kill -TERM $PPID; sleep 60"])
def test_kill_of_everything_around_the_script(machine: Job, script: str) -> None:
    """Blames the job, which did it; the machine runs on."""
    done = machine.script(script)
    assert (done.status, done.code) in {(BUILD_FAILURE, "137\n"), (BUILD_FAILURE, "143\n")}
    assert "the script's shell was killed" in done.message
    assert len(done.message.splitlines()) <= 3
    assert machine.output("echo still here") == "still here\n"


def test_status_of_an_earlier_stage_is_not_believed(machine: Job) -> None:
    code_file = machine.host.path(machine.code_file)
    for content in ("7\n", "rubbish"):
        code_file.write_text(content)
        assert machine.script("true") == Done(0, b"", b"", None)
        code_file.write_text(content)
        assert machine.script("exit 3").code == "3\n"
        code_file.write_text(content)
        assert machine.call("run", "/nonesuch", "build_script")[3] is None


def test_shell_that_is_asked_for(machine: Job) -> None:
    done = machine.script('echo "$SHELL"; cat /proc/$$/comm', shell="/bin/sh")  # noqa: S604
    assert done.out == b"/bin/sh\nsh\n"
    done = machine.script("echo no", shell="/bin/nonesuch")  # noqa: S604
    assert (done.status, done.out) == (BUILD_FAILURE, b"")
    assert "has no /bin/nonesuch" in done.message
    for shell in ("bash", "-x", "/bin/bash\n", "/bin/$(touch /root/bad)", "/bin/bash -x"):
        done = machine.script("echo no", shell=shell)
        assert done.status != 0, shell
        assert done.out == b""
        assert len(done.message.splitlines()) <= 3
    assert machine.script("ls /root/bad").status == BUILD_FAILURE


@pytest.mark.parametrize("path", ["/nonesuch", "/root", "", "/root/x\ny", "x" * 5000, "/dev/null/x"])
def test_script_that_cannot_be_read(machine: Job, path: str) -> None:
    done = machine.call("run", path, "build_script")
    assert (done.status, done.out) == (SYSTEM_FAILURE, b"")
    assert done.last_words[0].startswith("nspawn-runner: cannot read the script")
    assert len(done.last_words) <= 3
    assert path[:20].replace("\n", "\\n") in done.message


def test_environment_is_that_of_a_root_login(machine: Job) -> None:
    done = machine.script("tr '\\0' '\\n' < /proc/$$/environ; echo; umask; pwd; tty", env=SERVICE)
    *environment, umask, folder, terminal = done.out.decode().splitlines()
    assert dict(line.split("=", 1) for line in environment if line) == LOGIN
    assert (umask, folder, terminal) == ("0022", "/root", "not a tty")
    assert machine.output("ls /proc/$$/fd").split() == ["0", "1", "2"]


def test_nothing_of_the_driver_is_seen(machine: Job) -> None:
    """Neither in the machine nor in the environment of a child of ours, an argument or the host's journal."""
    inside = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c 's3cr3t-[o]f'"
    assert machine.script(inside, env=SERVICE).out == b"0\n"
    machine.output("rm -f /root/go")
    path = write(machine.host, f": {SECRET}; echo ready; until [ -e /root/go ]; do sleep 0.05; done")
    argv = machine.argv("run", path, "build_script")
    with machine.host.popen(argv, env={**machine.env, **SERVICE}, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        outside = (
            "for f in /proc/[0-9]*; do "
            "tr '\\0' '\\n' < $f/environ | grep -q 's3cr3t-[o]f' && tr '\\0' ' ' < $f/cmdline && echo; "
            "tr '\\0' ' ' < $f/cmdline | grep 's3cr3t-[o]f'; done 2>/dev/null"
        )
        holders = machine.host.run(["bash", "-c", outside], check=False).stdout.decode().splitlines()
        machine.output("touch /root/go")
    assert len(holders) == 1, holders
    assert f"nspawn-runner run --id {machine.id} " in holders[0]
    assert SECRET not in machine.host.journal()


def test_scripts_at_once(machine: Job) -> None:
    running = [machine.start(f"sleep 0.2; echo {number}; exit {number}") for number in range(8)]
    for number, process in enumerate(running):
        out, _ = process.communicate(timeout=SECONDS)
        assert out == f"{number}\n".encode()
        assert process.returncode == (BUILD_FAILURE if number else 0)


def test_no_unit_of_a_script_stays(machine: Job) -> None:
    machine.script("exit 3", "after_script")
    machine.script("kill -9 $$", "after_script")
    listing = "systemctl list-units --all --plain --no-legend 'nspawn-runner-after*'"
    wait_until(lambda: machine.output(listing) == "", seconds=10)
