"""Start a machine: a record, a layer, a unit that becomes systemd-nspawn; all of it, or nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import HostError, JobError
from ..host import files, process, signals, systemd
from ..nspawn import options
from ..settings import paths
from ..settings.tables import UNLIMITED
from . import (
    backends,
    boot_files,
    confinement,
    machine_unit,
    network,
    records,
    script_user,
    shared_limits,
    stop,
)
from .plan import Plan
from .records import Record

OLDEST_SYSTEMD = 252


def start(plan: Plan) -> Record:
    """Start the machine for ``plan`` and return its record once it can run scripts; raises HostError.

    What an earlier try left under its name is removed first. When anything fails or a signal arrives, what was made is
    removed again.
    """
    with begun(plan) as machine:
        return machine.finish()


@contextmanager
def begun(plan: Plan) -> Iterator[Starting]:
    """Begin to start the machine for ``plan``, as ``start`` does; the block has to finish it, others may boot beside.

    Nobody else can remove it meanwhile. When the block raises, the machine is removed, finished or not.
    """
    with _locked_name(plan) as machine:
        stop.remove_leftovers(machine, plan.state_folder)
        plan = plan._replace(network=network.with_subnet(plan.network))
        record = records.create(lambda slot: _record(machine, slot, plan))
        starting = None
        try:
            starting = _bring_up(record, plan)
            yield starting
        except BaseException as error:
            if starting:
                starting.end_client()
            try:
                stop.remove(record)
            except HostError as another:
                # Why it did not start is what a person must know first.
                if not (why := _why(error)):
                    raise another from error
                shown = error.evidence if isinstance(error, HostError) else ()
                raise HostError(why, facts=another.what, advice=another.advice, evidence=shown) from error
            raise


@contextmanager
def _locked_name(plan: Plan) -> Iterator[str]:
    while True:
        machine = _name(plan)
        with records.lock(machine):
            # Another server's job of the same id may have taken the name while we waited for the lock.
            if _name(plan) == machine:
                yield machine
                return


def _name(plan: Plan) -> str:
    if plan.service:
        return records.service_name(plan.service.of_job, plan.service.place)
    return records.new_name(plan.job, plan.server)


def _why(error: BaseException) -> str:
    """Return what failed in the words for people, nothing where it was a signal."""
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
    return str(error) if isinstance(error, Exception) else ""


def _record(machine: str, slot: int, plan: Plan) -> Record:
    limited = plan.amounts.disk_max != UNLIMITED
    backend = backends.choose(plan.backend, plan.root, in_place=plan.in_place, limited_disk=limited)
    layer = plan.root if plan.in_place else backends.named(backend).layer(plan.state_folder, machine)
    return Record(
        machine=machine,
        job=plan.job,
        server=plan.server,
        project=plan.project,
        image=plan.image,
        generation=plan.generation,
        root=plan.root,
        backend=backend,
        layer=layer,
        slot=slot,
        shell=plan.shell,
        user=plan.user,
        network=plan.network.mode,
        user_namespace=plan.user_namespace,
        limits=plan.amounts,
        created=time.time(),
        profile=plan.profile_name,
        owner=plan.owner,
        environment=plan.environment,
        # Of a tree in memory or of maintenance's own there is nothing to keep.
        keep_failed_seconds=plan.keep_failed_seconds if backends.named(backend).CAN_KEEP else 0,
        service=plan.service.name if plan.service else "",
        of_job=plan.service.of_job if plan.service else "",
        place=plan.service.place if plan.service else int(bool(plan.names)),
        slice=records.slice_name(plan.service.of_job if plan.service else machine) if plan.names else "machine.slice",
        memory_together=plan.ceiling.memory_max,
        tasks_together=plan.ceiling.tasks_max,
        builds=_builds(plan),
        builds_dir=plan.builds_dir,
    )


def _builds(plan: Plan) -> str:
    """Return the folder for the machine's builds; called while nobody else can make a record."""
    if plan.claim_builds is None:
        return ""
    return plan.claim_builds({record.builds for record in records.all_records()})


