"""A machine's record in /run, written before anything is made and removed after all is gone.

    /run/nspawn-runner/<machine>.json   the record, root's, 0600
    /run/nspawn-runner/<machine>.lock   held by whoever starts or removes the machine
    /run/nspawn-runner/<machine>/       its files and mount points
    /run/nspawn-runner/<machine>/end.json  how it ended, written by the unit's reaper
    /run/nspawn-runner/<machine>/failure   which stage of the job failed first, and how

/run vanishes with a reboot as machines do.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

from ..errors import HostError
from ..host import files, locks
from ..light_typing import Any, NamedTuple
from ..names import is_machine_name
from ..nspawn import uid_ranges
from ..nspawn.uid_ranges import FIRST_SLOT, LAST_SLOT
from ..settings.paths import RUN_FOLDER
from ..settings.tables import UNLIMITED, Amounts

# The state of a record that is cut short or another version's: enough of it is known to remove the machine.
UNREADABLE = "unreadable"


class Record(NamedTuple):
    """A machine's record; ``state`` is starting, running, stopping or kept, ``created`` in epoch seconds.

    ``owner`` is the gitlab-runner that had it started, as host.callers says it, empty where another had.
    ``environment`` are the shell's commands that set what the image names for its scripts.
    ``keep_failed_seconds`` is how long its root is kept should its job fail; when that is so, ``state`` is kept and
    ``kept_until`` says until when, in epoch seconds.
    A machine for a service has the service's name, and in ``of_job`` the machine of its job. ``place`` is a machine's
    place in the network of its job, 1 for the job's own; 0 where the job has no services. ``slice`` is
    the host's slice of its unit; in one of a job and its services they have ``memory_together`` (bytes) and
    ``tasks_together``. ``builds`` is the host's folder that is its ``builds_dir``, empty where that is in its layer.
    """

    machine: str
    job: str
    server: str
    project: str
    image: str
    generation: str
    root: str
    backend: str
    layer: str
    slot: int
    shell: str
    user: str
    network: str
    user_namespace: bool
    limits: Amounts
    created: float
    profile: str = "default"
    state: str = "starting"
    owner: str = ""
    keep_failed_seconds: int = 0
    kept_until: float = 0
    environment: str = ""
    service: str = ""
    of_job: str = ""
    place: int = 0
    slice: str = "machine.slice"
    memory_together: float = UNLIMITED
    tasks_together: float = UNLIMITED
    builds: str = ""
    builds_dir: str = ""

    @property
    def unit(self) -> str:
        """The name of the host's unit that is the machine."""
        return unit_name(self.machine)

    @property
    def group(self) -> str:
        """The path of the unit's control group, as below the mount of each hierarchy."""
        return f"{self.slice_group or '/machine.slice'}/{self.unit}"

    @property
    def slice_group(self) -> str:
        """The path of the control group of a job with services, empty for other machines."""
        return "" if self.slice == "machine.slice" else f"/machine.slice/{self.slice}"

    @property
    def uid_base(self) -> int:
        """The first host uid of the machine's range; 0 where it has no user namespace of its own."""
        return uid_ranges.base(self.slot) if self.user_namespace else 0

    @property
    def folder(self) -> str:
        """The folder of the machine's files and mount points in /run."""
        return folder(self.machine)


def unit_name(machine: str) -> str:
    """Return the name of the host's unit for ``machine``."""
    return f"nspawn-runner-{machine}.service"


def slice_name(machine: str) -> str:
    """Return the name of the slice of a job with services, whose own machine is ``machine``; - would mean a parent."""
    return f"machine-{machine.replace('-', '_')}.slice"


def login_unit_name(machine: str) -> str:
    """Return the name of the host's unit for a shell in what is kept of ``machine``."""
    return f"nspawn-runner-login-{machine}.service"


def folder(machine: str) -> str:
    """Return the folder in /run of the files and mount points of ``machine``."""
    return f"{RUN_FOLDER}/{machine}"


def ready_file(machine: str) -> str:
    """Return the path of the file that is there while ``machine`` is up and has its network; its unit removes it."""
    return f"{folder(machine)}/ready"


def removal_file(machine: str) -> str:
    """Return the path of the file that is there once the removal of ``machine`` has begun: it needs no reaper then."""
    return f"{folder(machine)}/removal"


def find(job_id: str, server: str) -> Record | None:
    """Return the record of a job's machine, or None; a ``server`` that is empty or ``local`` finds any server's."""
    record = read(_hashed_name(job_id, server)) or read(f"run-{job_id}")
    mine = record is None or server in {"", "local", record.server} or not record.server
    return record if mine else None


def new_name(job_id: str, server: str) -> str:
    """Return the name for a job's machine, so that ``find`` finds it.

    It is ``run-<id>``, or ``run-<id>-<hash>`` while another server's job of the same id has that name or had it when
    this job's machine was named.
    """
    if read(_hashed_name(job_id, server)) is not None:
        return _hashed_name(job_id, server)
    holder = read(f"run-{job_id}")
    free = holder is None or holder.server == server or holder.state == UNREADABLE
    return f"run-{job_id}" if free else _hashed_name(job_id, server)


def service_name(machine: str, place: int) -> str:
    """Return the name of the machine in ``place`` of the network of a job whose own machine is ``machine``."""
    return f"{machine}-s{place - 1}"


