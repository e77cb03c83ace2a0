"""Everything of ours that no live job, maintenance, doctor or exec owns."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from ..host import callers, locks, trees
from ..host.leftover import Leftover
from ..images import leftovers as of_images
from ..machines import leftovers as of_machines
from ..machines import records
from ..settings import RUN_FOLDER
from . import caches, chroot_maintenance, trials

if TYPE_CHECKING:
    from ..machines.records import Record
    from ..settings import Settings

_WORK = re.compile(r"(exec|doctor)-([0-9]{1,20})")


def find(settings: Settings, *, ended_seconds: float) -> Iterator[Leftover]:
    """Yield what nobody owns, machines first: what they use is known to be free only when they are gone."""
    state = settings.state_folder
    orphaned = partial(_orphaned, state)
    yield from of_machines.find(state, ended_seconds=ended_seconds, orphaned=orphaned)
    yield from of_images.find(state, _used_roots)
    yield from _workspaces(state)
    yield from _trials(state)
    yield from caches.find_leftovers(state, settings.gc)


def remove_files(settings: Settings) -> None:
    """Remove the small files that every killed process leaves: locks that nobody holds, drafts."""
    of_images.remove_files(settings.state_folder)
    of_machines.remove_files()


def _orphaned(state_folder: str, record: Record) -> str:
    """Say who started the machine and is no more, or nothing where that is not known for sure."""
    if record.server == trials.SERVER and not locks.is_held(chroot_maintenance.LOCK):
        return "its maintenance was killed"
    if callers.is_gone(record.owner):
        return "whoever started it has ended"
    for folder, kind, job in _work(state_folder):
        if job == record.job and os.path.isdir(folder) and not locks.is_held(_lock_of(kind, job)):
            return f"its {kind} was killed"
    return ""


def _used_roots() -> list[str] | None:
    known = records.all_records()
    return None if any(record.state == records.UNREADABLE for record in known) else [record.root for record in known]


def _workspaces(state_folder: str) -> Iterator[Leftover]:
    for folder, kind, job in _work(state_folder):
        if not locks.is_held(_lock_of(kind, job)):
            yield Leftover(kind, job, f"{kind} was killed", [folder], partial(_remove_workspace, folder, kind, job))


def _work(state_folder: str) -> Iterator[tuple[str, str, str]]:
    """Yield folder, kind and job of each exec, and each trial job of doctor."""
    for parent, wanted in ((f"{state_folder}/.build", "exec"), (RUN_FOLDER, "doctor")):
        for name in sorted(os.listdir(parent)) if os.path.isdir(parent) else []:
            found = _WORK.fullmatch(name)
            if found and found[1] == wanted:
                yield f"{parent}/{name}", wanted, found[2]


def _lock_of(kind: str, job: str) -> str:
    return f"{RUN_FOLDER}/{kind}-{job}.lock"


def _remove_workspace(folder: str, kind: str, job: str) -> bool:
    with locks.locked(_lock_of(kind, job), what=f"the job {job}", wait_seconds=0):
        if not os.path.isdir(folder) or any(record.job == job for record in records.all_records()):
            return False  # by the folder its machine is known to be nobody's
        trees.remove(folder)
        return True


def _trials(state_folder: str) -> Iterator[Leftover]:
    """Yield what doctor's trials of backend and firewall make, where no doctor is at it."""
    from .health import firewall, storage

    places = storage.trial_places(state_folder)
    if (any(map(os.path.lexists, places)) or firewall.has_leftovers()) and not locks.is_held(storage.LOCK):
        yield Leftover("doctor", "trial", "doctor was killed", places[:1], partial(_remove_trials, state_folder))


def _remove_trials(state_folder: str) -> bool:
    from .health import firewall, storage

    with locks.locked(storage.LOCK, what="doctor's trial", wait_seconds=0):
        storage.remove_trial(state_folder)
        firewall.remove_link()
        firewall.remove_table()
        return True
