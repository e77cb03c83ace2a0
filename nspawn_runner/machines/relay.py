"""Pass a script's output on: bytes as they come, and nothing that outlives the script keeps our own streams open.

The script writes to pipes of ours, not to the runner's: a server it leaves in the background inherits them, and the
runner waits for end-of-file. When the script has ended, what it wrote is passed on, and a pipe that still has a writer
is handed to the machine's journal, so that the writer is neither stopped nor killed.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import termios
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from ..errors import Cancelled, HostError
from ..host import process, signals, systemd
from ..light_typing import NamedTuple

_PIPE_BYTES = 1024 * 1024
_CHUNK_BYTES = 256 * 1024
# The machine's systemd closes its own copies of the pipes a moment after the script's end.
_CLOSE_WAIT_SECONDS = 0.05
_STEP_MILLISECONDS = 100
_HAND_OVER_SECONDS = 5
_END_TRIES = 5
_BEFORE_BYTES = 2 * _CHUNK_BYTES
# The script's stderr is systemd-run's too: what that has to say of a machine that ends, we say ourselves.
_SILENT = {"SYSTEMD_LOG_LEVEL": "emerg"}


class _Stream(NamedTuple):
    reader: int
    writer: int
    target: int


def stream(
    argv: Sequence[str],
    *,
    stdin: int,
    machine: str,
    stage: str,
    mark: str,
    is_over: Callable[[bool], bool],
    end: Callable[[], None],
) -> bool:
    """Run ``argv``, which starts a script in the machine, and pass the script's output on until it is over.

    The script has started when ``mark`` comes as a line on its stderr; what ``argv`` says before that is not passed on.
    Returns whether it has. ``is_over`` is told that and asked once ``argv`` has ended, which may be before the script.
    When a signal asks us to end, ``end`` is called to end the script, what it still says is passed on, and Cancelled
    raised. Raises OSError when our own streams break.
    """
    # An exception at any moment could lose a chunk of output, or a child that was just started.
    with signals.held() as asked:
        streams = _open_streams()
        writers = {entry.target: entry.writer for entry in streams}
        client = process.spawn(
            argv, stdin=stdin, stdout=writers[1], stderr=writers.get(2, writers[1]), env=_SILENT, own_session=True
        )
        for entry in streams:
            os.close(entry.writer)
        targets = {entry.reader: _unblocking(entry.target) for entry in streams}
        try:
            pump = _Pump(targets.copy(), marked=streams[-1].reader, mark=mark)
            try:
                signal_number = _pass_on(pump, client, asked, is_over, end)
            except BaseException:
                _end_script(client, end)
                raise
            pump.pass_on_rest()
        finally:
            for fd in targets.values():
                os.close(fd)
        _hand_over(pump.readers, machine, stage)
        if signal_number:
            raise Cancelled(signal_number)
        return pump.started


def _pass_on(
    pump: _Pump, client: process.Popen, asked: int, is_over: Callable[[bool], bool], end: Callable[[], None]
) -> int:
    """Pass output on until the script is over; return the number of the signal that ended it, or 0."""
    client_end = os.pidfd_open(client.pid)
    pump.watch(client_end)
    pump.watch(asked)
    signal_number, ending, running = 0, None, True
    while True:
        ready = pump.step(None if running and ending is None else _STEP_MILLISECONDS)
        if asked in ready:
            signal_number = signals.take()
            pump.unwatch(asked)
            # What the script says while it ends is passed on too, or a full pipe would keep it from ending.
            ending = threading.Thread(target=_end_script, args=(client, end))
            ending.start()
        if client_end in ready:
            pump.unwatch(client_end)
            os.close(client_end)
            client.wait()
            running = False
        if not running and (not ending.is_alive() if ending else is_over(pump.started)):
            return signal_number


def _end_script(client: process.Popen, end: Callable[[], None]) -> None:
    """End the script, and its client at the latest when the machine does not answer.

    More than once: a unit that was about to start when the signal came is there only afterwards.
    """
    with suppress(HostError):
        for _ in range(_END_TRIES):
            end()
            with suppress(process.TimeoutExpired):
                client.wait(1)
                return
    client.kill()
    client.wait()


class _Pump:
    """Passes on what can be read, and says which of the other descriptors it watches are ready."""

    def __init__(self, readers: dict[int, int], *, marked: int, mark: str) -> None:
        self.readers = readers  # reader → where what is read goes
        self.started = False
        self._marked, self._mark = marked, f"{mark}\n".encode()
        self._before = b""  # what came from there before the mark
        self._watched: set[int] = set()
        self._poll = select.poll()
        for reader in readers:
            self._poll.register(reader, select.POLLIN)

    def watch(self, fd: int) -> None:
        """Have ``step`` return for ``fd`` too."""
        self._watched.add(fd)
        self._poll.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Forget ``fd``."""
        self._watched.discard(fd)
        self._poll.unregister(fd)

    def step(self, milliseconds: int | None) -> set[int]:
        """Wait for something, pass on what there is, and return the watched descriptors that are ready."""
        events = self._poll.poll(milliseconds)
        for fd, event in events:
            if fd in self._watched:
                continue
            if not event & select.POLLIN:
                self._poll.unregister(fd)  # no writer is left
            elif not self._passed(fd):
                self._poll.unregister(fd)
                os.close(fd)
        return {fd for fd, _ in events if fd in self._watched}

    def _passed(self, reader: int) -> bool:
        """Pass a chunk of ``reader`` on; when nobody reads our stream any more, forget it and return false.

        With the pipe closed, the script meets the broken pipe itself, as it would without us.
        """
        try:
            _write(self.readers[reader], self._unmarked(reader, os.read(reader, _CHUNK_BYTES)))
        except BrokenPipeError:
            del self.readers[reader]
            return False
        return True

    def _unmarked(self, reader: int, chunk: bytes) -> bytes:
        """Return what of ``chunk`` is to be passed on: of the marked stream what follows the mark."""
        if self.started or reader != self._marked:
            return chunk
        self._before = (self._before + chunk)[-_BEFORE_BYTES:]
        _, found, rest = self._before.partition(self._mark)
        self.started = bool(found)
        return rest

    def pass_on_rest(self) -> None:
        """Pass on what is in the pipes now; what a background process adds meanwhile is no longer the script's."""
        for reader, target in self.readers.items():
            left = int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, b"\0" * 4), "little")
            with suppress(BrokenPipeError):
                while left > 0:
                    chunk = os.read(reader, min(left, _CHUNK_BYTES))
                    left -= len(chunk)
                    _write(target, self._unmarked(reader, chunk))


