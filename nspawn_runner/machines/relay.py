"""Pass a script's output on: bytes as they come, and nothing that outlives the script keeps our own streams open.

The script writes to pipes of ours, not to the runner's: a server it leaves in the background inherits them, and the
runner waits for end-of-file. When the script has ended, what it wrote is passed on, and a pipe that still has a writer
is handed to the machine's journal, so that the writer is neither stopped nor killed.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import termios
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from ..errors import Cancelled
from ..host import process, systemd

_PIPE_BYTES = 1024 * 1024
_CHUNK_BYTES = 256 * 1024
# The machine's systemd closes its own copies of the pipes a moment after the script's end.
_CLOSE_WAIT_SECONDS = 0.05
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _Stream(NamedTuple):
    reader: int
    writer: int
    target: int


def stream(argv: Sequence[str], *, stdin: int, machine: str, stage: str, cancel: Callable[[], None]) -> int:
    """Run ``argv`` with its output passed on to our stdout and stderr; return its exit status.

    On SIGTERM or SIGINT ``cancel`` is called to end the script, what it still says is passed on, and Cancelled raised.
    """
    # A signal between the start of the child and our knowing of it would lose a running script.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    streams = _open_streams()
    writers = {entry.target: entry.writer for entry in streams}
    client = process.spawn(argv, stdin=stdin, stdout=writers[1], stderr=writers.get(2, writers[1]), own_session=True)
    for entry in streams:
        os.close(entry.writer)
    readers = {entry.reader: entry.target for entry in streams}
    cancelled: Cancelled | None = None
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        _pass_on_until_end(client, readers)
    except Cancelled as signal_arrived:
        cancelled = signal_arrived
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        # What the script says while it ends is passed on too, or a full pipe would keep it from ending.
        ending = threading.Thread(target=cancel)
        ending.start()
        _pass_on_until_end(client, readers)
        ending.join()
    status = client.wait()
    for reader, target in readers.items():
        with suppress(BrokenPipeError):
            _pass_on_rest(reader, target)
    _hand_over(readers, machine, stage)
    if cancelled is not None:
        raise cancelled
    return status


def _open_streams() -> list[_Stream]:
    """Make a pipe for stdout and one for stderr, or one for both where ours are the same: that keeps their order."""
    targets = [1] if _same_file(1, 2) else [1, 2]
    streams = []
    for target in targets:
        reader, writer = os.pipe()
        with suppress(OSError):  # over the user's limit for pipes; then the usual 64 KiB do
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        streams.append(_Stream(reader, writer, target))
    return streams


def _same_file(one: int, other: int) -> bool:
    first, second = os.fstat(one), os.fstat(other)
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)


def _pass_on_until_end(client: process.Popen[bytes], readers: dict[int, int]) -> None:
    """Pass output on until ``client`` has ended; a reader whose writers are all gone leaves the poll."""
    ended = os.pidfd_open(client.pid)
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        for reader in readers:
            poll.register(reader, select.POLLIN)
        while True:
            events = poll.poll()
            for fd, event in events:
                if fd == ended:
                    continue
                if not event & select.POLLIN:
                    poll.unregister(fd)
                elif not _passed(readers, fd):
                    poll.unregister(fd)
                    os.close(fd)
            if any(fd == ended for fd, _ in events):
                return
    finally:
        os.close(ended)


def _passed(readers: dict[int, int], reader: int) -> bool:
    """Pass a chunk of ``reader`` on; when nobody reads our stream any more, forget the reader and return false.

    With the pipe closed, the script meets the broken pipe itself, as it would without us.
    """
    try:
        _write(readers[reader], os.read(reader, _CHUNK_BYTES))
    except BrokenPipeError:
        del readers[reader]
        return False
    return True


def _pass_on_rest(reader: int, target: int) -> None:
    """Pass on what is in the pipe now; what a background process adds meanwhile is no longer the script's."""
    left = int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, b"\0" * 4), "little")
    while left > 0:
        chunk = os.read(reader, min(left, _CHUNK_BYTES))
        left -= len(chunk)
        _write(target, chunk)


def _write(target: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(target, view) :]


def _hand_over(readers: dict[int, int], machine: str, stage: str) -> None:
    """Give every pipe that still has a writer to a unit in the machine that copies it to the machine's journal."""
    for reader in _still_written(list(readers)):
        argv = systemd.run_argv(
            ["systemd-cat", f"--identifier={stage}", "cat"],
            unit=f"nspawn-runner-output-{os.urandom(4).hex()}.service",
            options=["--pipe", f"--machine={machine}"],
            quiet=False,
        )
        client = process.spawn(
            argv, stdin=reader, stdout=process.DEVNULL, stderr=process.PIPE, own_session=True
        )
        # With --pipe systemd-run stays until its unit ends. It says when that has started, and is not needed then.
        assert client.stderr is not None  # noqa: S101  (a pipe, as asked)
        client.stderr.readline()
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
