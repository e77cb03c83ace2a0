"""Run commands in a tree's container or in a machine, with their exact status and output.

nsenter(1) enters a container that is not booted, in a few milliseconds. In a machine with its own systemd, a command
becomes a transient unit, so that it has a place there like a login or service.
"""

from __future__ import annotations

import os
import selectors
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from ..errors import HostError
from ..host import files, process, systemd
from . import calls

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The environment of a root login; the words of the command follow.
_AS_LOGIN = """umask 022
cd 2>/dev/null || cd /
unset OLDPWD
"""
_ENTERED = _AS_LOGIN + 'exec "$@"'
# systemd-run's own status is 0 even if the machine died, so the true one is written last to stderr.
_IN_UNIT = (
    "unset INVOCATION_ID JOURNAL_STREAM MEMORY_PRESSURE_WATCH MEMORY_PRESSURE_WRITE SYSTEMD_EXEC_PID\n"
    f"export {_PATH}\n{_AS_LOGIN}"
    """mark=$1
shift
"$@"
printf '\\n%s %s\\n' "$mark" "$?" >&2
"""
)
# The tree's systemd is not running: systemctl then works on files, and Ansible knows that it cannot start services.
_OFFLINE = {"SYSTEMD_OFFLINE": "1"}
_READ_BYTES = 1 << 16
_PIPE_BYTES = 1 << 20  # the largest pipe a user may make (fs.pipe-max-size)
# Limit of a command's output: Ansible holds it in memory several times.
_MOST_BYTES = 64 << 20
_AFTER_MACHINE_SECONDS = 5


class Container(NamedTuple):
    """A tree's container that is not booted: its first process, and its root's uid on the host."""

    leader: int
    uid: int


class Machine(NamedTuple):
    """A running machine known to machined: its name, and its root's uid on the host."""

    name: str
    uid: int


class Ended(NamedTuple):
    """A command's result: its exit status (128 + the signal that ended it) and its output."""

    status: int
    stdout: bytes
    stderr: bytes


def running_machine(name: str) -> Machine:
    """Return the running machine ``name``; raises HostError when machined does not know it."""
    done = process.run(["machinectl", "show", "--property=Leader", "--value", "--", name], check=False)
    leader = done.stdout.decode().strip()
    if done.returncode or not leader.isdecimal():
        raise HostError(
            f"no machine {name} is running",
            facts=done.stderr.decode(errors="replace").strip(),
            advice="machinectl list shows those that run; a tree is named by its absolute path",
        )
    return Machine(name, root_uid(int(leader)))


def root_uid(leader: int) -> int:
    """Return the host's uid of user 0 as the process ``leader`` sees it (user_namespaces(7))."""
    try:
        with open(f"/proc/{leader}/uid_map") as file:
            inside, outside, _ = file.readline().split()
    except OSError:
        return 0
    return int(outside) if inside == "0" else 0


class Sink(NamedTuple):
    """Where a command's output goes: a file's descriptor, and how many bytes it may get."""

    fd: int
    most_bytes: int


def run(
    place: Container | Machine, command: Sequence[str], *, stdin: bytes | int = b"", stdout: Sink | None = None
) -> Ended:
    """Run ``command`` as root of ``place`` to its end; processes that it leaves behind live on.

    ``stdin`` is the input's bytes or a file's descriptor; ``stdout``, if given, gets the output instead of the result.
    Raises HostError if the command could not be run, wrote more than 64 MiB or than ``stdout`` may get, or if its
    machine died. An interruption of ours ends the command too.
    """
    if isinstance(place, Container):
        with ExitStack() as stack:
            given = _kept(_behind(b"", stdin), stack)
            done = _run(_nsenter_argv(place, command), place.uid, given, stdout, env=_OFFLINE)
        if done.status and not os.path.exists(f"/proc/{place.leader}"):
            facts = done.stderr.decode(errors="replace").strip()
            raise HostError("the tree's container ended before the command did", facts=facts)
        return done
    unit, mark = f"nspawn-runner-{os.urandom(6).hex()}.service", os.urandom(12).hex()
    try:
        with _first_process(place.name) as first, ExitStack() as stack:
            program = systemd.shell_program(f"{_IN_UNIT}exit\n", mark, *command)
            given = _kept(_behind(program, stdin), stack)
            done = _run(_unit_argv(place.name, unit), place.uid, given, stdout, machine=first)
    except BaseException:
        process.run(calls.kill_argv(place.name, unit, "KILL"), check=False, timeout_seconds=10)
        raise
    said, found, rest = done.stderr.partition(f"\n{mark} ".encode())
    status, _, late = rest.partition(b"\n")
    if not found:
        raise HostError(
            f"the machine {place.name} did not run the command to its end",
            facts=said.decode(errors="replace").strip() or f"systemd-run ended with {done.status}",
            advice="it must be up, with systemd and dbus in it; see: journalctl --machine=" + place.name,
        )
    return Ended(int(status), done.stdout, said + late)


