"""Signals that ask us to end: noted on arrival, handled at points that we choose.

An exception raised by a handler can get lost in a callback of the interpreter, or interrupt a library or our own
clean-up between two steps. So handlers only note the signal; all waiting is done here and raises Cancelled.
"""

from __future__ import annotations

import _thread  # importing threading would cost each stage a millisecond
import fcntl
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ..errors import Cancelled, HostError

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# How long a reader of our output may keep us waiting once a signal has asked us to end.
_UNREAD_MILLISECONDS = 3000


def _bell() -> int:
    """Return an eventfd, readable once written to; it never takes the place of a closed standard stream."""
    low = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        return fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(low)


class _Noted:
    number = 0  # the signal that asks us to end
    acted_on = False
    held = 0
    thread = _thread.get_ident()  # the main one, where handlers run
    bell = _bell()  # readable as soon as a number is noted


_noted = _Noted()


def heed() -> None:
    """Note SIGTERM, SIGINT and SIGHUP from now on; an ignored SIGINT or SIGHUP, as under nohup(1), stays ignored."""
    for number in ASKING:
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _note)


def _note(number: int, _frame: object) -> None:
    if _noted.number in {0, signal.SIGALRM} and number != _noted.number:
        _noted.number = number
        os.eventfd_write(_noted.bell, 1)


def check() -> None:
    """Raise Cancelled if a signal has asked us to end; only once, so that the clean-up that follows can finish."""
    if not _noted.held and (number := take()):
        raise Cancelled(number)


def take() -> int:
    """Return the number of the signal that asks us to end, or 0; returned only once, so the caller must act on it."""
    if not _noted.number or _noted.acted_on or _thread.get_ident() != _noted.thread:
        return 0
    _noted.acted_on = True
    if _noted.number != signal.SIGALRM:
        for number in ASKING:
            signal.signal(number, signal.SIG_IGN)  # children inherit this, so it does not end a clean-up either
    return _noted.number


@contextmanager
def held() -> Iterator[int]:
    """Raise no Cancelled inside; yield a descriptor that becomes readable when ``take`` has a signal to return.

    For a clean-up, which nothing may interrupt: Ctrl-C on a terminal does not reach children started inside.
    """
    if _thread.get_ident() != _noted.thread:  # nothing raises it there, and two threads would miscount
        yield _noted.bell
        return
    _noted.held += 1
    try:
        yield _noted.bell
    finally:
        _noted.held -= 1


def is_held() -> bool:
    """Return whether we are inside ``held``."""
    return _noted.held > 0


def wait(fds: Iterable[int] = (), seconds: float | None = None) -> list[int]:
    """Wait until some of ``fds`` are readable or have lost their writers, and return those; none after ``seconds``.

    Raises Cancelled when a signal asks us to end, in the main thread only.
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
    """Wait until ``fd`` is writable, but at most 3 s once a signal asks us to end; return whether it is."""
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
    """Raise HostError if the block takes longer than ``seconds``, at its next wait or its end; ``what`` names it."""
    before = signal.signal(signal.SIGALRM, _note)
    signal.alarm(seconds)
    try:
        yield
        check()
    except Cancelled as cancelled:
        if cancelled.signal_number != signal.SIGALRM:
            raise
        raise HostError(f"{what} did not finish within {seconds} s") from None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        if _noted.number == signal.SIGALRM:
            _noted.number, _noted.acted_on = 0, False
            os.eventfd_read(_noted.bell)


def ended(pid: int, seconds: float | None) -> bool:
    """Wait up to ``seconds`` for our child ``pid``, which must not be reaped yet; return whether it has ended.

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
