"""Progress of long work: one updating line on a terminal, else a line per phase."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from ..errors import printable

# mmdebstrap's message at the start of a phase → what we show.
_PHASES = {
    "running apt-get update": "reading package lists",
    "downloading packages": "downloading packages",
    "extracting archives": "unpacking packages",
    "installing essential": "installing essential packages",
    "installing remaining": "installing all other packages",
    "cleaning package": "removing what apt left",
}


class Progress:
    """Reports the progress of the work ``title`` on ``stream`` (standard error by default)."""

    def __init__(self, title: str, stream: TextIO | None = None, *, verbose: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._verbose = verbose
        self._title = title
        self._began = time.monotonic()
        self._phase = ""
        self._on_terminal = self._stream.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not verbose

    def show(self, phase: str, done: int = 0, total: int = 0, *, detail: str = "") -> None:
        """Show that the work is in ``phase``, with ``done`` of ``total`` packages; call it at least once a second.

        ``detail`` is shown on terminals only; it would be too much for a log.
        """
        if self._on_terminal:
            self._rewrite(self.line(f"{phase}, {printable(detail, 200)}" if detail else phase, done, total))
        elif phase != self._phase:
            print(self.line(phase), file=self._stream, flush=True)
        self._phase = phase

    def heard(self, line: str) -> None:
        """Pass on a line of a program's output if verbose."""
        if self._verbose and line:
            self.quote([line])

    def quote(self, lines: Sequence[str]) -> None:
        """Quote a program's output verbatim, except for control characters."""
        for line in lines:
            print(f"  | {printable(line, 200)}", file=self._stream, flush=True)

    def conclude(self, lines: Sequence[str]) -> None:
        """Quote the last lines of a failed program, unless all its output was shown already."""
        self.end()
        if not self._verbose:
            self.quote(lines)

    def line(self, phase: str, done: int = 0, total: int = 0) -> str:
        """Return the line that shows ``phase``, with the number of packages if known."""
        count = f", packages {done}/{total}" if total else ""
        return f"{self._title}: {phase}{count} ({self.seconds():.0f} s)"

    def seconds(self) -> float:
        """Return how long the work has taken so far."""
        return time.monotonic() - self._began

    def end(self) -> None:
        """Clear the terminal's line for the next output."""
        if self._on_terminal:
            self._rewrite("")

    def _rewrite(self, line: str) -> None:
        try:
            width = os.get_terminal_size(self._stream.fileno()).columns
        except OSError:
            width = 80
        self._stream.write(f"\r\033[K{line[: width - 1]}")
        self._stream.flush()


class BuilderOutput:
    """Reads phase and packages from the output of mmdebstrap (--verbose) or debootstrap, line by line."""

    def __init__(self) -> None:
        self.phase = "starting"
        self.done = 0
        self.total = 0

    def feed(self, line: str) -> None:
        """Process one line of output; lines without progress change nothing."""
        words = line.split()
        if line.startswith("I: "):
            self._feed_info(words[1:])
        elif words[3:5] == ["newly", "installed,"] and words[2].isdigit():
            self.total += int(words[2])  # one sum for the essential packages, one for all others
        elif line.startswith("Setting up "):
            self.done += 1

    def _feed_info(self, words: list[str]) -> None:
        # debootstrap prints one such line per package, mmdebstrap one per phase
        match words:
            case ["Retrieving" | "Validating" as verb, *_]:
                self.phase = "downloading packages"
                self.total += verb == "Validating"
            case ["Extracting" | "Unpacking", *_]:
                self.phase = "unpacking packages"
            case ["Configuring", *_]:
                self.phase = "installing packages"
                self.done = min(self.done + 1, self.total)
            case _:
                said = " ".join(words)
                self.phase = next((ours for theirs, ours in _PHASES.items() if said.startswith(theirs)), self.phase)
