"""Children and signals: what asks us to end is never lost, never cuts a step, and leaves no child behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from nspawn_runner.host import process

CHECKOUT = Path(__file__).resolve().parents[2]
START = """
import os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
from nspawn_runner.errors import Cancelled, HostError
from nspawn_runner.host import locks, process, signals

def soon(number=signal.SIGTERM, seconds=0.3):
    threading.Thread(target=lambda: (time.sleep(seconds), os.kill(os.getpid(), number)), daemon=True).start()

def told(what):
    try:
        what()
    except Cancelled as cancelled:
        print("cancelled", cancelled.signal_number)
    else:
        print("went on")

signals.heed()
"""
WAITS = {
    "a command": 'process.run(["sleep", "600"])',
    "a command with a time-out": 'process.run(["sleep", "600"], timeout_seconds=500)',
    "a command whose pipes another holds": 'process.run(["sh", "-c", "sleep 20 & exit 0"])',
    "the first words of a command": 'process.head(["sleep", "600"], limit_bytes=9, timeout_seconds=500)',
    "a child": 'process.spawn(["sleep", "20"], stdout=process.DEVNULL, stderr=process.DEVNULL).wait()',
    "a lock": 'locks.locked(sys.argv[2], what="it").__enter__()',
    "time": "signals.sleep(600)",
}


def program(code: str, *arguments: str | Path, before: str = "") -> list[str]:
    argv = [sys.executable, "-c", before + START + code, str(CHECKOUT), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False, start_new_session=True)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.splitlines()


@pytest.mark.parametrize("what", WAITS)
@pytest.mark.parametrize("number", [1, 2, 15])
def test_whatever_waits_is_ended_by_a_signal(tmp_path: Path, what: str, number: int) -> None:
    lock = tmp_path / "lock"
    code = f"""
holder = process.spawn(["flock", sys.argv[2], "sleep", "600"]) if {what == "a lock"} else None
if holder:
    while not locks.is_held(sys.argv[2]): pass
soon({number})
told(lambda: {WAITS[what]})
print(process.run(["sh", "-c", "echo undone"]).stdout)
if holder: process.end_confined(holder)
"""
    assert program(code, lock) == [f"cancelled {number}", repr(b"undone\n")]


def test_a_signal_in_a_callback_whose_exceptions_are_lost() -> None:
    code = """
class Freed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(10000): pass
Freed()
told(lambda: process.run(["true"]))
"""
    assert program(code) == ["cancelled 15"]


def test_no_child_is_started_after_a_signal(tmp_path: Path) -> None:
    code = """
os.kill(os.getpid(), signal.SIGINT)
told(lambda: process.spawn(["touch", sys.argv[2]]))
"""
    assert program(code, tmp_path / "made") == ["cancelled 2"]
    assert not (tmp_path / "made").exists()


def test_it_is_asked_once_and_children_that_undo_things_do_not_hear_of_it() -> None:
    code = """
soon()
told(lambda: signals.sleep(600))
os.kill(os.getpid(), signal.SIGINT)
os.kill(os.getpid(), signal.SIGHUP)
print(process.run(["sh", "-c", "kill -TERM $$; kill -INT $$; kill -HUP $$; echo undone"]).stdout)
told(lambda: signals.sleep(0))
"""
    assert program(code) == ["cancelled 15", repr(b"undone\n"), "went on"]


def test_what_must_not_be_cut_is_not() -> None:
    code = """
with signals.held() as bell:
    os.kill(os.getpid(), signal.SIGTERM)
    print(process.run(["echo", "whole"]).stdout, signals.wait([bell], 5) == [bell])
told(signals.check)
"""
    assert program(code) == [repr(b"whole\n") + " True", "cancelled 15"]


def test_what_nohup_ignores_stays_ignored() -> None:
    code = """
os.kill(os.getpid(), signal.SIGHUP)
print(process.run(["sh", "-c", "kill -HUP $$; echo lives on"]).stdout)
told(signals.check)
"""
    before = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    assert program(code, before=before) == [repr(b"lives on\n"), "went on"]


def test_a_thread_goes_on_whatever_the_main_one_is_asked() -> None:
    code = """
os.kill(os.getpid(), signal.SIGTERM)
thread = threading.Thread(target=lambda: print(process.run(["echo", "said"]).stdout))
thread.start()
thread.join()
told(signals.check)
"""
    assert program(code) == [repr(b"said\n"), "cancelled 15"]


def test_a_time_that_is_over() -> None:
    code = """
for _ in range(2):
    try:
        with signals.at_most(1, "the trial"):
            process.run(["sleep", "600"])
    except HostError as error:
        print(error)
with signals.at_most(1, "the trial"):
    pass
time.sleep(1.1)
soon()
told(lambda: signals.sleep(600))
"""
    assert program(code) == ["the trial did not finish within 1 s"] * 2 + ["cancelled 15"]


def test_input_and_output_of_any_size() -> None:
    code = """
given = os.urandom(3_000_000)
print(process.run(["cat"], stdin=given).stdout == given)
print(process.run(["sh", "-c", "head -c 2000000 /dev/zero; head -c 100000 /dev/zero >&2"]).stdout == bytes(2_000_000))
"""
    assert program(code) == ["True", "True"]


def test_output_without_end_is_given_up() -> None:
    with pytest.raises(process.CommandError, match="it wrote more than 256 MiB"):
        process.run(["yes"], timeout_seconds=60)
