"""Copy a child's output to our own streams through pipes, so that the child never holds the streams themselves.

What runs in a machine or a tree may be hostile and outlive its caller. It could keep writing to a host file, reach our
terminal, or keep a reader waiting for the end of a pipe.
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
    """Pipes for a child's stdout and stderr: passes on their output while watching other descriptors.

    ``stderr_filter`` gets each chunk from the stderr pipe, which may serve stdout too, and returns what to pass on.
    Give ``stdout`` and ``stderr`` to the child, then call ``started``.
    """

    def __init__(self, stderr_filter: Callable[[bytes], bytes] = bytes) -> None:
        streams = _open_streams()
        self.readers = {entry.reader: _unblocking(entry.target) for entry in streams}  # with their targets
        self.stdout, self.stderr = streams[0].writer, streams[-1].writer
        self._filters = {streams[-1].reader: stderr_filter}
        self._targets = list(self.readers.values())
        self._watched: set[int] = set()
        self._poll = select.poll()
        for reader in self.readers:
            self._poll.register(reader, select.POLLIN)

    def started(self) -> None:
        """Close our copies of the pipe ends that the child writes to."""
        for writer in {self.stdout, self.stderr}:
            os.close(writer)

    def close_targets(self) -> None:
        """Close the targets of the output; the readers stay open."""
        for target in self._targets:
            os.close(target)

    def watch(self, fd: int) -> None:
        """Make ``step`` also return when ``fd`` is ready."""
        self._watched.add(fd)
        self._poll.register(fd, select.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Stop watching ``fd``."""
        self._watched.discard(fd)
        self._poll.unregister(fd)

    def step(self, milliseconds: int | None) -> set[int]:
        """Wait up to ``milliseconds``, pass on available output, and return the watched descriptors that are ready.

        Raises OSError when writing to a target fails for another reason than a reader that has gone.
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
        """Pass on a chunk from ``reader``; if nobody reads our stream any more, drop ``reader`` and return false.

        Once the pipe is closed, the child gets the broken pipe itself, as it would without us.
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
        """Pass on what is in the pipes now; what a background process adds meanwhile is not the child's."""
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
    """Run ``argv`` to its end, with pipes between its streams and ours, and return its exit status as Popen does.

    Processes that it left running may still write: ``hand_over`` gets the pipes and must close them; without it, they
    are closed here. Once ``argv`` has ended, raises Cancelled if a signal asked us to end, HostError if our own streams
    broke.
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
    """Return 0 once the child has ended, or the number of a signal that asks us to end."""
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
    """Return a child's standard input: our own, or a pipe that a thread feeds if ours is a terminal or a file."""
    mode = os.fstat(0).st_mode
    if not stat.S_ISREG(mode) and not os.isatty(0):
        return 0
    reader, writer = os.pipe2(os.O_CLOEXEC)
    # It may block on a terminal for ever, so nobody waits for it.
    threading.Thread(target=_feed, args=(writer, stat.S_ISREG(mode)), daemon=True).start()
    return reader


def _feed(writer: int, is_file: bool) -> None:
    """Copy our standard input to the pipe ``writer`` and close that; a file's position stays, for our caller."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signals.ASKING)
    with suppress(OSError):
        at = os.lseek(0, 0, os.SEEK_CUR) if is_file else 0
        while chunk := os.pread(0, _CHUNK_BYTES, at) if is_file else os.read(0, _CHUNK_BYTES):
            process.write_all(writer, chunk)
            at += len(chunk)
    os.close(writer)


def _open_streams() -> list[_Stream]:
    """Make a pipe each for stdout and stderr, or one for both if ours are the same file, which keeps their order."""
    targets = [1] if _same_file(1, 2) else [1, 2]
    streams = []
    for target in targets:
        reader, writer = os.pipe()
        # Otherwise only the host's root could reopen it, as a script does to write to /dev/stderr.
        os.fchmod(writer, 0o622)
        with suppress(OSError):  # over the user's limit for pipes: then 64 KiB, the default, will do
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        streams.append(_Stream(reader, writer, target))
    return streams


def _same_file(one: int, other: int) -> bool:
    first, second = os.fstat(one), os.fstat(other)
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)


def _unblocking(fd: int) -> int:
    """Return our own descriptor for the file of ``fd``, non-blocking if it is a pipe: others share the one given."""
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        with suppress(OSError):  # for example if nobody reads it any more
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return os.dup(fd)


def _write(target: int, chunk: bytes) -> None:
    """Write ``chunk``; raises BrokenPipeError if its reader has gone, or is too slow once a signal asks us to end."""
    view = memoryview(chunk)
    while view:
        try:
            view = view[os.write(target, view) :]
        except BlockingIOError:
            if not signals.wait_to_write(target):
                raise BrokenPipeError from None