@contextmanager
def _first_process(machine: str) -> Iterator[int | None]:
    """Yield a pidfd of the machine's first process, or None if machined does not know it."""
    try:
        lines = files.read_head(f"/run/systemd/machines/{machine}", 1 << 16).decode().splitlines()
        fd = os.pidfd_open(next(int(line.partition("=")[2]) for line in lines if line.startswith("LEADER=")))
    except (OSError, ValueError, StopIteration):
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def _nsenter_argv(place: Container, command: Sequence[str]) -> list[str]:
    return [
        *([] if place.uid else ["setpriv", f"--bounding-set={_bounding_set(place.leader)}", "--"]),
        "nsenter", f"--target={place.leader}", "--all", "--root", "--",
        "/bin/sh", "-c", _ENTERED, "sh", *command,
    ]  # fmt: skip


def _bounding_set(leader: int) -> str:
    """Return the container's capabilities in setpriv's syntax: nsenter alone would grant all."""
    with open(f"/proc/{leader}/status") as file:
        mask = next(int(line.split()[1], 16) for line in file if line.startswith("CapBnd:"))
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    return ",".join(["-all", *(f"+cap_{number}" for number in range(last + 1) if mask >> number & 1)])


def _behind(program: bytes, stdin: bytes | int) -> int:
    """Return a file with ``program`` followed by ``stdin``, positioned at the latter.

    It is an unnamed copy, on disk if ``stdin`` is a file: what runs inside gets no host file.
    """
    if isinstance(stdin, bytes):
        fd = process.in_memory(program + stdin)
    else:
        fd = os.open("/var/tmp", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o644)  # noqa: S108
        os.fchmod(fd, 0o644)  # a shell inside reopens it
        process.write_all(fd, program)
        while os.sendfile(fd, stdin, None, 1 << 20):
            pass
    os.lseek(fd, len(program), os.SEEK_SET)
    return fd


def _unit_argv(machine: str, unit: str) -> list[str]:
    # By name only: a proxy's address may hold a password, and everyone can read arguments. systemd-run has the values.
    passed = [f"--setenv={key}" for key in process.environment() if key not in {"PATH", "HOME"}]
    return calls.unit_argv(
        machine,
        systemd.shell_argv(),
        unit=unit,
        description="nspawn-runner: a command of Ansible",
        properties=calls.INSIDE_PROPERTIES,
        user="root",
        options=passed,
    )


def _run(
    argv: Sequence[str],
    uid: int,
    stdin: int,
    stdout: Sink | None,
    *,
    machine: int | None = None,
    env: Mapping[str, str] | None = None,
) -> Ended:
    """Run ``argv`` with pipes that the user ``uid`` may reopen, as ``echo >/dev/stderr`` does.

    It gets 5 s to end once the process of the pidfd ``machine`` is gone: systemd-run was seen to keep waiting.
    """
    out, err = _Said(stdout), _Said(None)
    with ExitStack() as stack:

        def pipe(said: _Said) -> int:
            ours, theirs = os.pipe2(os.O_CLOEXEC)
            stack.callback(os.close, ours)
            os.fchown(theirs, uid, uid)
            os.set_blocking(ours, False)
            pipes[ours] = said
            return theirs

        pipes: dict[int, _Said] = {}
        ends = [pipe(out), pipe(err)]
        try:
            child = process.spawn(
                argv,
                stdin=stdin,
                stdout=ends[0],
                stderr=ends[1],
                own_session=True,
                env={"USER": "root", "LOGNAME": "root", "SHELL": "/bin/sh", "TERM": "dumb", **(env or {})},
            )
        finally:
            for end in ends:
                os.close(end)
        try:
            _gather(child, pipes, machine)
            status = child.wait()
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise
    return Ended(status if status >= 0 else 128 - status, bytes(out.held), bytes(err.held))


class _Said:
    """The output of one pipe: held in memory, or written to a file that nothing inside can reach."""

    def __init__(self, sink: Sink | None) -> None:
        self.held = bytearray()
        self._sink, self._taken = sink, 0
        self._most = sink.most_bytes if sink else _MOST_BYTES

    def take(self, fd: int) -> bool:
        """Read a piece of what the pipe ``fd`` holds now; return whether there may be more."""
        try:
            piece = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return False
        self._taken += len(piece)
        if self._taken > self._most:
            raise HostError(f"it wrote more than {self._most >> 20} MiB")
        if self._sink is None:
            self.held += piece
        else:
            process.write_all(self._sink.fd, piece)
        return bool(piece)


def _kept(fd: int, stack: ExitStack) -> int:
    stack.callback(os.close, fd)
    return fd


def _gather(child: process.Popen, pipes: Mapping[int, _Said], machine: int | None) -> None:
    """Read the pipes only until the child has ended: a daemon that a task started may hold them open for ever."""
    ended = os.pidfd_open(child.pid)
    try:
        with selectors.DefaultSelector() as selector:
            for fd in (ended, *pipes, *([] if machine is None else [machine])):
                selector.register(fd, selectors.EVENT_READ)
            seconds = None
            while True:
                ready = {key.fd for key, _ in selector.select(seconds)}
                if not ready:
                    os.killpg(child.pid, signal.SIGKILL)
                if machine in ready:
                    selector.unregister(machine)
                    seconds = _AFTER_MACHINE_SECONDS
                if ended in ready:
                    break
                for fd in ready & pipes.keys():
                    if not pipes[fd].take(fd):  # nobody writes to it any more
                        selector.unregister(fd)
        for fd, said in pipes.items():
            # No more than a pipe can hold: what a daemon adds meanwhile is not the command's.
            any(not said.take(fd) for _ in range(_PIPE_BYTES // _READ_BYTES))
    finally:
        os.close(ended)
