"""Signals that ask us to end: noted on arrival, acted on at points that we choose.

An exception that a handler raises can be lost in any callback of the interpreter, and can cut a library or our own
clean-up between two of its steps. So handlers only note; whatever waits, waits here, and raises Cancelled.
"""

from __future__ import annotations

import _thread  # threading would be a millisecond of each stage
import fcntl
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ..errors import Cancelled, HostError

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# How long whoever reads our output may take for it once we are to end.
_UNREAD_MILLISECONDS = 3000


def _bell() -> int:
    """Return a descriptor that can be read from once it was written to; no standard stream, should one be closed."""
    low = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        return fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(low)


class _Noted:
    number = 0  # the signal that asks us to end
    acted_on = False
    held = 0
    thread = _thread.get_ident()  # the main one, which handlers run in
    bell = _bell()  # can be read from as soon as a number is noted


_noted = _Noted()


def heed() -> None:
    """Note SIGTERM, SIGINT and SIGHUP from now on; one that is ignored, as nohup(1) does, stays so."""
    for number in ASKING:
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _note)


def _note(number: int, _frame: object) -> None:
    if _noted.number in {0, signal.SIGALRM} and number != _noted.number:
        _noted.number = number
        os.eventfd_write(_noted.bell, 1)


def check() -> None:
    """Raise Cancelled where a signal has asked us to end; once, since what follows undoes what was begun."""
    if not _noted.held and (number := take()):
        raise Cancelled(number)


def take() -> int:
    """Return the number of the signal that asks us to end, or 0; from then on it is the caller's to act on it."""
    if not _noted.number or _noted.acted_on or _thread.get_ident() != _noted.thread:
        return 0
    _noted.acted_on = True
    if _noted.number != signal.SIGALRM:
        for number in ASKING:
            signal.signal(number, signal.SIG_IGN)  # children that undo things are not to be ended either
    return _noted.number


@contextmanager
def held() -> Iterator[int]:
    """Raise no Cancelled inside; yield a descriptor that can be read from when ``take`` has something to give.

    For what undoes something, which nothing may cut: Ctrl-C on a terminal does not reach children started inside.
    """
    _noted.held += 1
    try:
        yield _noted.bell
    finally:
        _noted.held -= 1


def is_held() -> bool:
    """Return whether we are inside ``held``."""
    return _noted.held > 0


def wait(fds: Iterable[int] = (), seconds: float | None = None) -> list[int]:
    """Wait until one of ``fds`` can be read from, or has no writer any more, and return which; none after ``seconds``.

    Raises Cancelled when a signal asks us to end. In other threads than the main one nothing does.
    """
    poll = select.poll()
    wanted = list(fds)
    for fd in wanted:
        poll.register(fd, select.POLLIN)
    if not _noted.held and _thread.get_ident() == _noted.thread:
        check()
        if not _noted.acted_on:
            poll.register(_noted.bell, select.POLLIN)
    ready = [fd for fd, _ in poll.poll(None if seconds is None else max(0.0, seconds) * 1000)]
    check()
    return [fd for fd in ready if fd in wanted]


def wait_to_write(fd: int) -> bool:
    """Wait until ``fd`` can be written to; once a signal asks us to end only a moment: tell whether it can be."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.register(_noted.bell, select.POLLIN)
    if any(ready == fd for ready, _ in poll.poll()):
        return True
    poll.unregister(_noted.bell)
    return bool(poll.poll(_UNREAD_MILLISECONDS))


def sleep(seconds: float) -> None:
    """Wait ``seconds``; raises Cancelled when a signal asks us to end."""
    wait((), seconds)


@contextmanager
def at_most(seconds: int, what: str) -> Iterator[None]:
    """Raise HostError when what is inside takes longer than ``seconds``, at the next point where it can be cut."""
    before = signal.signal(signal.SIGALRM, _note)
    signal.alarm(seconds)
    try:
        yield
        check()
    except Cancelled as cancelled:
        if cancelled.signal_number != signal.SIGALRM:
            raise
        raise HostError(f"{what} was not over after {seconds} s") from None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        if _noted.number == signal.SIGALRM:
            _noted.number, _noted.acted_on = 0, False
            os.eventfd_read(_noted.bell)


def ended(pid: int, seconds: float | None) -> bool:
    """Wait up to ``seconds`` for our child ``pid``, which nobody has waited for yet; tell whether it has ended.

    Raises Cancelled when a signal asks us to end.
    """
    fd = os.pidfd_open(pid)
    try:
        deadline = None if seconds is None else time.monotonic() + seconds
        while not wait([fd], None if deadline is None else deadline - time.monotonic()):
            if deadline is not None and time.monotonic() >= deadline:
                return False
        return True
    finally:
        os.close(fd)
