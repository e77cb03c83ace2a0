"""The one way to start child processes: null stdin, a fresh environment, errors that name the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from ..errors import HostError, printable
from ..light_typing import TYPE_CHECKING, Any, cast
from . import signals

if TYPE_CHECKING:
    from .owners import Owner

TimeoutExpired = subprocess.TimeoutExpired
Done = subprocess.CompletedProcess[bytes]


class Popen(subprocess.Popen[bytes]):
    """A child process; waiting for it raises Cancelled when a signal asks us to end (see signals)."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its status; raises TimeoutExpired after ``timeout`` seconds, and Cancelled."""
        if self.poll() is None and not signals.ended(self.pid, timeout):
            raise TimeoutExpired(self.args, timeout or 0)
        return super().wait()


# What a child may need from our environment. Nothing else is passed on: CUSTOM_ENV_* holds the job's secrets and
# could steer a tool that runs as root.
_PASSED = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE")
_READ_BYTES = 1 << 16
# More than we ask any program for; the answer may come from somebody else, such as a machine's bus.
_MOST_BYTES = 256 << 20
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CommandError(HostError):
    """A child process failed; ``returncode`` is its exit status (negative: the signal), ``stderr`` its error output."""

    def __init__(self, argv: Sequence[str], returncode: int, stderr: bytes) -> None:
        self.argv = list(argv)
        self.returncode = returncode
        self.stderr = stderr.decode(errors="replace").strip()
        how = f"exit status {returncode}" if returncode >= 0 else f"signal {-returncode}"
        said = self.stderr.splitlines()
        last = next((line for line in said if "rror" in line), said[-1] if said else "no message")
        super().__init__(f"{os.path.basename(argv[0])} failed with {how}: {last}", facts=f"command: {quoted(argv)}")


announced = False  # set by --verbose


def _announce(argv: Sequence[str]) -> None:
    """Show ``argv`` if --verbose is given; our argument lists hold no secrets."""
    if announced:
        print(f"+ {quoted(argv)}", file=sys.stderr, flush=True)


def quoted(argv: Sequence[str]) -> str:
    """Return ``argv`` as a person would type it, cut to 300 characters, for messages and debug lines."""
    from shlex import join

    return printable(join(argv), 300)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of every child: a fixed PATH, C.UTF-8, the proxy settings, and ``extra``."""
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    return {"PATH": _PATH, "LANG": "C.UTF-8", "HOME": "/root", **passed, **(extra or {})}


def run(
    argv: Sequence[str],
    *,
    check: bool = True,
    stdin: bytes | int | None = None,
    stdout: int = subprocess.PIPE,
    timeout_seconds: float | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    owner: Owner | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run ``argv`` to its end, as ``owner`` if given, and return its status and output as bytes.

    ``stdin`` is what it reads, or an open file's descriptor.

    Raises CommandError if it fails and ``check`` is true or it takes over ``timeout_seconds``, HostError if it is not
    installed.
    """
    _announce(argv)
    given = in_memory(stdin) if isinstance(stdin, bytes) and stdin else stdin or subprocess.DEVNULL
    assert isinstance(given, int)  # noqa: S101  (tells mypy what is left of bytes)
    try:
        child = _start(
            argv,
            stdin=given,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=environment(env),
            cwd=cwd,
            user=owner.uid if owner else None,
            group=owner.gid if owner else None,
            extra_groups=owner.groups if owner else None,
        )
    finally:
        if stdin and isinstance(stdin, bytes):
            os.close(given)
    try:
        output, said = output_of(child, timeout_seconds)
    except BaseException as error:
        with signals.held(), child:  # leaving ``child`` closes its pipes and waits for it
            child.kill()
        if isinstance(error, subprocess.TimeoutExpired):
            raise CommandError(argv, -9, f"no end after {timeout_seconds:g} s".encode()) from None
        raise
    done = subprocess.CompletedProcess(argv, child.returncode, output, said)
    if check and done.returncode:
        raise CommandError(argv, done.returncode, done.stderr)
    return done


