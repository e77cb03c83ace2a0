"""The errors a user can meet: what failed, the facts, what to do, and who is to blame."""

from __future__ import annotations

from .light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Error(Exception):
    """Something failed; the user gets one to three lines about it.

    ``what`` is the sentence that names the failure, ``facts`` what is known about it, ``advice`` what to do next;
    ``evidence`` is lines from a machine, shown before these.
    """

    longest_line = 500

    def __init__(self, what: str, *, facts: str = "", advice: str = "", evidence: Sequence[str] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.facts = facts
        self.advice = advice
        self.evidence = evidence

    def lines(self) -> list[str]:
        """Return the message as one to three lines without control characters."""
        return [printable(line, self.longest_line) for line in (self.what, self.facts, self.advice) if line]


class JobError(Error):
    """The job asked for something that it cannot have: a build failure, which the runner does not retry."""


class HostError(Error):
    """Something about the host is wrong: a system failure, which the runner retries."""


class SettingsError(HostError):
    """The settings file is wrong; all its mistakes are reported at once."""

    longest_line = 4000


class UsageError(HostError):
    """The command line is wrong; for a stage it comes from the runner's configuration, so the host is to blame."""


class Cancelled(BaseException):
    """A signal asked us to end; derives from BaseException so that no handler for errors hides it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


def printable(text: str, limit: int = 500) -> str:
    """Return ``text`` on one line: control characters escaped, at most ``limit`` characters.

    Names in messages may come from a job, and logs are read on terminals.
    """
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