def _open_streams() -> list[_Stream]:
    """Make a pipe for stdout and one for stderr, or one for both where ours are the same: that keeps their order."""
    targets = [1] if _same_file(1, 2) else [1, 2]
    streams = []
    for target in targets:
        reader, writer = os.pipe()
        # Else only the host's root could open it again, as a script does that writes to /dev/stderr.
        os.fchmod(writer, 0o622)
        with suppress(OSError):  # over the user's limit for pipes; then the usual 64 KiB do
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        streams.append(_Stream(reader, writer, target))
    return streams


def _same_file(one: int, other: int) -> bool:
    first, second = os.fstat(one), os.fstat(other)
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)


def _unblocking(fd: int) -> int:
    """Return ``fd`` again, as a file of our own, which never blocks where it is a pipe: others share the one given."""
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        with suppress(OSError):  # as when nobody reads it any more
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return os.dup(fd)


def _write(target: int, chunk: bytes) -> None:
    """Write ``chunk``; raises BrokenPipeError when nobody reads it, also once a signal asks us to end."""
    view = memoryview(chunk)
    while view:
        try:
            view = view[os.write(target, view) :]
        except BlockingIOError:
            if not signals.wait_to_write(target):
                raise BrokenPipeError from None


def _hand_over(readers: dict[int, int], machine: str, stage: str) -> None:
    """Give every pipe that still has a writer to a unit in the machine that copies it to the machine's journal."""
    for reader in _still_written(list(readers)):
        argv = systemd.run_argv(
            ["systemd-cat", f"--identifier={stage}", "cat"],
            unit=f"nspawn-runner-output-{os.urandom(4).hex()}.service",
            description=f"nspawn-runner: output of what {stage} left running",
            options=["--pipe", f"--machine={machine}"],
            quiet=False,
        )
        client = process.spawn(argv, stdin=reader, stdout=process.DEVNULL, stderr=process.PIPE, own_session=True)
        assert client.stderr is not None  # noqa: S101  (a pipe, as asked)
        # With --pipe systemd-run stays until its unit ends. It says when that has started, and is not needed then; of a
        # machine that does not answer nothing more is expected.
        try:
            select.select([client.stderr], [], [], _HAND_OVER_SECONDS)
        finally:
            client.kill()
            client.wait()
    for reader in readers:
        os.close(reader)


def _still_written(readers: list[int]) -> list[int]:
    """Return those of ``readers`` that still have a writer after a short wait; a pipe without one polls as hung up."""
    deadline = time.monotonic() + _CLOSE_WAIT_SECONDS
    while readers and time.monotonic() < deadline:
        poll = select.poll()
        for reader in readers:
            poll.register(reader, 0)
        hung_up = {fd for fd, _ in poll.poll(1)}
        readers = [reader for reader in readers if reader not in hung_up]
    return readers