def in_memory(content: bytes) -> int:
    """Return a descriptor of a file in memory to read ``content`` from; unlike a pipe, nobody has to feed it."""
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC)
    write_all(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def write_all(fd: int, content: bytes) -> None:
    """Write all of ``content`` to the blocking ``fd``; raises OSError."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def output_of(child: Popen, seconds: float | None = None) -> tuple[bytes, bytes]:
    """Return what the child writes to its pipes for stdout and stderr until both are closed and it has ended.

    Raises TimeoutExpired after ``seconds``, CommandError after 256 MiB, Cancelled when a signal asks us to end.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    out, err = bytearray(), bytearray()
    streams = [(child.stdout, out), (child.stderr, err)]
    reading = {stream.fileno(): into for stream, into in streams if stream and not stream.closed}

    def left() -> float | None:
        return None if deadline is None else deadline - time.monotonic()

    while reading:
        for fd in signals.wait(reading, left()):
            piece = os.read(fd, _READ_BYTES)
            reading[fd] += piece
            if len(reading[fd]) > _MOST_BYTES:
                said = f"it wrote more than {_MOST_BYTES >> 20} MiB"
                raise CommandError(cast("list[str]", child.args), -9, said.encode())
            if not piece:
                del reading[fd]
        if deadline is not None and reading and time.monotonic() >= deadline:
            raise TimeoutExpired(child.args, seconds or 0)
    child.wait(left())
    for stream in (child.stdout, child.stderr):
        if stream:
            stream.close()
    return bytes(out), bytes(err)


def head(
    argv: Sequence[str], *, limit_bytes: int, timeout_seconds: float, stdin: bytes = b"", must_answer: bool = False
) -> bytes:
    """Return at most the first ``limit_bytes`` of what ``argv`` writes within ``timeout_seconds``, then end it.

    For output that somebody else may make endless. ``stdin`` is passed as a file. Raises HostError if ``argv`` is not
    installed, and with ``must_answer`` if the time runs out first.
    """
    given = in_memory(stdin)
    try:
        child = spawn(argv, stdin=given, stdout=PIPE, stderr=DEVNULL, own_session=True)
    finally:
        os.close(given)
    assert child.stdout is not None  # noqa: S101  (a pipe, as asked)
    fd = child.stdout.fileno()
    deadline, found = time.monotonic() + timeout_seconds, b""
    try:
        while len(found) < limit_bytes and signals.wait([fd], deadline - time.monotonic()):
            piece = os.read(fd, limit_bytes - len(found))
            if not piece:
                return found
            found += piece
    finally:
        with signals.held(), child:
            child.kill()
    if must_answer and len(found) < limit_bytes:
        raise HostError(f"{os.path.basename(argv[0])} did not answer within {timeout_seconds:g} s")
    return found


def spawn(
    argv: Sequence[str],
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = None,
    stderr: int | None = None,
    own_session: bool = False,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> Popen:
    """Start ``argv`` and return it running; stdout and stderr are inherited unless given.

    ``own_session`` shields it from a SIGTERM to our process group. Raises HostError if it is not installed.
    """
    _announce(argv)
    return _start(
        argv,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=own_session,
        env=environment(env),
        cwd=cwd,
    )


def _start(argv: Sequence[str], **options: Any) -> Popen:
    """Start ``argv``; raises Cancelled if a signal has asked us to end, as a clean-up must not race with a start."""
    signals.check()
    if signals.is_held() and not options.get("start_new_session"):
        options["process_group"] = 0
    try:
        return Popen(argv, **options)
    except FileNotFoundError:
        raise missing(argv) from None


def end(child: Popen, seconds: float) -> None:
    """End ``child`` if it still runs, by SIGTERM and ``seconds`` later by SIGKILL; no signal interrupts this."""
    with signals.held():
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(seconds)
            except TimeoutExpired:
                child.kill()
                child.wait()


def end_confined(child: Popen) -> None:
    """Kill ``child``, which may be an unshare(1) with a PID namespace, and wait until all its processes have ended.

    Kills the namespace's first process: unshare, its parent, ends once the kernel has reaped them all.
    """
    if child.poll() is None:
        try:
            with open(f"/proc/{child.pid}/task/{child.pid}/children", "rb") as file:
                inside = [int(word) for word in file.read(4096).split()]
        except OSError:
            inside = []
        for pid in inside or [child.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child.wait()
    for stream in (child.stdout, child.stderr):
        if stream:
            stream.close()


PIPE = subprocess.PIPE
STDOUT = subprocess.STDOUT
DEVNULL = subprocess.DEVNULL

# Debian packages that are not named like their program, for the advice when that is missing.
_PACKAGES = {
    "systemd-run": "systemd",
    "systemctl": "systemd",
    "journalctl": "systemd",
    "systemd-nspawn": "systemd-container",
    "machinectl": "systemd-container",
    "btrfs": "btrfs-progs",
    "mke2fs": "e2fsprogs",
    "nft": "nftables",
    "ip": "iproute2",
    "ansible-playbook": "ansible-core",
}


def missing(argv: Sequence[str]) -> HostError:
    """Return the error for a program that is not installed, naming its Debian package."""
    program = os.path.basename(argv[0])
    return HostError(
        f"the program {program} is not installed", advice=f"install it: apt install {_PACKAGES.get(program, program)}"
    )
