"""Children and signals: whoever is cancelled knows of all that he has started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
# A signal in the middle of a start: when the child runs, and nobody has been told of it.
STRUCK = """
import os, signal, subprocess, sys, threading
sys.path.insert(0, sys.argv[1])
from nspawn_runner.errors import Cancelled
from nspawn_runner.host import process

class Struck(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        print(self.pid, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

def cancel(number, _frame):
    raise Cancelled(number)

signal.signal(signal.SIGTERM, cancel)
subprocess.Popen = Struck
"""


def program(code: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", STRUCK + code, str(CHECKOUT)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("how", ["run", "spawn"])
@pytest.mark.parametrize(
    "argv", [["sleep", "600"], ["unshare", "--pid", "--fork", "--kill-child", "--", "sleep", "600"]]
)
def test_a_child_that_was_being_started_is_ended(how: str, argv: list[str]) -> None:
    done = program(
        f"""
try:
    process.{how}({argv})
except Cancelled as cancelled:
    print(cancelled.signal_number, signal.getsignal(signal.SIGTERM) is cancel)
"""
    )
    pid, said = done.stdout.splitlines()
    assert said == "15 True"
    assert not os.path.lexists(f"/proc/{pid}")
    assert "Traceback" not in done.stderr


def test_what_is_ignored_stays_ignored() -> None:
    done = program(
        """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(process.run(["sh", "-c", "kill -TERM $$; echo lives on"]).stdout)
"""
    )
    assert done.stdout.splitlines()[1] == repr(b"lives on\n")


def test_a_thread_starts_children_too() -> None:
    done = program(
        """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
thread = threading.Thread(target=lambda: print(process.run(["echo", "said"]).stdout))
thread.start()
thread.join()
"""
    )
    assert done.stdout.splitlines()[1] == repr(b"said\n")
