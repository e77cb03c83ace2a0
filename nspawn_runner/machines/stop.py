"""Remove a machine: every step is tried, absence is fine, failures are reported once at the end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from ..errors import Error, HostError
from ..host import files, process, signals, systemd
from . import backends, cgroups, notes, records
from .records import Record

# systemd-nspawn leaves these two, empty, when it is killed (measured with 252 to 262).
_NSPAWN_FOLDERS = ("/run/systemd/nspawn/propagate", "/run/systemd/nspawn/unix-export")
# systemd leaves this for each unit with LogExtraFields= (seen with 252).
_LOG_FIELDS = "/run/systemd/units/log-extra-fields:"
_FORGET_SECONDS = 5
# Share of the state folder's disk that must be free for a failed job's root to be kept.
_LEAST_ROOM = 0.1


def remove(record: Record) -> None:
    """Remove the machine of ``record``: unit, processes, mounts, layer, files and at last the record.

    Raises HostError with all that went wrong; then the record stays, so that a later call takes it up again.
    """
    with suppress(OSError):  # a full /run must not keep a machine alive
        records.write(record._replace(state="stopping"))
    problems = _all_gone(record.machine, {record.backend: record.layer})
    if problems:
        raise HostError(
            f"the machine {record.machine} could not be removed completely",
            facts="; ".join(problems),
            advice=f"fix that, then: nspawn-runner cleanup --id {record.job}",
        )
    records.remove(record.machine)


def begin(record: Record) -> None:
    """Begin the removal of a machine, which another call completes: it goes down meanwhile, without its reaper."""
    with suppress(OSError):
        files.write_atomically(records.removal_file(record.machine), b"")
    systemd.stop_soon(record.unit)


def end_job(record: Record) -> None:
    """Remove the machine of a job that is over, or keep its root where ``is_to_be_kept`` says so; raises HostError."""
    if is_to_be_kept(record):
        _keep(record)
    elif record.state != "kept":
        remove(record)


def is_to_be_kept(record: Record) -> bool:
    """Return whether the job of a running machine has failed and its root is to be kept.

    It is not where there is none any more, or the disk has become nearly full: other jobs need the room.
    """
    failed = record.keep_failed_seconds and record.state == "running" and notes.failure(record.of_job or record.machine)
    return bool(failed) and os.path.isdir(record.layer) and _has_room(record.layer)


def _keep(record: Record) -> None:
    """Remove all of the machine but its layer and its record, which says until when; raises HostError.

    Whatever kills us meanwhile leaves a record by which gc removes all of it.
    """
    try:
        records.write(record._replace(state="stopping"))
    except OSError:  # a full /run must not keep a machine alive, nor could be written there what is kept
        remove(record)
        return
    if problems := _all_gone(record.machine, {}):
        raise HostError(
            f"the machine {record.machine} could not be stopped",
            facts="; ".join(problems),
            advice=f"fix that, then: nspawn-runner cleanup --id {record.job}",
        )
    try:
        records.write(record._replace(state="kept", kept_until=time.time() + record.keep_failed_seconds))
    except OSError:
        remove(record)  # of what cannot be written down nobody would know


def _has_room(layer: str) -> bool:
    disk = os.statvfs(os.path.dirname(layer))
    return disk.f_bavail > disk.f_blocks * _LEAST_ROOM


def remove_leftovers(machine: str, state_folder: str) -> None:
    """Remove whatever there is under the name ``machine``: by its record, or without one what has its name."""
    record = records.read(machine)
    if record is not None and record.state != records.UNREADABLE:
        remove(record)
        return
    layers = backends.places(state_folder, machine)
    traces = [*backends.traces(state_folder, machine), records.folder(machine)]
    traces += [f"{folder}/{machine}" for folder in _NSPAWN_FOLDERS]
    there = record is not None or any(os.path.lexists(path) for path in traces)
    if there or systemd.is_loaded(records.unit_name(machine)):
        problems = _all_gone(machine, layers)
        if problems:
            raise HostError(f"leftovers of the machine {machine} could not be removed", facts="; ".join(problems))
        records.remove(machine)


def _all_gone(machine: str, layers: Mapping[str, str]) -> list[str]:
    """Take every step of a removal and return what went wrong; ``layers`` are the layers' paths by backend."""
    problems: list[str] = []

    def attempt(step: Callable[[], None]) -> None:
        try:
            step()
        except Error as error:
            problems.append("; ".join(error.lines()[:2]))
        except OSError as error:
            problems.append(str(error))

    with suppress(OSError):
        files.write_atomically(records.removal_file(machine), b"")
    attempt(lambda: systemd.stop(records.unit_name(machine)))
    # Of a login whose own process was killed.
    if systemd.is_loaded(records.login_unit_name(machine)):
        attempt(lambda: systemd.stop(records.login_unit_name(machine)))
    attempt(lambda: _forget_neighbour(machine))
    attempt(lambda: files.remove_file(_LOG_FIELDS + records.unit_name(machine)))
    attempt(lambda: _wait_until_forgotten(machine))
    for name, layer in layers.items():
        attempt(partial(backends.named(name).detach, layer))
    for folder in _NSPAWN_FOLDERS:
        attempt(partial(files.remove_folder, f"{folder}/{machine}"))
    attempt(lambda: _remove_shared(machine))
    attempt(lambda: files.remove_tree(records.folder(machine)))
    return problems


