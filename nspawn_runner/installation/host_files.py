"""Units, manual pages and completion: where they come from, and where a host has them that no package brought.

They lie beside the program in a checkout; pip puts them below its prefix (data_files in setup.cfg). Debian's package
has its own in /usr, and beside its program there are none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from glob import glob
from typing import NamedTuple

from ..doctor.timers import TIMERS
from ..errors import HostError
from ..host import files, process

_ABOVE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_PREFIX = _ABOVE.rpartition("/lib/python")[0]  # of pip; empty where the program came otherwise
_UNITS = "/etc/systemd/system"
_STAMPS = "/var/lib/systemd/timers"
_USUAL_TOOL = "/usr/local/bin/nspawn-runner"  # as the units of packaging/ call it
_SHARE = "/usr/local/share"


class Kind(NamedTuple):
    """Files of a kind: in the checkout, below pip's prefix, and the folder of the host that they go to."""

    checkout: str
    prefix: str
    target: str


_KINDS = (
    Kind("packaging/*.service", "share/nspawn-runner/*.service", _UNITS),
    Kind("packaging/*.timer", "share/nspawn-runner/*.timer", _UNITS),
    Kind("docs/**/*.5", "share/man/man5/nspawn-runner*.5", f"{_SHARE}/man/man5"),
    Kind("docs/**/*.7", "share/man/man7/nspawn-runner*.7", f"{_SHARE}/man/man7"),
    Kind("docs/**/*.8", "share/man/man8/nspawn-runner*.8", f"{_SHARE}/man/man8"),
    Kind(
        "packaging/completion/bash/nspawn-runner",
        "share/bash-completion/completions/nspawn-runner",
        f"{_SHARE}/bash-completion/completions",
    ),
    Kind(
        "packaging/completion/zsh/_nspawn-runner",
        "share/zsh/site-functions/_nspawn-runner",
        f"{_SHARE}/zsh/site-functions",
    ),
    Kind(
        "packaging/completion/fish/nspawn-runner.fish",
        "share/fish/vendor_completions.d/nspawn-runner.fish",
        f"{_SHARE}/fish/vendor_completions.d",
    ),
)


class HostFile(NamedTuple):
    """A file for the host: its path there, and what it is to hold."""

    path: str
    content: bytes

    def is_there(self) -> bool:
        """Return whether the host has just this content at the path."""
        try:
            return files.read_head(self.path, len(self.content) + 1) == self.content
        except OSError:
            return False


def wanted(tool: str) -> list[HostFile]:
    """Return what this installation brings for the host, with units that call ``tool``; raises HostError."""
    found = []
    for path, target in _sources():
        with open(path, "rb") as file:
            content = file.read()
        if path.endswith(".service"):
            content = content.replace(_USUAL_TOOL.encode(), _in_unit(tool))
        found.append(HostFile(f"{target}/{os.path.basename(path)}", content))
    return found


def sample_playbook(image: str) -> str:
    """Return the path of the sample playbook of ``image``; empty if there is none."""
    places = (f"{_ABOVE}/playbooks", f"{_PREFIX}/share/nspawn-runner/playbooks")
    return next((path for place in places if os.path.isfile(path := f"{place}/{image}.yaml")), "")


def _sources() -> Iterator[tuple[str, str]]:
    for kind in _KINDS:
        found = glob(f"{_ABOVE}/{kind.checkout}", recursive=True)
        found += glob(f"{_PREFIX}/{kind.prefix}") if _PREFIX else []
        yield from ((path, kind.target) for path in sorted(found))


def _in_unit(tool: str) -> bytes:
    """Return ``tool`` as a unit's ExecStart has it (systemd.service(5)); raises HostError where that needs quoting."""
    if any(char.isspace() or char in "\"'\\;$" for char in tool):
        raise HostError(f"no unit can call {tool}", advice="let nspawn-runner lie in a folder with a plain name")
    return tool.replace("%", "%%").encode()


def install(wanted_files: list[HostFile]) -> None:
    """Write the files, where the host does not have them so, and enable the timers among them; raises OSError."""
    for file in wanted_files:
        if not file.is_there():
            os.makedirs(os.path.dirname(file.path), mode=0o755, exist_ok=True)
            files.write_atomically(file.path, file.content, mode=0o644)
    timers = [os.path.basename(file.path) for file in wanted_files if file.path.endswith(".timer")]
    if timers:
        process.run(["systemctl", "daemon-reload"])
        process.run(["systemctl", "enable", "--quiet", "--now", *timers])


def removable() -> list[str]:
    """Return the paths of ours on the host that ``remove`` removes: timers, services, pages."""
    units = [name for timer in TIMERS for name in (timer.unit, f"{timer.unit[:-6]}.service")]
    found = [f"{_UNITS}/{name}" for name in units] + [f"{_STAMPS}/stamp-{timer.unit}" for timer in TIMERS]
    for kind in _KINDS:
        if kind.target != _UNITS:
            found += glob(f"{kind.target}/{os.path.basename(kind.prefix)}")
    return [path for path in found if os.path.lexists(path)]


def remove() -> None:
    """Disable the timers and remove all that ``removable`` names; folders that are then empty stay. Raises OSError."""
    paths = removable()
    units = [os.path.basename(path) for path in paths if path.startswith(f"{_UNITS}/")]
    if timers := [unit for unit in units if unit.endswith(".timer")]:
        process.run(["systemctl", "disable", "--quiet", "--now", *timers], check=False)
    for path in paths:
        files.remove_file(path)
    if units:
        process.run(["systemctl", "daemon-reload"])
        process.run(["systemctl", "reset-failed", "--quiet", *units], check=False)  # they need not have failed
