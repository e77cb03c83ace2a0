"""The four stages called by hand in a disposable host, and what a host holds, to compare before and after."""

import contextlib
import itertools
import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from disposable_host import CHECKOUT, STATE_FOLDER, DisposableHost

TOOL = CHECKOUT / "nspawn-runner"
BUILD_FAILURE, SYSTEM_FAILURE = 91, 92
STATUSES = {"BUILD_FAILURE_EXIT_CODE": str(BUILD_FAILURE), "SYSTEM_FAILURE_EXIT_CODE": str(SYSTEM_FAILURE)}
SECONDS = 120
Text = str | bytes

# One line per thing that a machine may leave; what others than machines bring and take away is left out.
HOLDINGS = rf"""
cut -d' ' -f4,5 /proc/self/mountinfo | sed 's/^/mount /'
systemctl list-units --all --plain --no-legend 'nspawn-runner-*' 'machine-*' | sed 's/^/unit /'
find /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup -path '*machine.slice/*' -type d 2>/dev/null |
    sed 's/^/cgroup /'
ps -eo uid,stat,args --no-headers |
    awk '/[b]ash -c [^a-z]*cut/ {{ next }}
         $2 !~ /Z/ && ($1 >= 1879048192 || /[s]pawn-runner|[s]ystemd-nspawn/) {{ $2 = ""; print }}' |
    sed 's/^/process /'
find /run/nspawn-runner ! -name slots.last ! -name settings ! -name maintenance ! -name connections \
    ! -name firewall 2>/dev/null |
    sed 's/^/run /'
find /run/systemd/transient -name 'nspawn-runner*' | sed 's/^/transient /'
find {STATE_FOLDER} -mindepth 1 -maxdepth 2 ! -path '{STATE_FOLDER}/bookworm/*' ! -path '*/.generations/*' \
    ! -name .overlays ! -name .snapshots ! -path '*/.cache*' | sed 's/^/state /'
btrfs subvolume list {STATE_FOLDER} 2>/dev/null | sed 's/.* path /subvolume /'
"""
# These go a moment after the machine: machined and the kernel take their time.
HOLDINGS_SOON = r"""
find /run/systemd/nspawn /run/systemd/machines -mindepth 1 | sed 's/^/run /'
find /run/systemd/units -name '*nspawn-runner-run-*' | sed 's/^/run /'
ls /sys/class/net | grep -v '^nspr0$' | sed 's/^/interface /'
machinectl list --no-legend | sed 's/^/machine /'
ip neighbour show dev nspr0 nud permanent 2>/dev/null | sed 's/^/neighbour /'
"""


class Done(NamedTuple):
    """How a stage ended: its exit status, what it wrote, and the content of BUILD_EXIT_CODE_FILE (None: no file)."""

    status: int
    out: bytes
    err: bytes
    code: str | None = None

    @property
    def message(self) -> str:
        """Standard error as text; it never is a traceback."""
        text = self.err.decode(errors="replace")
        assert "Traceback" not in text, text
        return text

    @property
    def last_words(self) -> list[str]:
        """The last message, by its lines: behind what a machine's console and units said."""
        lines = self.message.splitlines()
        begins = [number for number, line in enumerate(lines) if line.startswith("nspawn-runner: ")]
        return lines[begins[-1] :] if begins else []