def _remove_shared(machine: str) -> None:
    """Remove what the machine's job shared with its services, of which most have none."""
    if os.path.lexists(f"{records.folder(machine)}/network"):
        from . import job_network, job_slice

        job_slice.remove(machine)
        job_network.remove(machine)


def _forget_neighbour(machine: str) -> None:
    """Remove the machine's fixed neighbour where its unit did not.

    With cgroup version 2 systemd starts nothing in a unit whose tasks are used up, and does not wait until those of a
    killed machine are gone (seen with 257).
    """
    try:
        words = files.read_head(f"{records.folder(machine)}/neighbour", 256).decode().split()
    except FileNotFoundError:
        return  # it has no address, or never came that far
    address, bridge = words[2], words[words.index("dev") + 1]
    with open("/proc/net/arp") as known:
        if any(line.startswith(f"{address} ") and line.split()[-1] == bridge for line in known):
            process.run(["ip", "neighbour", "delete", address, "dev", bridge])


def _wait_until_forgotten(machine: str) -> None:
    """Wait until machined has forgotten the machine, or the next of its name is refused as existing."""
    deadline = time.monotonic() + _FORGET_SECONDS
    while os.path.lexists(f"/run/systemd/machines/{machine}"):
        if time.monotonic() > deadline:
            raise HostError(f"systemd-machined still lists {machine}", advice=f"machinectl terminate {machine}")
        signals.sleep(0.002)


def reap(record: Record, *, result: str, exit_code: str, exit_status: str) -> None:
    """Write down how the machine of ``record`` ended and give back its layer; called by its unit when it ends.

    A machine that reboots (133) keeps its layer: it comes back, unless its time is over. systemd measures that from the
    last start, so that a reboot could lengthen it again and again.
    """
    over = time.time() > record.created + record.limits.runtime_max_seconds
    if exit_status == "133" and over and record.state != records.UNREADABLE:
        result, exit_status = "timeout", ""
        systemd.stop_soon(record.unit)
    files.remove_file(records.ready_file(record.machine))
    group, before = record.group, records.read_end(record.machine)
    records.write_end(
        record.machine,
        result=result,
        exit_code=exit_code,
        exit_status=exit_status,
        oom_kills=cgroups.oom_kills(group),
        # Of a machine that was rebooted all of its times count.
        memory_peak_bytes=max(cgroups.memory_peak_bytes(group), before.memory_peak_bytes if before else 0),
        cpu_seconds=(cgroups.cpu_seconds(group) or 0) + (before.cpu_seconds if before else 0),
    )
    if exit_status != "133" and record.state != records.UNREADABLE and not record.keep_failed_seconds:
        backends.named(record.backend).detach(record.layer)
