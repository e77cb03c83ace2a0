"""login: a shell in the machine of a running job, or in what is kept of a failed one."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from .. import profiles
from ..errors import HostError, UsageError, printable
from ..host import process, systemd
from ..machines import kept, records

if TYPE_CHECKING:
    import argparse

    from ..machines.records import Record
    from ..settings import Settings

HELP = "open a shell in the machine of a running or kept job"
DESCRIPTION = """Opens a root shell in the machine of JOB, a job's id or a machine's name as list shows them, beside
the job's script. The exit status is that of the shell. When the job ends, the machine goes and the shell with it.

Of a failed job whose root is kept (keep_failed in the settings) it is a shell in that root, without services and
network; meanwhile it does not go.

    nspawn-runner login 4711"""

_LOST = 255
_ANSWER_SECONDS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add JOB."""
    parser.add_argument("job", metavar="JOB", help="a job's id, or a machine's name")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Open the shell and return its exit status, 255 when the machine went under it."""
    record = find(args.job)
    if record.state not in {"running", "kept"}:
        raise HostError(f"the machine {record.machine} is {record.state}", advice="see: nspawn-runner list")
    if not (os.isatty(0) and os.isatty(1)):
        for_script = f"for a script: nspawn-runner run --id {record.job} SCRIPT"
        raise UsageError("login is for a terminal", advice="" if record.state == "kept" else for_script)
    if record.state == "kept":
        print(f"a root shell in what is kept of {record.machine}: not booted, no network", file=sys.stderr, flush=True)
        return kept.shell(record.machine, profiles.find(record.profile, settings.profiles))
    if not systemd.is_active(record.unit):
        raise HostError(f"the machine {record.machine} has ended", advice=f"see: journalctl --unit={record.unit}")
    print(f"a root shell in {record.machine}, image {printable(record.image)}", file=sys.stderr, flush=True)
    status_file = f"/run/nspawn-runner-login-{os.urandom(4).hex()}"
    process.spawn(_shell_argv(record, status_file), stdin=0).wait()
    status = _status(record, status_file)
    if status is None:
        print(f"nspawn-runner: the machine {record.machine} has ended, or the shell was killed", file=sys.stderr)
        return _LOST
    return status


def find(job: str) -> Record:
    """Return the record of the one machine that ``job``, an id or a machine's name, means; raises HostError."""
    known = records.all_records()
    found = [record for record in known if job == record.machine] or [record for record in known if job == record.job]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(record.machine for record in found)
        raise HostError(f"there are {len(found)} jobs {job}", facts=f"of several servers: {names}", advice="name one")
    there = ", ".join(record.machine for record in known) or "none"
    raise HostError(f"job {printable(job, 60)} has no machine", facts=f"there are: {there}")


def _shell_argv(record: Record, status_file: str) -> list[str]:
    """Return machinectl with a login shell; its own status says nothing: the shell's is written in the machine."""
    shell = record.shell if record.shell.startswith("/") else "/bin/sh"
    command = ["/bin/sh", "-c", '"$0" -l; echo $? > "$1"', shell, status_file]
    return ["machinectl", "--quiet", "shell", f"root@{record.machine}", *(word.replace("$", "$$") for word in command)]


def _status(record: Record, status_file: str) -> int | None:
    """Return what the shell's status was, by its own machine; None where that is not told."""
    read = ["head", "--bytes=3", "--", status_file]
    argv = ["systemd-run", "--quiet", "--collect", "--wait", "--pipe", f"--machine={record.machine}", "--", *read]
    said = process.run(argv, check=False, timeout_seconds=_ANSWER_SECONDS).stdout.decode(errors="replace").strip()
    return int(said) if said.isascii() and said.isdigit() and int(said) < 256 else None