class Starting:
    """A machine whose unit is starting; ``record`` is what is known of it."""

    def __init__(self, record: Record, plan: Plan, complete_network: Callable[[], None]) -> None:
        self.record = record
        self._plan = plan
        self._complete_network = complete_network
        argv = systemd.run_argv(
            systemd.command(machine_unit.command(record, plan), f"{record.folder}/command"),
            unit=record.unit,
            description=f"nspawn-runner machine {record.machine}, job {record.job}, image {record.image}",
            properties=machine_unit.properties(record, plan),
        )
        self._client = process.spawn(argv, stdout=process.DEVNULL, stderr=process.DEVNULL)

    def finish(self) -> Record:
        """Wait until the machine can run scripts and return its record; raises HostError."""
        try:
            self._complete_network()
            _join_network(self.record, self._client)
            self._client.wait()
        except BaseException:
            self.end_client()
            raise
        if self._client.returncode and not _is_up(self.record):
            raise _not_started(self.record)
        if self.record.user != script_user.ROOT:
            script_user.give_folders(self.record, self._plan.users_folders)
        self.record = self.record._replace(state="running")
        records.write(self.record)
        return self.record

    def end_client(self) -> None:
        """End what asks for the start: it might start the unit after what was made is removed."""
        self._client.kill()
        self._client.wait()


def _bring_up(record: Record, plan: Plan) -> Starting:
    paths.keep_others_out(plan.state_folder)
    complete_network = network.set_up(plan.network)
    shared_limits.lift()
    files.make_private_folder(record.folder)
    hosts = network.hosts(record, plan.network)
    if plan.names:
        from . import job_network, job_slice  # of few jobs

        if not plan.service:
            job_network.make(record)
            job_slice.make(record.machine, plan.ceiling)
        hosts += job_network.hosts(record, plan.names)
    network.write_files(record, plan.network)
    boot_files.write_files(record, plan)
    new_layer = backends.NewLayer(hosts, plan.tmpfs_size)
    backends.named(record.backend).attach(record, new_layer)
    confinement.make_volumes(plan.profile, record)
    return Starting(record, plan, complete_network)


def _not_started(record: Record) -> HostError | JobError:
    _check_version()
    from . import evidence, limits  # which a start that works does without

    if used_up := limits.used_up_together(record):
        return JobError(f"the machine {record.machine} did not start", facts=used_up)
    reason = options.boot_failure(systemd.journal_tail(record.unit, since=record.created))
    return HostError(
        f"the machine {record.machine} did not start from image {record.image}",
        facts=reason or "it said nothing; does the image have systemd?",
        advice=f"see: journalctl --unit={record.unit}; change the image: nspawn-runner chroot-login {record.image}",
        evidence=evidence.console(record),
    )


def _is_up(record: Record) -> bool:
    """Wait until the unit has started or not: a systemd that re-executes itself hangs up on systemd-run."""
    deadline = time.monotonic() + machine_unit.START_SECONDS
    while time.monotonic() < deadline:
        state = systemd.state(record.unit).get("ActiveState", "inactive")
        if state == "active":
            if not os.path.exists(records.ready_file(record.machine)):
                network.join(record, seconds=5)
            return True
        if state in {"inactive", "failed"}:
            return False
        signals.sleep(0.1)
    return False


def _join_network(record: Record, client: process.Popen) -> None:
    """Give the machine its address while it boots; if the start fails meanwhile, that error is raised instead."""
    while client.poll() is None or client.returncode == 0:
        try:
            network.join(record, seconds=0.5 if client.poll() is None else 0)
            return
        except HostError:
            if client.poll() == 0:
                raise


def _check_version() -> None:
    """Refuse a systemd-nspawn that lacks our options; asked only when a start failed, since it costs a process."""
    version = options.version()
    if version is not None and version < OLDEST_SYSTEMD:
        raise HostError(
            f"systemd-nspawn {version} is too old: machines need {OLDEST_SYSTEMD} or newer",
            advice="upgrade the host: Debian 12 has 252, Ubuntu 24.04 has 255",
        )
