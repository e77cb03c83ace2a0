"""Jobs with one fault each, drawn by chance, and what must be true of them all the same.

A round is a job of gitlab-runner's: prepare, run, cleanup. One of the three is struck. Whatever that was, no verdict is
wrong, nothing is left in the end, and a job beside it notices nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from by_hand import (
    BUILD_FAILURE,
    HOLDINGS,
    HOLDINGS_SOON,
    SECONDS,
    SYSTEM_FAILURE,
    TOOL,
    Done,
    Job,
    difference,
    lines_of,
    payload,
    wait_until,
    write,
)
from disposable_host import DisposableHost
from faults import CLEANUP, CONDITIONS, PREPARE, RUN, Call, Fault, drawn_call, failing_tool

KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
SETTINGS = "/etc/nspawn-runner/nspawn-runner.toml"
COUNTING = """exec python3 -c '
import os, time
number = 0
while not os.path.exists("/root/enough"):
    print(number, flush=True)
    number += 1
    time.sleep(0.1)
raise SystemExit(5)'"""


class Bystander:
    """A job that counts, and must not notice what happens beside it."""

    def __init__(self, host: DisposableHost, folder: Path) -> None:
        self.job = Job(host)
        self._output = folder / "bystander"

    def __enter__(self) -> Bystander:
        self.job.prepare()
        self._file = self._output.open("wb")
        argv = self.job.argv("run", write(self.job.host, COUNTING), "build_script")
        self._process = self.job.host.popen(argv, env=self.job.env, stdout=self._file, stderr=self._file)
        self.check()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.check()
                self.job.output("touch /root/enough")
                assert self._process.wait(timeout=SECONDS) == BUILD_FAILURE
                assert self.job.code() == "5\n"
                numbers = self._output.read_text().splitlines()
                assert numbers == [str(number) for number in range(len(numbers))]
        finally:
            self.job.call("cleanup")
            self._process.kill()
            self._process.wait()
            self._file.close()

    def check(self) -> None:
        """Wait until it has counted on."""
        before = self._output.stat().st_size
        wait_until(lambda: self._output.stat().st_size > before or self._process.poll() is not None)
        assert self._process.poll() is None, self._output.read_text()[-500:]

    def owns(self, line: str) -> bool:
        """Tell whether a line of what the host holds is of the inside of its machine, which is its own affair."""
        kind, _, rest = line.partition(" ")
        if kind == "cgroup":
            return self.job.machine in rest
        first = 0x70000000 + self.job.record()["slot"] * 65536
        return kind == "process" and rest.split()[0].isdigit() and 0 <= int(rest.split()[0]) - first < 65536


class Nothing:
    """What a host holds, to be compared after each round."""

    def __init__(self, host: DisposableHost, bystander: Bystander) -> None:
        self.host, self.bystander = host, bystander
        # The folders that stay are there before anything is compared.
        with Job(host) as job:
            job.prepare()
        gc(host)
        self._before, self._before_soon = self._now(HOLDINGS), self._now(HOLDINGS_SOON)

    def check(self) -> None:
        """Fail unless all is as it was: most of it at once, some a moment later."""
        left = difference(self._before, self._now(HOLDINGS))
        if left and all(line.endswith(".lock") for line in left):
            gc(self.host)  # who could not take a lock leaves its file: it may be another's, and holds nobody up
            left = difference(self._before, self._now(HOLDINGS))
        assert not left, left
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not difference(self._before_soon, self._now(HOLDINGS_SOON)), seconds=10)
        left = difference(self._before_soon, self._now(HOLDINGS_SOON))
        assert not left, left

    def _now(self, script: str) -> list[str]:
        return [line for line in lines_of(self.host, script) if not self.bystander.owns(line)]


