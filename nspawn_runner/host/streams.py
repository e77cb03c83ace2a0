"""Our own standard streams: their reader may have gone, the disk may be full, or they may be closed."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from ..errors import HostError
from ..light_typing import TYPE_CHECKING, Any, cast
from . import signals

if TYPE_CHECKING:
    from typing import TextIO

_STDERR = 2


class _Stream:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Output(_Stream):
    """Standard output: raises BrokenPipeError if its reader has gone, HostError if it fails otherwise."""

    def write(self, text: str) -> int:
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, step: Any) -> None:
        try:
            step()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise HostError(f"cannot write to standard output: {error.strerror}") from None


class _Unbreakable(_Stream):
    """Standard error, whose reader may have gone: our messages must neither interrupt nor delay a teardown."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            if signals.wait_to_write(_STDERR):
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def secure() -> None:
    """Replace Python's streams with ours; a closed one becomes /dev/null, or the next opened file would take it."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)  # it gets the lowest free number
    sys.stdout = cast("TextIO", _Output(sys.stdout or os.fdopen(1, "w", closefd=False)))
    sys.stderr = cast("TextIO", _Unbreakable(sys.stderr or os.fdopen(2, "w", closefd=False)))
