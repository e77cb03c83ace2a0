"""The host's unit that is a machine: the command it runs, and its properties."""

from __future__ import annotations

import os
import sys

from ..errors import HostError
from ..host import systemd
from ..nspawn import options
from ..settings.tables import Network
from . import backends, boot_files, cgroups, confinement, limits, network, records, shared_limits
from .plan import Plan
from .records import Record

START_SECONDS = 90


def command(record: Record, plan: Plan) -> list[str]:
    """Return what the unit runs: systemd-nspawn with all of its options, behind what bounds its control group."""
    profile = plan.profile
    binds = [
        *network.nspawn_options(record, plan.network),
        *limits.nspawn_options(record.limits, keep_tmp="/tmp" in profile.tmpfs),  # noqa: S108
        *confinement.nspawn_options(profile, record),
        *boot_files.nspawn_options(record),
        *confinement.builds_option(record),
        *plan.binds,
    ]
    tree = backends.named(record.backend).command(record)
    # As root of the host's network its programs would change that.
    masked = options.NETWORK_UNITS if record.network == network.HOST and not record.user_namespace else ()
    # Before anything of the machine runs, also after a reboot: the group is made again then. No ExecStartPre, for which
    # systemd sets everything up twice.
    bounded = ["/bin/sh", os.path.join(os.path.dirname(__file__), "start.sh")]
    bounded += map(str, cgroups.bounds(record.group))
    return [*bounded, *tree, *options.boot_options(record.machine, binds, masked), *confinement.boot_words(profile)]


def properties(record: Record, plan: Plan) -> list[str]:
    """Return the properties; reasons in the order of systemd.service(5), .exec(5), .kill(5), .resource-control(5)."""
    return [
        # The console's lines say whose they are.
        f"SyslogIdentifier={record.machine}",
        *_journal_fields(record),
        "Type=notify",
        "NotifyAccess=all",
        # 133 is how systemd-nspawn says that the machine wants to reboot: it comes back with its state.
        "SuccessExitStatus=133",
        "RestartForceExitStatus=133",
        "StartLimitBurst=20",
        "StartLimitIntervalSec=60",
        f"TimeoutStartSec={START_SECONDS}",
        # SIGKILL needs no time; the reaper may, for a layer of many files.
        "TimeoutStopSec=120",
        *(f"ExecStartPost=-{' '.join(argv)}" for argv in _exec_start_post(record)),
        *(f"ExecStopPost=-{' '.join(argv)}" for argv in _exec_stop_post(record, plan.network)),
        # The overlay's mounts live and die with the unit.
        "PrivateMounts=yes",
        *network.unit_properties(record, plan.network),
        # Nothing in a machine is worth a polite shutdown, and in its first 80 ms there is nobody to hear SIGTERM.
        "KillMode=mixed",
        "KillSignal=SIGKILL",
        # A memory kill hits the process, not the machine.
        "OOMPolicy=continue",
        # The tree is this machine's alone. A lock's file would stay, one for each machine that is killed.
        "Environment=SYSTEMD_NSPAWN_LOCK=0",
        # Apart from the machine's console, where the machine could say the same.
        "Environment=SYSTEMD_LOG_TARGET=journal",
        *confinement.confinement(plan.profile, record),
        *limits.unit_properties(record.limits),
        *shared_limits.unit_properties(),
    ]


def _journal_fields(record: Record) -> list[str]:
    """Let the machine's console and what systemd says of the unit be found where the job's stages tell of themselves.

    As properties of systemd-run each is one field.
    """
    known = {"JOB": record.job, "PROJECT": record.project, "IMAGE": record.image, "MACHINE": record.machine}
    return [f"LogExtraFields=NSPAWN_RUNNER_{name}={systemd.plain(value)}" for name, value in known.items() if value]


def _exec_start_post(record: Record) -> list[list[str]]:
    """Return the commands that the unit runs when it is up: in a job's network the machine joins that again."""
    if not record.place:
        return []
    return [_unit_command("start_post.sh", records.ready_file(record.machine), "join", record.machine)]


def _unit_command(name: str, file: str, verb: str, machine: str) -> list[str]:
    """Return the call of our shell script ``name`` by a unit, with ``file`` and a call of ours; raises HostError."""
    folder = os.path.dirname(__file__)
    main = os.path.join(os.path.dirname(folder), "__main__.py")
    if " " in main or " " in sys.executable:
        raise HostError(f"no unit can call what lies in a folder with a space: {main} or {sys.executable}")
    return ["/bin/sh", os.path.join(folder, name), file, sys.executable, "-I", "-S", main, verb, machine]


def _exec_stop_post(record: Record, network_settings: Network) -> list[list[str]]:
    """Return the commands that the unit runs when it ends: its neighbour is forgotten, our reaper called.

    Not the reaper if it is us who remove the machine. Neither forks, since the job may have used up the unit's tasks.
    """
    commands = [_unit_command("stop_post.sh", records.removal_file(record.machine), "reap", record.machine)]
    if record.network == network.PRIVATE:
        # Of one that does not exist, as where the host was not told of it yet, flush says nothing.
        address = network.address(network_settings, record.slot)
        flush = ["ip", "neighbour", "flush", "nud", "permanent", "to", address, "dev", network_settings.bridge]
        commands.insert(0, flush)
    return commands
