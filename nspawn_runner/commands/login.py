"""login: a shell or command in the machine of a running job, or in the kept root of a failed one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import HostError, printable
from ..host import systemd
from ..machines import kept_root, records, session
from ..output import note, say
from ..settings import profiles

if TYPE_CHECKING:
    import argparse

    from ..machines.records import Record
    from ..settings.tables import Settings

HELP = "open a shell in the machine of a running or kept job"
DESCRIPTION = """Opens a root shell, or runs COMMAND as root, in the machine of JOB, a job's id or a machine's name as
list shows them, beside the job's script; with SERVICE in the machine of that service of the job.
Without a terminal it reads and writes whatever takes the terminal's place. The exit status is that of the shell or
COMMAND. When the job ends, the machine goes and the shell with it.

For a failed job whose root is kept (keep_failed in the settings), the shell runs in that root, without services and
network; the root is not removed meanwhile.

    nspawn-runner login 4711
    nspawn-runner login 4711 -- journalctl --lines=20
    nspawn-runner login 4711 postgres"""

_LOST = 255


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add JOB and COMMAND."""
    parser.add_argument("job", metavar="JOB", help="a job's id, or a machine's name")
    parser.add_argument("service", nargs="?", metavar="SERVICE", help="a name of one of the job's services")
    parser.add_argument("command", metavar="COMMAND", nargs="*", help="what to run, after -- (default: a shell)")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Open the shell and return its exit status, 255 when the machine went under it."""
    record = find(args.job, args.service or "")
    if record.state not in {"running", "kept"}:
        raise HostError(f"the machine {record.machine} is {record.state}", advice="see: nspawn-runner list")
    if record.state == "kept":
        _say(f"in the kept root of {record.machine}: not booted, no network", args)
        return kept_root.shell(record.machine, profiles.find(record.profile, settings.profiles), args.command)
    if not systemd.is_active(record.unit):
        raise HostError(f"the machine {record.machine} has ended", advice=f"see: journalctl --unit={record.unit}")
    _say(f"in {record.machine}, image {printable(record.image)}", args)
    status = session.run(record, args.command)
    if status is None:
        say(f"the machine {record.machine} has ended, or the shell was killed")
        return _LOST
    return status


def _say(where: str, args: argparse.Namespace) -> None:
    if not args.command:
        note(f"a root shell {where}")


def find(job: str, service: str = "") -> Record:
    """Return the record of the one machine that ``job``, an id or a machine's name, means; raises HostError.

    With ``service``, a name of a service, that of the job's service.
    """
    known = records.all_records()
    jobs = [record for record in known if not record.of_job]
    found = [record for record in known if job == record.machine] or [record for record in jobs if job == record.job]
    if service and len(found) == 1:
        return _service(found[0], service)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(record.machine for record in found)
        raise HostError(f"there are {len(found)} jobs {job}", facts=f"on several servers: {names}", advice="name one")
    there = ", ".join(record.machine for record in known) or "none"
    raise HostError(f"job {printable(job, 60)} has no machine", facts=f"there are: {there}")


def _service(job: Record, name: str) -> Record:
    services = records.of_services(job.machine)
    found = [record for record in services if name in {record.service, record.machine, record.image}]
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{record.service} ({record.machine})" for record in services) or "none"
    number = f"{len(found)} services" if found else "no service"
    raise HostError(
        f"job {job.job} has {number} {printable(name, 60)}",
        facts=f"it has: {there}",
        advice=f"name its machine; a command stands behind --: nspawn-runner login {job.job} -- COMMAND",
    )
