"""What a script leaves running: it stays until cleanup, its later output goes to the machine's journal, and the stage
ends without it. The tests share a machine."""

import time
from collections.abc import Iterator

import pytest
from by_hand import BUILD_FAILURE, SECONDS, Job, wait_until
from disposable_host import DisposableHost

LONG = 600  # as long as this runs what must not be waited for
SERVER = "python3 -m http.server --bind 127.0.0.1 {port} {output} &\n"
ASK = "exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; head -n 1 <&3"
MUCH = "yes \"$(printf '%1000s' x)\" | head -c 30000000"
WAIT = "until (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; do sleep 0.05; done\n"


@pytest.fixture(scope="module")
def machine(either_host: DisposableHost) -> Iterator[Job]:
    with Job(either_host) as job:
        job.prepare()
        yield job


@pytest.mark.parametrize(("port", "output"), [(8001, ""), (8002, ">/dev/null 2>&1"), (8003, "2>&1")])
def test_server_answers_in_the_following_scripts(machine: Job, port: int, output: str) -> None:
    began = time.monotonic()
    machine.output(SERVER.format(port=port, output=output) + WAIT.format(port=port))
    assert time.monotonic() - began < LONG
    for stage in ("step_release", "after_script"):
        done = machine.script(ASK.format(port=port), stage)
        assert done.out == b"HTTP/1.0 200 OK\r\n"


@pytest.mark.parametrize("how", ["", "setsid", "nohup"])
@pytest.mark.parametrize("status", [0, 3])
def test_end_of_file_comes_with_the_end_of_the_script(machine: Job, how: str, status: int) -> None:
    with machine.start(f"{how} sleep {LONG} & echo $!; echo err >&2; exit {status}") as process:
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == (BUILD_FAILURE if status else 0)
    assert err.endswith(b"err\n")
    assert machine.output(f"cat /proc/{int(out)}/comm; kill {int(out)}") == "sleep\n"


def test_background_process_goes_on_writing(machine: Job) -> None:
    """To stdout and stderr, which it inherited: what comes after the stage's end is in the machine's journal."""
    ticks = "n=0; while [ ! -e /root/stop ]; do n=$((n+1)); echo tick-$n; echo tock-$n >&2; sleep 0.05; done"
    done = machine.script(f"({ticks}; echo $n > /root/ended) & echo started", "build_script")
    assert done.status == 0
    assert done.out.startswith(b"started\n") or b"\nstarted\n" in done.out
    machine.output("sleep 1; touch /root/stop")
    wait_until(lambda: machine.script("cat /root/ended").status == 0)
    last = int(machine.output("cat /root/ended"))
    assert last > 10
    wait_until(lambda: f"tick-{last}\n" in machine.output("journalctl --output=cat --identifier=build_script"))
    journal = machine.output("journalctl --output=cat --identifier=build_script").splitlines()
    seen = done.out.decode().splitlines() + journal
    assert [line for line in seen if line.startswith("tick-")] == [f"tick-{n}" for n in range(1, last + 1)]
    assert f"tock-{last}" in journal


def test_much_output_after_the_end_blocks_nothing(machine: Job) -> None:
    machine.output("rm -f /root/go /root/ended")
    flood = f"until [ -e /root/go ]; do sleep 0.05; done; {MUCH}; echo $? > /root/ended"
    assert machine.script(f"({flood}) & echo started").out == b"started\n"
    machine.output("touch /root/go")
    wait_until(lambda: machine.script("cat /root/ended").out == b"0\n")


def test_output_that_is_in_the_way_of_the_end(machine: Job) -> None:
    """A background process that floods all the time neither holds the stage up nor loses what the script said."""
    with machine.start("yes flood & echo $! > /root/pid; sleep 0.2; echo last >&2; exit 3") as process:
        assert process.stdout
        assert process.stderr
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == BUILD_FAILURE
    assert err == b"last\n"
    assert set(out.split(b"\n")) <= {b"flood", b"floo", b"flo", b"fl", b"f", b""}
    assert machine.output('kill "$(cat /root/pid)" && echo killed') == "killed\n"