def gc(host: DisposableHost) -> list[dict[str, str]]:
    """Call gc and return what it says that it removed; it must succeed."""
    done = host.run([TOOL, "gc", "--json"], check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert b"Traceback" not in done.stderr
    rows: list[dict[str, str]] = json.loads(done.stdout)
    return rows


class Round:
    """A job that is struck by ``fault``; ``story`` tells what happened. ``call`` is the one that fails, else drawn."""

    def __init__(self, host: DisposableHost, fault: Fault, job_id: int, call: Call | None = None) -> None:
        self.host, self.fault, self.call = host, fault, call
        self.chance = random.Random(fault.number)  # noqa: S311
        self.status = self.chance.choice([0, 0, 7])
        # a loop device that writes to the state folder keeps it from becoming read-only
        self.limited = self.chance.random() < 0.3 and fault.kind != "the state folder is read-only"
        variables = [{"key": "NSPAWN_DISK_MAX", "value": "200M"}] if self.limited else []
        self.keeps, self.served = self.chance.random() < 0.2, self.chance.random() < 0.2
        services = [{"name": "bookworm", "alias": "web"}] if self.served else None
        self.job = Job(host, str(job_id), payload=payload(job_id, variables=variables, services=services))
        told = {"disk limited": self.limited, "failed are kept": self.keeps, "with a service": self.served}
        self.story = [" ".join([str(fault), *(f"({what})" for what, is_so in told.items() if is_so)])]
        self._struck_machine = False

    def play(self, nothing: Nothing) -> None:
        """Let the job run to its end and what is left be removed; fails unless all that must be true is."""
        settings = self.host.path(SETTINGS)
        settings.parent.mkdir(exist_ok=True)
        settings.write_text('keep_failed = "1h"\n' if self.keeps else "")
        try:
            if self._prepare():
                self._run()
            self._finish(nothing)
        except BaseException:
            print("\n".join(self.story))
            raise
        finally:
            settings.unlink()

    def _prepare(self) -> bool:
        done = self._stage(PREPARE)
        if done.status == 0:
            assert done.out.startswith(b"image bookworm"), done
            return True
        assert self.fault.stage == PREPARE, done
        self._assert_told(done)
        how = self.chance.choice(["again", "cleanup", "gc"])
        if how == "again":
            self._struck_machine = False
            done = self._plain(PREPARE)
            assert done.status == 0, done
            return True
        if how == "gc" and not self._is_running():
            self.story.append(f"gc: {gc(self.host)}")
        return False

    def _run(self) -> None:
        script = f"echo begun; sleep 0.2; echo finished; exit {self.status}"
        done = self._stage(RUN, write(self.host, script), "build_script")
        finished = done.out.endswith(b"finished\n")
        told = (0, None) if self.status == 0 else (BUILD_FAILURE, f"{self.status}\n")
        if (done.status, done.code) == told:
            assert finished, done
        else:
            assert self.fault.stage == RUN or self._struck_machine, done
            self._assert_told(done)
            # What ends the stage itself or takes what it writes to may come between the script's end and its status.
            if not self._struck_machine and self.fault.kind not in {
                "kill the stage", "terminate the stage", "kill the driver alone", "a system call fails"
            }:  # fmt: skip
                assert not finished, done
        if not self._struck_machine:
            after = self._plain(RUN, write(self.host, "echo after"), "after_script")
            assert (after.status, after.out) == (0, b"after\n"), after

    def _finish(self, nothing: Nothing) -> None:
        done = self._stage(CLEANUP)
        if done.status != 0:
            assert self.fault.stage == CLEANUP, done
            self._assert_told(done)
        stage_killed = self.fault.kind in {"kill the stage", "kill the driver alone"}
        by_gc = self.fault.stage == CLEANUP and self.chance.random() < 0.5 and not self._is_running()
        if by_gc:
            self.story.append(f"gc: {gc(self.host)}")
        elif done.status != 0:
            done = self._plain(CLEANUP)
            assert done.status == 0, done
        if self.keeps:
            self._remove_kept()
        if stage_killed and not by_gc:
            # Drafts and locks of killed processes are left to it, and nothing else.
            assert gc(self.host) == []
        nothing.check()

    def _remove_kept(self) -> None:
        """Remove the root of a failed job, which a cleanup by gitlab-runner has kept; nothing of it runs."""
        with contextlib.suppress(FileNotFoundError):
            assert self.job.record()["state"] == "kept"
            assert lines_of(self.host, f"systemctl list-units --no-legend {self.job.unit}") == []
            done = self.host.run([TOOL, "cleanup", "--id", self.job.id], check=False)
            assert done.returncode == 0, done.stderr

    def _stage(self, verb: str, *arguments: str) -> Done:
        done = self._struck(verb, *arguments) if verb == self.fault.stage else self._plain(verb, *arguments)
        if verb == CLEANUP and done.status == 0:
            assert (done.out, done.err) == (b"", b""), done
        return done

    def _plain(self, verb: str, *arguments: str) -> Done:
        done = self.job.call(verb, *arguments)
        self.story.append(f"{verb}: {done}")
        return done

    def _struck(self, verb: str, *arguments: str) -> Done:
        """Call a stage as the fault has it."""
        argv = self.job.argv(verb, *arguments)
        kind = self.fault.kind
        if kind in CONDITIONS:
            with CONDITIONS[kind](self.host):
                done = self._ended(argv)
        elif kind == "a tool fails":
            with failing_tool(self.host, self.fault.stage, self.chance, self.story, limited=self.limited):
                done = self._ended(argv)
        elif kind == "a system call fails":
            done = self._ended([*self._failing_call(), *argv])
        else:
            done = self._ended(argv, STRIKES[kind])
        self.story.append(f"{verb}: {done}")
        return done

    def _ended(self, argv: Sequence[str | Path], strike: Callable[[Round, int], str] | None = None) -> Done:
        """Call ``argv``, let it be struck at a time that is drawn, and return how it ended."""
        process = self.host.popen(argv, env=self.job.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if strike:
            seconds = self.chance.uniform(0, {PREPARE: 0.7, RUN: 0.5, CLEANUP: 0.3}[self.fault.stage])
            time.sleep(seconds)
            self.story.append(f"after {seconds:.3f} s: {strike(self, process.pid)}")
        out, err = process.communicate(timeout=SECONDS)
        return Done(process.returncode, out, err, self.job.code())

    def _assert_told(self, done: Done) -> None:
        """A stage that did not succeed blames the host in one to three lines, unless it was not left the time to."""
        lines = done.message.splitlines()
        if self.fault.kind in {"kill the stage", "kill the driver alone"} and done.status in KILLED:
            return
        if self.fault.kind == "terminate the stage" and not lines:
            return  # it came before there was anybody to hear it
        # Before the message may stand what the machine knows of a failure, and what systemd-run says of a machine that
        # it cannot reach, on the script's own stderr.
        if told := [line for line in lines if line.startswith("nspawn-runner: ")]:
            del lines[: lines.index(told[-1])]
        assert done.status == SYSTEM_FAILURE, done
        assert done.code is None, done
        assert 1 <= len(done.last_words) <= 3, done
        assert lines[0].startswith("nspawn-runner: "), done

    def _is_running(self) -> bool:
        """Tell whether there is a record that gc must respect, since nobody told it that the job's runner has gone."""
        with contextlib.suppress(FileNotFoundError):
            return bool(self.job.record()["state"] == "running")
        return False

    def _failing_call(self) -> list[str]:
        """Return the start of a command line that has one system call of the rest fail."""
        calls, number, error, path, follow = call = self.call or drawn_call(self.job, self.fault.stage, self.chance)
        self.story.append(str(call))
        options = [*(["-P", path] if path else []), *(["-f"] if follow else [])]
        inject = f"inject={calls}:error={error}:when={number}"
        return ["strace", "-qq", "-o", "/dev/null", "-e", "signal=none", *options, "-e", f"trace={calls}", "-e", inject]

    def _kill_stage(self, pid: int) -> str:
        os.killpg(pid, signal.SIGKILL)
        return "SIGKILL to the process group"

    def _terminate_stage(self, pid: int) -> str:
        os.killpg(pid, signal.SIGTERM)
        return "SIGTERM to the process group"

    def _kill_driver(self, pid: int) -> str:
        driver = _children(pid)
        for child in driver:
            _kill(child)
        return f"SIGKILL to {driver}"

    def _kill_child(self, pid: int) -> str:
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            below = [child for driver in _children(pid) for child in _descendants(driver)]
            if below:
                chosen = self.chance.choice(below)
                name = _name(chosen)
                _kill(chosen)
                return f"SIGKILL to {name}"
        return "there was no child"

    def _kill_nspawn(self, _: int) -> str:
        self._struck_machine = True
        return self._in_host(f"systemctl kill --kill-whom=main --signal=KILL {self.job.unit}")

    def _kill_init(self, _: int) -> str:
        self._struck_machine = True
        main = f"$(systemctl show --property=MainPID --value {self.job.unit})"
        return self._in_host(f"main={main}; [ $main != 0 ] && pkill -KILL --parent $main")

    def _in_host(self, command: str) -> str:
        done = self.host.run(["sh", "-c", command], check=False)
        return f"{command} → {done.returncode} {done.stderr.decode()}"


STRIKES: dict[str, Callable[[Round, int], str]] = {
    "kill the stage": Round._kill_stage,
    "terminate the stage": Round._terminate_stage,
    "kill the driver alone": Round._kill_driver,
    "kill a child of the stage": Round._kill_child,
    "kill systemd-nspawn": Round._kill_nspawn,
    "kill the machine's PID 1": Round._kill_init,
}


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _descendants(pid: int) -> list[int]:
    return [below for child in _children(pid) for below in (child, *_descendants(child))]


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120]
    return "a process that has ended"


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
