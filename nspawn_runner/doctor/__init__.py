"""What doctor checks: a module per subject, with a list ``CHECKS`` of functions.

A check is a function that yields what it finds; its name, with spaces, is what people read. What it raises as Error or
OSError is a failure of its own. To add one: write the function and name it in its module's ``CHECKS``, or put a new
module's name into ``SUBJECTS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import NamedTuple

from ..errors import Error
from ..settings.machine_settings import MachineSettings
from ..settings.tables import Settings

OK, WARNING, FAILED = "ok", "warning", "failed"
LEVELS = (OK, WARNING, FAILED)  # from good to bad
# In the order in which one thing builds on the other.
SUBJECTS = (
    "settings_file", "system", "programs", "storage", "kernel_limits", "bridge", "host_firewall", "image_trees",
    "runner_service", "package_source", "timers",
)  # fmt: skip


_COMMAND = "install it: "  # an error's advice that is a command


class Context(NamedTuple):
    """What checks know: the host's settings, those of its machines, their file (None: the usual), how many machines."""

    settings: Settings
    own: MachineSettings
    config_file: str | None
    machines: int


class Finding(NamedTuple):
    """What a check found; ``mend`` is a command for a shell, ``advice`` what to do where none does it all."""

    level: str
    text: str
    mend: str = ""
    advice: str = ""


class ReportLine(NamedTuple):
    """A line of doctor's report."""

    check: str
    level: str
    text: str
    mend: str
    advice: str


Check = Callable[[Context], Iterator[Finding]]


def all_checks() -> dict[str, Check]:
    """Return the checks by their names, as the report has them."""
    modules = [import_module(f".{subject}", __name__) for subject in SUBJECTS]
    return {name_of(check): check for module in modules for check in module.CHECKS}


def name_of(check: Check) -> str:
    """Return the name of ``check`` in the report."""
    return check.__name__.replace("_", " ")


def run(check: Check, context: Context) -> Iterator[ReportLine]:
    """Yield what ``check`` finds."""
    name = name_of(check)
    try:
        for finding in check(context):
            yield ReportLine(name, *finding)
    except Error as error:
        yield of_error(name, error)
    except (OSError, ValueError, LookupError) as error:  # also: a tool's output is not what we know
        yield ReportLine(name, FAILED, f"cannot be checked: {error}", "", "see to that first")


def of_error(name: str, error: Error) -> ReportLine:
    """Return the failure that ``error`` is."""
    said, command, mend = error.advice.partition(_COMMAND)
    text = "; ".join(text for text in (error.what, error.facts) if text)
    if command and not said:
        return ReportLine(name, FAILED, text, mend, "")
    return ReportLine(name, FAILED, text, "", error.advice or "see to that first")


def ok(text: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(OK, text)


def warning(text: str, mend: str = "", *, advice: str = "") -> Finding:
    """Return a finding that jobs run, but not as they should."""
    return Finding(WARNING, text, mend, advice)


def failed(text: str, mend: str = "", *, advice: str = "") -> Finding:
    """Return a finding that jobs cannot run."""
    return Finding(FAILED, text, mend, advice)
