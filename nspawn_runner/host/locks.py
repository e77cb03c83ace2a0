"""Locks between processes: flock on a file that is removed on release."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..errors import HostError
from . import signals


class Busy(HostError):
    """Somebody else holds the lock."""


@contextmanager
def locked(path: str, *, what: str, wait_seconds: float = 60.0) -> Iterator[None]:
    """Hold the lock ``path`` (a file created for it and removed on release), waiting up to ``wait_seconds`` for it.

    The kernel drops the lock when its holder ends, so a kill leaves nothing to fix. Raises Busy, which names the
    locked thing by ``what``, if it is still held after the wait.
    """
    fd = _acquire(path, what, wait_seconds)
    try:
        yield
    finally:
        # Remove it while held: a waiter on the removed file notices in _is_current and opens the new one.
        os.unlink(path)
        os.close(fd)


def _acquire(path: str, what: str, wait_seconds: float) -> int:
    deadline = time.monotonic() + wait_seconds
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_current(fd, path):
                with suppress(OSError):  # the lock also holds on a full disk
                    os.ftruncate(fd, 0)
                    os.write(fd, str(os.getpid()).encode())
                return fd
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = os.pread(fd, 20, 0).decode(errors="replace")
                os.close(fd)
                raise Busy(
                    f"{what} is in use by another process", facts=f"process {holder} holds {path}", advice="try again"
                ) from None
            signals.sleep(0.02)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _is_current(fd: int, path: str) -> bool:
    try:
        there = os.stat(path)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    ours = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def remove_unheld(path: str) -> None:
    """Remove the lock file that a killed process left at ``path``, unless the lock is held."""
    if os.path.lexists(path):
        with suppress(Busy, FileNotFoundError), locked(path, what=path, wait_seconds=0):
            pass


@contextmanager
def kept(folder: str) -> Iterator[bool]:
    """Keep the folder from being removed by those who use ``unkept``; yield whether it exists.

    Many can keep it at once, even on a read-only disk.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield False
        return
    try:
        while not _shared(fd):
            signals.sleep(0.02)
        yield _is_current(fd, folder)
    finally:
        os.close(fd)


def _shared(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def unkept(folder: str) -> Iterator[bool]:
    """Yield whether nobody has ``kept`` the folder; if so, nobody can until the block ends."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        yield False
        return
    try:
        yield True
    finally:
        os.close(fd)


def is_held(path: str) -> bool:
    """Return whether a process holds the lock ``path`` now. The check itself takes it for an instant."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)