class Job:
    """A job by hand. Without a payload it is named by --id, with one by JOB_RESPONSE_FILE; leaving cleans it up."""

    _ids = itertools.count(5001)
    _files = itertools.count(1)

    def __init__(
        self,
        host: DisposableHost,
        job_id: str | None = None,
        *,
        payload: Any = None,
        env: Mapping[str, str] | None = None,
        settings: str | None = None,
        tool: str | Path = TOOL,
    ) -> None:
        self.host, self.tool = host, tool
        self.id = job_id if job_id is not None else str(next(Job._ids))
        self.machine = f"run-{self.id}"
        self.unit = f"nspawn-runner-{self.machine}.service"
        self.code_file = f"/root/exit-code-{self.machine}"
        self.env = {**STATUSES, "BUILD_EXIT_CODE_FILE": self.code_file, **(env or {})}
        self.options: list[str | Path] = []
        if settings is not None:
            self.options = ["--config", write(host, settings.encode())]
        self.by_id: list[str | Path] = ["--id", self.id]
        if payload is not None:
            self.env["JOB_RESPONSE_FILE"] = write(host, json.dumps(payload).encode())
            self.by_id = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.call("cleanup")

    def argv(self, verb: str, *arguments: str | Path) -> list[str | Path]:
        """Return the command line of a stage."""
        return [self.tool, *self.options, verb, *self.by_id, *arguments]

    def call(self, verb: str, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Done:
        """Call a stage and return how it ended."""
        argv = self.argv(verb, *arguments)
        done = self.host.run(argv, env={**self.env, **(env or {})}, check=False, timeout=SECONDS)
        return Done(done.returncode, done.stdout, done.stderr, self.code())

    def code(self) -> str | None:
        """Return what BUILD_EXIT_CODE_FILE holds."""
        with contextlib.suppress(FileNotFoundError):
            return self.host.path(self.code_file).read_text()
        return None

    def prepare(self, image: str | None = "bookworm") -> Done:
        """Boot the machine; fails the test unless that works."""
        done = self.call("prepare", *([image] if image else []))
        assert done.status == 0, done.err.decode()
        return done

    def script(
        self,
        content: Text,
        stage: str = "build_script",
        *,
        shell: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """Run a script, whatever its end."""
        path = write(self.host, content)
        try:
            return self.call("run", *(["--shell", shell] if shell else []), path, stage, env=env)
        finally:
            self.host.path(path).unlink()

    def output(self, content: Text) -> str:
        """Run a script that succeeds and return its output."""
        done = self.script(content)
        assert done.status == 0, done.err.decode()
        return done.out.decode()

    def start(self, content: Text, *, merged: bool = False) -> subprocess.Popen[bytes]:
        """Start a script; it runs on."""
        argv = self.argv("run", write(self.host, content), "build_script")
        error = subprocess.STDOUT if merged else subprocess.PIPE
        return self.host.popen(argv, env=self.env, stdout=subprocess.PIPE, stderr=error)

    def cleanup(self) -> None:
        """Remove the machine, without a word."""
        assert self.call("cleanup")[:3] == (0, b"", b"")

    def record(self) -> dict[str, Any]:
        """Return what the tool wrote down of the machine."""
        data: dict[str, Any] = json.loads(self.host.path(f"/run/nspawn-runner/{self.machine}.json").read_text())
        return data

    def layer(self) -> Path:
        """Return the machine's layer, seen from outside of the host."""
        return self.host.path(self.record()["layer"])

    def main_pid(self) -> str:
        """Return the pid, in the host, of systemd-nspawn."""
        shown = self.host.run(["systemctl", "show", "--property=MainPID", "--value", self.unit]).stdout
        return shown.decode().strip()


def write(host: DisposableHost, content: Text) -> str:
    """Write a file into the host and return its path there."""
    path = f"/root/file-{next(Job._files)}"
    host.path(path).write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def payload(job_id: int, **changed: Any) -> dict[str, Any]:
    """Return the little of a runner's payload that we read; a value of None leaves the field out."""
    data: dict[str, Any] = {
        "id": job_id,
        "job_info": {"project_id": 7},
        "git_info": {"repo_url": "https://gitlab-ci-token:t0k3n@gitlab.example.com/group/p.git", "protected": True},
        "runner_info": {"timeout": 3600},
        "variables": [],
        "image": {"name": "bookworm"},
    }
    return {name: value for name, value in {**data, **changed}.items() if value is not None}


def holdings(host: DisposableHost) -> list[str]:
    """Return what there is of machines right now: mounts, units, processes, folders …, one text each."""
    return lines_of(host, HOLDINGS)


def lines_of(host: DisposableHost, script: str) -> list[str]:
    """Return the output of a script in the host, sorted."""
    return sorted(host.run(["bash", "-c", script], check=False).stdout.decode(errors="replace").splitlines())


class Unchanged:
    """What a host holds is the same when the block is left: most of it at once, some a moment later."""

    def __init__(self, host: DisposableHost) -> None:
        self.host = host

    def __enter__(self) -> None:
        if not self.host.path("/sys/class/net/nspr0").exists():
            # The first machine makes what stays: the bridge, machine.slice.
            with Job(self.host) as job:
                job.prepare()
        self.before, self.before_soon = holdings(self.host), lines_of(self.host, HOLDINGS_SOON)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            return
        different = difference(self.before, holdings(self.host))
        assert not different, different
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not self._soon(), seconds=10)
        assert not self._soon(), self._soon()

    def _soon(self) -> list[str]:
        return difference(self.before_soon, lines_of(self.host, HOLDINGS_SOON))


def difference(before: list[str], after: list[str]) -> list[str]:
    """Return what came and what went."""
    return [f"new: {line}" for line in after if line not in before] + [
        f"gone: {line}" for line in before if line not in after
    ]


def login(host: DisposableHost, name: str, typed: bytes, *command: str, prompt: bytes = b"# ") -> tuple[int, str]:
    """Type into the shell or command of login and return its exit status and what the terminal showed."""
    ours, theirs = pty.openpty()
    words = ["--", *command] if command else []
    with host.popen([TOOL, "login", name, *words], stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while prompt not in shown:  # what is typed before it is lost
                shown += os.read(ours, 4096)
            os.write(ours, typed)
            while data := os.read(ours, 4096):
                shown += data
        except OSError:
            pass  # the other end is closed (pty(7))
        status = process.wait(SECONDS)
    os.close(ours)
    return status, shown.decode(errors="replace")


def wait_until(true: Callable[[], object], *, seconds: float = 30) -> None:
    """Wait until something is true; raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


def terminate(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> None:
    """Send a signal to the process group, as the runner does."""
    os.killpg(process.pid, number)


def together(host: DisposableHost, calls: Sequence[tuple[Job, Sequence[str | Path]]]) -> list[Done]:
    """Start several calls at once and return how each ended."""
    running = [
        host.popen(list(argv), env=job.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for job, argv in calls
    ]
    ends = [(process, *process.communicate(timeout=SECONDS)) for process in running]
    return [Done(process.returncode, out, err) for process, out, err in ends]
