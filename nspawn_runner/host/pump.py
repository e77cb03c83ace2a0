"""Copy a child's output to our own streams through pipes, so that the child never holds the streams themselves.

What runs in a machine or a tree may be hostile and outlive its caller. It could go on writing to a file of the host's,
reach our terminal, or keep a reader waiting for the end of a pipe.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import stat
import termios
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from ..errors import Cancelled, HostError
from ..light_typing import NamedTuple
from . import process, signals

_PIPE_BYTES = 1024 * 1024
_CHUNK_BYTES = 256 * 1024
_END_SECONDS = 10


class _Stream(NamedTuple):
    reader: int
    writer: int
    target: int


class Pump:
    """Pipes for a child's stdout and stderr; what comes is passed on, other descriptors are watched meanwhile.

    ``stderr_filter`` gets each chunk of the pipe for stderr, which may be that for stdout too, and returns what of it
    is to be passed on. Use ``stdout`` and ``stderr`` for the child, then call ``started``.
    """

    def __init__(self, stderr_filter: Callable[[bytes], bytes] = bytes) -> None:
        streams = _open_streams()
        self.readers = {entry.reader: _unblocking(entry.target) for entry in streams}  # where what is read goes
        self.stdout, self.stderr = streams[0].writer, streams[-1].writer
        self._filters = {streams[-1].reader: stderr_filter}
        self._targets = list(self.readers.values())
        self._watched: set[int] = set()
        self._poll = select.poll()
        for reader in self.readers:
            self._poll.register(reader, select.POLLIN)

    def started(self) -> None:
        """Close our copies of what the child writes to."""
        for writer in {self.stdout, self.stderr}:
            os.close(writer)

    def close_targets(self) -> None:
        """Close where the output goes; the readers stay open."""
        for target in self._targets:
            os.close(target)

    def watch(self, fd: int) -> None:
        """Have ``step`` return for ``fd`` too."""
        self._watched.add(fd)
        self._poll.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Forget ``fd``."""
        self._watched.discard(fd)
        self._poll.unregister(fd)

    def step(self, milliseconds: int | None) -> set[int]:
        """Wait for something, pass on what there is, and return the watched descriptors that are ready.

        Raises OSError when what we write to breaks.
        """
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

        With the pipe closed, the child meets the broken pipe itself, as it would without us.
        """
        try:
            self._pass_on(reader, os.read(reader, _CHUNK_BYTES))
        except BrokenPipeError:
            del self.readers[reader]
            return False
        return True

    def _pass_on(self, reader: int, chunk: bytes) -> None:
        _write(self.readers[reader], self._filters.get(reader, bytes)(chunk))

    def pass_on_rest(self) -> None:
        """Pass on what is in the pipes now; what a background process adds meanwhile is no longer the child's."""
        for reader in self.readers:
            left = int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, b"\0" * 4), "little")
            with suppress(BrokenPipeError):
                while left > 0:
                    chunk = os.read(reader, min(left, _CHUNK_BYTES))
                    left -= len(chunk)
                    self._pass_on(reader, chunk)


def call(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    hand_over: Callable[[Iterable[int]], None] | None = None,
) -> int:
    """Run ``argv`` to its end, pipes between its streams and ours, and return its exit status as Popen has it.

    What it left running may still write: ``hand_over`` gets the pipes for that, to close them; else they are closed.
    Raises Cancelled when a signal asks us to end and HostError when our own streams break, once it has ended.
    """
    with signals.held() as asked:
        pump = Pump()
        try:
            given = _stdin()
            try:
                child = process.spawn(
                    argv, stdin=given, stdout=pump.stdout, stderr=pump.stderr, env=env, own_session=True
                )
            finally:
                if given:
                    os.close(given)
        finally:
            pump.started()
        ended_itself = False
        try:
            signal_number = _pass_on_until_end(pump, child, asked)
            process.end(child, _END_SECONDS)
            pump.pass_on_rest()
            ended_itself = not signal_number
        except OSError as error:
            raise HostError(f"cannot write to our own standard streams: {error.strerror}") from None
        finally:
            process.end(child, _END_SECONDS)
            pump.close_targets()
            readers, pump.readers = [*pump.readers], {}
            if hand_over and ended_itself:
                hand_over(readers)
            else:
                for reader in readers:
                    os.close(reader)
        if signal_number:
            raise Cancelled(signal_number)
        return child.returncode


def _pass_on_until_end(pump: Pump, child: process.Popen, asked: int) -> int:
    """Return 0 when the child has ended, or the number of the signal that asks us to end."""
    end = os.pidfd_open(child.pid)
    try:
        pump.watch(end)
        pump.watch(asked)
        while True:
            ready = pump.step(None)
            if end in ready:
                return 0
            if asked in ready:
                return signals.take()
    finally:
        os.close(end)


def _stdin() -> int:
    """Return what a child is to read: our standard input, or a pipe that a thread feeds from a terminal or a file."""
    mode = os.fstat(0).st_mode
    if not stat.S_ISREG(mode) and not os.isatty(0):
        return 0
    reader, writer = os.pipe2(os.O_CLOEXEC)
    # It may wait for a terminal for ever; nobody waits for it.
    threading.Thread(target=_feed, args=(writer, stat.S_ISREG(mode)), daemon=True).start()
    return reader


def _feed(writer: int, is_file: bool) -> None:
    """Copy our standard input into the pipe ``writer`` and close it. The caller may go on to read a file of its own."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signals.ASKING)
    with suppress(OSError):
        at = os.lseek(0, 0, os.SEEK_CUR) if is_file else 0
        while chunk := os.pread(0, _CHUNK_BYTES, at) if is_file else os.read(0, _CHUNK_BYTES):
            process.write_all(writer, chunk)
            at += len(chunk)
    os.close(writer)


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
