"""The one door to child processes: null stdin, an environment built afresh, errors that say what was called."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from ..errors import HostError, printable
from ..light_typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .owners import Owner

Popen = subprocess.Popen
TimeoutExpired = subprocess.TimeoutExpired

# What a child may need of our own environment. Everything else stays here: CUSTOM_ENV_* holds the job's secrets and
# could steer a tool that runs as root.
_PASSED = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CommandError(HostError):
    """A child process failed; ``returncode`` is its exit status (negative: the signal), ``stderr`` its last words."""

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
    """Show ``argv`` where --verbose asks for it; no argument list of ours holds a secret."""
    if announced:
        print(f"+ {quoted(argv)}", file=sys.stderr, flush=True)


def quoted(argv: Sequence[str]) -> str:
    """Return ``argv`` as a person would type it, bounded in length, for messages and debug lines."""
    from shlex import join

    return printable(join(argv), 300)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment every child gets: a fixed PATH, C.UTF-8, the proxy settings, and ``extra``."""
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    return {"PATH": _PATH, "LANG": "C.UTF-8", "HOME": "/root", **passed, **(extra or {})}


def run(
    argv: Sequence[str],
    *,
    check: bool = True,
    stdin: bytes | None = None,
    stdout: int = subprocess.PIPE,
    timeout_seconds: float | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    owner: Owner | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run ``argv`` to its end, as ``owner`` where one is given, and return its status and output as bytes.

    Raises CommandError when it fails and ``check`` is true, or cannot be started, or takes over ``timeout_seconds``.
    """
    _announce(argv)
    child = _start(
        argv,
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=environment(env),
        cwd=cwd,
        user=owner.uid if owner else None,
        group=owner.gid if owner else None,
        extra_groups=owner.groups if owner else None,
    )
    try:
        output, said = child.communicate(stdin, timeout=timeout_seconds)
    except BaseException as error:
        with child:  # whose end closes its pipes and waits for it
            child.kill()
        if isinstance(error, subprocess.TimeoutExpired):
            raise CommandError(argv, -9, f"no end after {timeout_seconds:g} s".encode()) from None
        raise
    done = subprocess.CompletedProcess(argv, child.returncode, output, said)
    if check and done.returncode:
        raise CommandError(argv, done.returncode, done.stderr)
    return done


def head(argv: Sequence[str], *, limit_bytes: int, timeout_seconds: float, stdin: int = subprocess.DEVNULL) -> bytes:
    """Return at most the first ``limit_bytes`` of what ``argv`` writes within ``timeout_seconds``, then end it.

    For what somebody else may make endless. Raises HostError when it cannot be started.
    """
    import select

    child = spawn(argv, stdin=stdin, stdout=PIPE, stderr=DEVNULL, own_session=True)
    assert child.stdout is not None  # noqa: S101  (a pipe, as asked)
    deadline, found = time.monotonic() + timeout_seconds, b""
    poll = select.poll()
    poll.register(child.stdout, select.POLLIN)
    try:
        while len(found) < limit_bytes and (left := deadline - time.monotonic()) > 0 and poll.poll(left * 1000):
            piece = os.read(child.stdout.fileno(), limit_bytes - len(found))
            if not piece:
                break
            found += piece
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
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
) -> subprocess.Popen[bytes]:
    """Start ``argv`` and return it running; stdout and stderr are inherited unless given.

    ``own_session`` keeps a SIGTERM meant for our process group from it. Raises HostError when it cannot be started.
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


def _start(argv: Sequence[str], **options: Any) -> Popen[bytes]:
    """Start ``argv``; a signal that arrives meanwhile is heeded when the child is known, and has been ended.

    Raised in the middle of Popen, its exception would leave a child behind that nobody knows of: a systemd-run that
    starts a machine after all of it was removed, an archive that is unpacked while the tree is being deleted.
    """
    arrived: list[int] = []
    child = None
    try:
        with _noted(arrived):
            child = subprocess.Popen(argv, **options)
        for number in arrived:
            os.kill(os.getpid(), number)
    except FileNotFoundError:
        raise missing(argv) from None
    except BaseException:
        if child is not None:
            end_confined(child)
        raise
    return child


@contextmanager
def _noted(arrived: list[int]) -> Iterator[None]:
    """Add the numbers of signals that would interrupt us to ``arrived`` instead, until the end."""
    # They reach the main thread only. One that is ignored stays so: a child inherits that.
    numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    handlers = {number: handler for number in numbers if callable(handler := signal.getsignal(number))}
    for number in handlers:
        signal.signal(number, lambda each, _frame: arrived.append(each))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def end_confined(child: Popen[bytes]) -> None:
    """End ``child``, maybe an unshare(1) with a PID namespace, and wait until nothing that ran in it is left.

    The first process of its namespace is killed: unshare, its parent, ends when the kernel has reaped them all.
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

# Debian's package for a program we call, for the advice when it is missing.
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
    """Return the error for a program that is not there, with the Debian package that has it."""
    program = os.path.basename(argv[0])
    return HostError(
        f"the program {program} is not installed", advice=f"install it: apt install {_PACKAGES.get(program, program)}"
    )
