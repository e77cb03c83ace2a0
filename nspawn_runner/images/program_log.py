"""Run long programs: log their output and pass it to the caller line by line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple

from ..errors import HostError
from ..host import files, process, signals
from ..settings.paths import LOG_FOLDER

_LAST_LINES = 12


class EndedProgram(NamedTuple):
    """How a program ended: its exit status and its last lines of output."""

    status: int
    last: list[str]


def new_log(name: str) -> str:
    """Create the log ``name`` again, empty and for root only, and return its path."""
    files.make_private_folder(LOG_FOLDER)
    path = f"{LOG_FOLDER}/{name}.log"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    return path


def run(
    argv: Sequence[str],
    *,
    log: str,
    heard: Callable[[str], None],
    end: Callable[[process.Popen], None],
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> EndedProgram:
    """Run ``argv`` to its end; append its output to the file ``log`` and call ``heard`` with each line.

    ``heard`` gets an empty line after each half second without output. In any case, ``end`` is called with the
    child to end what is left of it.
    """
    last: list[str] = []
    with open(log, "ab", buffering=0) as opened:
        _write(opened, f"+ {process.quoted(argv)}")
        child = process.spawn(argv, stdout=process.PIPE, stderr=process.STDOUT, own_session=True, env=env, cwd=cwd)
        try:
            assert child.stdout is not None  # noqa: S101  (tells mypy about PIPE)
            for line in _lines(child.stdout.fileno(), child):
                if line is not None:
                    _write(opened, line)
                if line:
                    last = [*last[1 - _LAST_LINES :], line]
                heard(line or "")
            return EndedProgram(child.wait(), last)
        finally:
            end(child)


def _write(log: BinaryIO, line: str) -> None:
    try:
        log.write(f"{line}\n".encode())
    except OSError as error:
        raise HostError(f"cannot write the log {log.name}", facts=str(error.strerror)) from error


def _lines(fd: int, child: process.Popen) -> Iterator[str | None]:
    """Yield the lines from ``fd`` until it is closed, and None after each half second without one.

    A process that outlives the child may hold ``fd`` open, so silence after the child's end also ends this.
    """
    rest = b""
    while True:
        if not signals.wait([fd], 0.5):
            yield None
            if child.poll() is None:
                continue
            read = b""
        else:
            read = os.read(fd, 65536)
        *lines, rest = (rest + read).split(b"\n")
        yield from (line.decode(errors="replace").rstrip() for line in lines)
        if not read:
            if rest:
                yield rest.decode(errors="replace").rstrip()
            return
