"""Find and remove what is left of machines that nobody uses."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from functools import partial

from ..host import files, locks, systemd
from ..host.leftover import Leftover
from ..settings.paths import RUN_FOLDER
from . import backends, records, stop
from .records import Record

REMOVAL = "nspawn-runner gc"  # removes what is found here
_OURS = re.compile(r"run-[0-9]{1,20}(?:-[0-9a-f]{8})?(?:-s[0-9]{1,3})?")
_UNIT = re.compile(r"nspawn-runner-(.+)\.service")
_DRAFT = re.compile(r".+\.([0-9]+)\.new")  # of files.write_atomically


def find(state_folder: str, *, ended_seconds: float, orphaned: Callable[[Record], str]) -> Iterator[Leftover]:
    """Yield the machines that nobody uses: half started, half removed, ended that long ago, or running for nobody.

    ``orphaned`` says why whoever started a machine is gone, or nothing; else those that run are left alone.
    """
    for machine in sorted(names(state_folder)):
        look = partial(_why, machine, state_folder, ended_seconds, orphaned)
        why = look()
        # Whoever held the lock may be done since we looked.
        if why and not locks.is_held(records.lock_file(machine)) and look():
            layers = _layers(machine, state_folder)
            yield Leftover("machine", machine, why, layers, partial(_remove, machine, state_folder, look))


def names(state_folder: str) -> set[str]:
    """Return the names of machines of which there is anything: record, folder, unit, layer."""
    folders = {os.path.dirname(path) for path in backends.places(state_folder, "any").values()}
    found = {name for folder in folders for name in _entries(folder)}
    found |= {name for name in _entries(RUN_FOLDER) if os.path.isdir(f"{RUN_FOLDER}/{name}")}
    found |= {unit[1] for unit in map(_UNIT.fullmatch, _entries("/run/systemd/transient")) if unit}
    return {name for name in found if _OURS.fullmatch(name)} | {record.machine for record in records.all_records()}


def _why(machine: str, state_folder: str, ended_seconds: float, orphaned: Callable[[Record], str]) -> str:
    """Say why nobody needs what there is of ``machine``, or nothing where somebody may; its lock being free or ours."""
    record = records.read(machine)
    if record is None:
        return "it has no record" if _traces(machine, state_folder) else ""
    if record.state == "kept":
        return "it was kept long enough" if record.kept_until < time.time() else ""
    if record.state in {"starting", "stopping"} or _has_lost_its_job(record):
        return "its job's machine is gone" if record.state == "running" else f"what was {record.state} it was killed"
    # Where systemd does not answer it may run.
    if systemd.state(record.unit).get("ActiveState") not in {"inactive", "failed"}:
        return orphaned(record)
    if record.state == records.UNREADABLE:
        return "its record cannot be understood"
    # Of a service's end its job tells, and removes it.
    return orphaned(record) or ("" if record.of_job else _ended(machine, ended_seconds))


def _has_lost_its_job(record: Record) -> bool:
    """Return whether it is a service's machine and that of its job is gone."""
    job = record.of_job
    return bool(job) and records.read(job) is None and not locks.is_held(records.lock_file(job))


def _ended(machine: str, ended_seconds: float) -> str:
    """Say that ``machine`` ended, where that is long enough ago."""
    end = records.read_end(machine)
    try:
        seconds = time.time() - (end.at if end else os.stat(records.path(machine)).st_mtime)
    except FileNotFoundError:
        return ""
    return f"it ended {int(seconds)} s ago" if seconds >= ended_seconds else ""


def _layers(machine: str, state_folder: str) -> list[str]:
    """Return the folders on disk of what ``machine`` wrote."""
    record = records.read(machine)
    if record is not None and record.layer:
        layers = [record.layer] if backends.named(record.backend).OWNS_LAYER else []
    else:
        layers = [*backends.places(state_folder, machine).values()]
    return [layer for layer in layers if os.path.isdir(layer)]


def _traces(machine: str, state_folder: str) -> bool:
    paths = [*backends.places(state_folder, machine).values(), records.folder(machine)]
    return any(map(os.path.lexists, paths)) or systemd.is_loaded(records.unit_name(machine))


def _remove(machine: str, state_folder: str, look: Callable[[], str]) -> bool:
    with records.lock(machine, wait_seconds=0):
        if not look():
            return False
        stop.remove_leftovers(machine, state_folder)
        return True


def remove_files() -> None:
    """Remove the drafts of files and the locks that killed processes left in the folder of records."""
    for name in _entries(RUN_FOLDER):
        path = f"{RUN_FOLDER}/{name}"
        draft = _DRAFT.fullmatch(name)
        if draft and not os.path.exists(f"/proc/{draft[1]}"):
            files.remove_file(path)
        elif name.endswith(".lock"):
            locks.remove_unheld(path)


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