def of_services(machine: str) -> list[Record]:
    """Return the records of the services of the job whose own machine is ``machine``, unreadable ones too."""
    start = f"{machine}-s"
    return [record for record in all_records(start) if record.machine.removeprefix(start).isdigit()]


def _hashed_name(job_id: str, server: str) -> str:
    return f"run-{job_id}-{_digest(server)}"


def _digest(server: str) -> str:
    from zlib import crc32

    return f"{crc32(server.encode()):08x}"


def read(machine: str) -> Record | None:
    """Return the record of ``machine``, or None; of one that cannot be understood, what can be, ``UNREADABLE``."""
    try:
        with open(path(machine), "rb") as file:
            data = json.loads(file.read())
    except FileNotFoundError:
        return None
    except ValueError:
        data = {}
    except OSError as error:
        raise HostError(f"cannot read the record {path(machine)}", facts=str(error)) from None
    if isinstance(data, dict) and data.get("machine") == machine:
        with suppress(TypeError, KeyError):  # of another version, which knows other fields
            return Record(**{**data, "limits": Amounts(*data["limits"])})
    return _remnant(machine, data)


def _remnant(machine: str, data: Any) -> Record:
    slot = data.get("slot") if isinstance(data, dict) else None
    return Record(
        machine=machine,
        job=machine.removeprefix("run-"),
        server="",
        project="",
        image="",
        generation="",
        root="",
        backend="",
        layer="",
        slot=slot if isinstance(slot, int) else 0,
        shell="",
        user="",
        network="",
        user_namespace=True,
        limits=Amounts(),
        created=0,
        state=UNREADABLE,
    )


def write(record: Record) -> None:
    """Write ``record``, replacing the one of the same machine at once."""
    files.write_atomically(path(record.machine), json.dumps(record._asdict()).encode())


def remove(machine: str) -> None:
    """Remove the record of ``machine`` if there is one: the last step of a clean-up."""
    files.remove_file(path(machine))


def all_records(start: str = "") -> list[Record]:
    """Return the records of machines whose names begin with ``start``, by name; one that goes meanwhile is left out."""
    try:
        there = [name for name in os.listdir(RUN_FOLDER) if name.startswith(start)]
        machines = sorted(name[:-5] for name in there if name.endswith(".json"))
    except FileNotFoundError:
        return []
    records = [read(machine) for machine in machines if is_machine_name(machine)]
    return [record for record in records if record is not None]


def lock(machine: str, *, wait_seconds: float = 90.0) -> AbstractContextManager[None]:
    """Hold the right to start or remove ``machine``."""
    files.make_private_folder(RUN_FOLDER)
    return locks.locked(lock_file(machine), what=f"the machine {machine}", wait_seconds=wait_seconds)


def lock_file(machine: str) -> str:
    """Return the path of the lock that whoever starts or removes ``machine`` holds."""
    return f"{RUN_FOLDER}/{machine}.lock"


def create(make: Callable[[int], Record]) -> Record:
    """Write the record that ``make`` returns for a free slot, and return it: from then on the slot is taken.

    A slot is free when no record names it. The next higher one is taken, so that an address or uid range comes back
    only when all others have had their turn. Raises HostError when all are taken.
    """
    files.make_private_folder(RUN_FOLDER)
    with locks.locked(f"{RUN_FOLDER}/slots.lock", what="the list of machines"):
        taken = {record.slot for record in all_records()}
        last = _last_slot()
        for slot in [*range(last + 1, LAST_SLOT + 1), *range(FIRST_SLOT, last + 1)]:
            if slot not in taken:
                files.write_atomically(f"{RUN_FOLDER}/slots.last", str(slot).encode())
                record = make(slot)
                write(record)
                return record
    raise HostError(f"all {LAST_SLOT - FIRST_SLOT + 1} places for machines are taken", advice="see: machinectl")


def _last_slot() -> int:
    try:
        return min(LAST_SLOT, max(FIRST_SLOT - 1, int(files.read_head(f"{RUN_FOLDER}/slots.last", 8))))
    except (OSError, ValueError):
        return FIRST_SLOT - 1


def path(machine: str) -> str:
    """Return the path of the record of ``machine``."""
    return f"{RUN_FOLDER}/{machine}.json"


class End(NamedTuple):
    """How a machine ended, in the words of systemd.exec(5)'s $SERVICE_RESULT, $EXIT_CODE and $EXIT_STATUS."""

    result: str
    exit_code: str
    exit_status: str
    oom_kills: int
    memory_peak_bytes: int
    cpu_seconds: float
    at: float


def is_rebooting(machine: str) -> bool:
    """Return whether ``machine`` went down for a reboot (systemd-nspawn's exit status 133) and is not yet up again."""
    end = read_end(machine)
    return end is not None and end.exit_status == "133" and not os.path.exists(ready_file(machine))


def write_end(machine: str, **known: Any) -> None:
    """Write down how ``machine`` ended."""
    files.write_atomically(f"{folder(machine)}/end.json", json.dumps(End(**known, at=time.time())._asdict()).encode())


def read_end(machine: str) -> End | None:
    """Return how ``machine`` ended, or None while that is not known."""
    try:
        with open(f"{folder(machine)}/end.json", "rb") as file:
            return End(**json.loads(file.read()))
    except (OSError, ValueError, TypeError):
        return None
