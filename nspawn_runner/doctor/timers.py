"""Our timers, and leftovers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..host import process
from ..images.ansible import playbooks
from ..machines import backends, orphans, records, status
from . import Context, Finding, ok, warning

_UNITS = os.path.join(os.path.dirname(os.path.abspath(__file__)).rpartition("/nspawn_runner/")[0], "packaging")


class Timer(NamedTuple):
    """A timer of ours; ``is_wanted`` tells whether this host has work for it."""

    unit: str
    work: str
    is_wanted: Callable[[Context], bool]


def _has_playbooks(context: Context) -> bool:
    return bool(playbooks.find_all(context.settings.state_folder)[0])


TIMERS = (
    Timer("nspawn-runner-gc.timer", "nobody removes what killed jobs leave", lambda _: True),
    Timer("nspawn-runner-maintenance.timer", "nobody brings images up to date", _has_playbooks),
)


def timers(context: Context) -> Iterator[Finding]:
    """Our timers are enabled where there is something for them to do."""
    for timer in TIMERS:
        if not timer.is_wanted(context):
            continue
        state = process.run(["systemctl", "is-enabled", timer.unit], check=False).stdout.decode().strip()
        if state == "enabled":
            yield ok(f"{timer.unit} is enabled")
        else:
            text = f"{timer.unit} is not enabled: {timer.work}"
            install = "" if state == "disabled" else f"cp {_UNITS}/{timer.unit[:-6]}.* /etc/systemd/system/; "
            if install and not os.path.isdir(_UNITS):  # pip installs no units
                yield warning(text, advice="nspawn-runner setup brings it")
                continue
            yield warning(text, f"{install}systemctl daemon-reload; systemctl enable --now {timer.unit}")


def leftovers(context: Context) -> Iterator[Finding]:
    """Nothing is left of machines that nobody uses any more."""
    known = records.all_records()
    found = False
    for record in known:
        state = status.state_of(record)
        if state in {"abandoned", records.UNREADABLE}:
            found = True
            yield warning(f"{record.machine} is {state}", orphans.REMOVAL)
    state_folder = context.settings.state_folder
    machines = {record.machine for record in known}
    for folder in map(os.path.dirname, backends.places(state_folder, "any").values()):
        there = os.listdir(folder) if os.path.isdir(folder) else []
        for machine in sorted(there):
            # A record comes before its layer, so none is reported that was made since we looked.
            if machine.removeprefix("run-").isdigit() and machine not in machines and not records.read(machine):
                found = True
                yield warning(f"stale layer of the removed machine {machine}: {folder}", orphans.REMOVAL)
    if not found:
        yield ok("nothing is left of removed machines")


CHECKS = (timers, leftovers)
