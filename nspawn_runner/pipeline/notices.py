"""What a person should know of a pipeline's files though the run goes on."""

from __future__ import annotations

from ..errors import printable

MAX_NOTICES = 30


class Notices:
    """Collects warnings, each once, in the order in which they came up; of very many only the first."""

    def __init__(self) -> None:
        self._said: dict[str, None] = {}
        self._left_out = 0

    def say(self, text: str) -> None:
        """Add the warning ``text``, one line; control characters in it, which names of a file may have, are escaped."""
        text = printable(text)
        if text in self._said:
            return
        if len(self._said) < MAX_NOTICES:
            self._said[text] = None
        else:
            self._left_out += 1

    def lines(self) -> list[str]:
        """Return the warnings."""
        more = [f"and {self._left_out} more of these"] if self._left_out else []
        return [*self._said, *more]
