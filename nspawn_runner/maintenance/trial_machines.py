"""Machines for maintenance: one to change a tree in, one to test a tree in."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ..errors import Error, HostError
from ..gitlab.job import made_up_id
from ..host import process, signals, systemd
from ..jobs import job_limits
from ..machines import evidence, plan, records, script, start, stop
from ..machines.script import Outcome
from ..names import host_name
from ..nspawn import calls, tree_shell
from ..output import note
from ..settings import profiles
from ..settings.machine_settings import MachineSettings, for_machines

if TYPE_CHECKING:
    from ..images.generations import Draft
    from ..images.spec import Spec
    from ..machines.records import Record
    from ..settings.tables import Settings

# Stands in for a GitLab server's name; no job has it.
SERVER = "maintenance"
_SHELL = "/bin/sh"
_TRIAL_SECONDS = 900
_POWEROFF_SECONDS = 90


def remove_leftovers() -> None:
    """Remove the machines of a killed maintenance; call this only while no other maintenance runs."""
    for record in records.all_records():
        if record.server == SERVER:
            with records.lock(record.machine):
                stop.remove(record)


@contextmanager
def booted(spec: Spec, draft: Draft, settings: Settings) -> Iterator[str]:
    """Yield the name of a machine that changes the draft's tree in place; shut it down cleanly on exit."""
    root = draft.root
    # The tree is still being made: profiles do not apply to it.
    own = for_machines(settings._replace(profile=profiles.DEFAULT))
    mode = own.network.mode if own.network.mode != "none" else "private"  # none is for jobs; a playbook installs things
    # What the playbook and packages record of the host must be the same each time.
    name = host_name(spec.image)
    extra = {**own.network.extra_hosts, name: "127.0.1.2"}
    own = own._replace(network=own.network._replace(mode=mode, extra_hosts=extra))
    with (
        tree_shell.resolver_taken_back(root),
        tree_shell.machine_id_taken_back(root),
        _machine(spec, draft, settings, own, in_place=True, options=[f"--hostname={name}"]) as record,
    ):
        yield record.machine
        deadline = time.monotonic() + _POWEROFF_SECONDS
        poweroff = calls.systemctl_argv(record.machine, "--no-block", "poweroff")
        process.head(poweroff, limit_bytes=1, timeout_seconds=_POWEROFF_SECONDS)  # it may not answer
        while systemd.is_active(record.unit):
            if time.monotonic() > deadline:
                raise HostError(
                    f"the machine that the playbook changed did not shut down within {_POWEROFF_SECONDS} s",
                    advice="see which service of the image does not stop: journalctl --unit=" + record.unit,
                )
            signals.sleep(0.05)


def try_out(spec: Spec, draft: Draft, log: str, settings: Settings) -> None:
    """Run the smoke test of ``spec`` in a booted copy of the draft, output to ``log``; raises HostError if it fails.

    The machine has the network and limits that jobs will get; the script runs as root.
    """
    own = for_machines(settings, spec.run, spec.image)
    before = os.stat(log).st_size
    content = f"set -eu\n{spec.smoke_test}\n".encode()
    began = time.monotonic()
    with (
        _machine(spec, draft, settings, own) as record,
        _output_to(log),
        signals.at_most(_TRIAL_SECONDS, "the smoke test"),
    ):
        result = script.run(record, content, "smoke_test", shell=_SHELL, grace_seconds=5)
        said = _last_line(log, before)
        if result.status:
            with suppress(Error, OSError):  # these must not hide the failure
                for line in evidence.lines(record, since=began, seconds=5):
                    note(line)
    if result.outcome is not Outcome.FINISHED or result.status:
        how = f"exit status {result.status}" if result.outcome is Outcome.FINISHED else str(result.outcome.value)
        raise HostError(f"the smoke test failed: {how}", facts=f"its output: {log}", advice=said)


@contextmanager
def _machine(
    spec: Spec,
    draft: Draft,
    settings: Settings,
    own: MachineSettings,
    *,
    in_place: bool = False,
    options: Sequence[str] = (),
) -> Iterator[Record]:
    planned = plan.make(
        settings,
        own._replace(shell=_SHELL, user=""),
        job_limits.resolved(own.limits, settings.state_folder),
        job=made_up_id(),
        server=SERVER,
        project="",
        image=spec.image,
        generation=draft.stamp,
        root=draft.root,
        binds=options,
        in_place=in_place,
    )
    record = start.start(planned)
    try:
        yield record
    finally:
        with signals.held(), records.lock(record.machine):
            stop.remove(record)


@contextmanager
def _output_to(log: str) -> Iterator[None]:
    """Append our stdout and stderr, and with them a script's output, to the file ``log``."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        yield
    finally:
        os.close(fd)
        for number, old in enumerate(kept, 1):
            os.dup2(old, number)
            os.close(old)


def _last_line(log: str, before: int) -> str:
    """Return the last line of the file ``log`` after its first ``before`` bytes, worded as advice."""
    with open(log, "rb") as file:
        file.seek(max(before, os.fstat(file.fileno()).st_size - 4096))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return f"it ended with: {lines[-1][:200]}" if lines else ""
