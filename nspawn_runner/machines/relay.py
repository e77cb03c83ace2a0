"""Pass a script's output on as it comes; nothing that outlives the script keeps our own streams open.

The script writes to pipes of ours, not to the runner's: a server it leaves in the background inherits them, and the
runner waits for end-of-file. When the script has ended, what it wrote is passed on, and a pipe that still has a writer
is handed to the machine's journal, so that the writer is neither stopped nor killed.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from ..errors import Cancelled, HostError
from ..host import process, signals
from ..host.pump import Pump
from ..nspawn import calls

# The machine's systemd closes its own copies of the pipes a moment after the script's end.
_CLOSE_WAIT_SECONDS = 0.05
_STEP_MILLISECONDS = 100
_HAND_OVER_SECONDS = 5
_END_TRIES = 5
_BEFORE_BYTES = 512 * 1024
# The script's stderr is systemd-run's too: what that has to say of a machine that ends, we say ourselves.
_SILENT = {"SYSTEMD_LOG_LEVEL": "emerg"}


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
        behind = _BehindMark(mark)
        pump = Pump(stderr_filter=behind)
        client = process.spawn(argv, stdin=stdin, stdout=pump.stdout, stderr=pump.stderr, env=_SILENT, own_session=True)
        pump.started()
        try:
            try:
                signal_number = _pass_on(pump, client, asked, lambda: is_over(behind.found), end)
            except BaseException:
                _end_script(client, end)
                raise
            pump.pass_on_rest()
        finally:
            pump.close_targets()
        hand_over(pump.readers, machine, stage)
        if signal_number:
            raise Cancelled(signal_number)
        return behind.found


class _BehindMark:
    """Takes chunks of a stream and gives back what follows the line ``mark``; ``found`` tells whether that came."""

    def __init__(self, mark: str) -> None:
        self.found = False
        self._mark = f"{mark}\n".encode()
        self._before = b""

    def __call__(self, chunk: bytes) -> bytes:
        if self.found:
            return chunk
        self._before = (self._before + chunk)[-_BEFORE_BYTES:]
        _, mark, rest = self._before.partition(self._mark)
        self.found = bool(mark)
        return rest


def _pass_on(
    pump: Pump, client: process.Popen, asked: int, is_over: Callable[[], bool], end: Callable[[], None]
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
        if not running and (not ending.is_alive() if ending else is_over()):
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


def hand_over(readers: Iterable[int], machine: str, stage: str) -> None:
    """Close ``readers``; those that still have a writer go to units in the machine that copy them to its journal."""
    for reader in _still_written(list(readers)):
        argv = calls.unit_argv(
            machine,
            ["systemd-cat", f"--identifier={stage}", "cat"],
            unit=f"nspawn-runner-output-{os.urandom(4).hex()}.service",
            description=f"nspawn-runner: output of what {stage} left running",
            wait=False,
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
