"""Our own lines in the log of a job that runs without GitLab."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from ..pipeline import headings


class LocalLog:
    """Writes lines to stdout; flushed, since the scripts write to the same stream directly.

    If nobody reads them any more, as behind head(1), the job continues and is cleaned up without them.
    """

    def __init__(self, *, colour: bool | None = None) -> None:
        self.colour = headings.colour_wanted(sys.stdout, os.environ) if colour is None else colour

    def section(self, title: str) -> None:
        """Begin a section."""
        self.say(headings.section(title, colour=self.colour))

    def warn(self, text: str) -> None:
        """Write a warning."""
        self.say(headings.warning(text, colour=self.colour))

    def say(self, line: str) -> None:
        """Write a line."""
        with suppress(OSError):
            print(line, flush=True)
