"""The lines in a job's log that are not the script's output, as GitLab shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO

PREPARE = "Preparing environment"
GET_SOURCES = "Getting source from Git repository"
GET_ARTIFACTS = "Downloading artifacts"
BUILD_SCRIPT = 'Executing "step_script" stage of the job script'
AFTER_SCRIPT = "Running after_script"
KEEP_ARTIFACTS = "Keeping artifacts"
CLEANUP = "Cleaning up project directory and file based variables"

GREEN, CYAN, YELLOW, RED = "\033[32;1m", "\033[36;1m", "\033[0;33m", "\033[31;1m"
_PLAIN = "\033[0;m"


def colour_wanted(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Return whether ``stream`` is a terminal and NO_COLOR (https://no-color.org) is unset or empty."""
    return stream.isatty() and not environment.get("NO_COLOR")


def painted(text: str, paint: str, *, colour: bool) -> str:
    """Return ``text`` in ``paint`` if ``colour`` is wanted."""
    return f"{paint}{text}{_PLAIN}" if colour else text


def section(title: str, *, colour: bool) -> str:
    """Return the heading of a section of the log."""
    return painted(title, CYAN, colour=colour)


def warning(text: str, *, colour: bool) -> str:
    """Return ``text`` as a warning."""
    return painted(f"WARNING: {text}", YELLOW, colour=colour)


def after_script_failed(status: int, *, colour: bool) -> str:
    """Return the line about a failed after_script, which does not change the job's result."""
    return warning(f"after_script failed with exit code {status}; the job's result stays as it is", colour=colour)


def succeeded(*, colour: bool) -> str:
    """Return the last line of a job that succeeded."""
    return painted("Job succeeded", GREEN, colour=colour)


def failed(reason: str, *, colour: bool) -> str:
    """Return the last line of a job that failed for ``reason``, such as ``exit code 1``."""
    return painted(f"ERROR: Job failed: {reason}", RED, colour=colour)
