"""Files for services: their variables and command in their machines, and in all the job's way to handle them."""

from __future__ import annotations

import os

from ..host import files
from ..settings import paths
from . import job_network, records
from .plan import Plan, Service
from .records import Record

FOLDER = f"{paths.INSIDE_FOLDER}/start"
VARIABLES = f"{FOLDER}/service.env"  # documented: NAME="value", as in systemd.exec(5), EnvironmentFile=
_COMMAND_UNIT, _CONTROL = "nspawn-runner-command.service", "nspawn-runner-control"
_PORT = 213
_OURS = os.path.join(os.path.dirname(__file__), "inside")
_MOST_BYTES = 1 << 20
# Of a service's machine, also at each reload: all its units get the variables, a command that the job names is one of
# them, and the job may ask for more. A drop-in for a type of unit: systemd.unit(5), since version 244.
GENERATOR = f"""#!/bin/sh
mkdir -p "$1/service.d" "$1/multi-user.target.wants" "$1/sockets.target.wants"
cp {FOLDER}/environment.conf "$1/service.d/nspawn-runner.conf"
ln -s {FOLDER}/{_CONTROL}.socket {FOLDER}/{_CONTROL}@.service "$1/"
ln -s ../{_CONTROL}.socket "$1/sockets.target.wants/"
if [ -e {FOLDER}/{_COMMAND_UNIT} ]; then
    ln -s {FOLDER}/{_COMMAND_UNIT} "$1/"
    ln -s ../{_COMMAND_UNIT} "$1/multi-user.target.wants/"
fi
"""


def contents(record: Record, plan: Plan) -> dict[str, bytes]:
    """Return the files of a machine in the network of a job, by their names in FOLDER; none of another machine."""
    if not record.place:
        return {}
    found = {"token": f"{plan.token}\n".encode()}
    if plan.service:
        return {**found, **_control(record.place), **of_service(plan.service)}
    lines = []
    for place, names in plan.names.items():
        if place != 1:
            machine = records.service_name(record.machine, place)
            lines.append(f"{job_network.address(place)} {' '.join([*names, machine])}\n")
    return {
        **found,
        "services": "".join(lines).encode(),
        "nspawn-runner": files.read_head(f"{_OURS}/services.bash", _MOST_BYTES),
        "nspawn_runner.py": files.read_head(f"{_OURS}/nspawn_runner.py", _MOST_BYTES),
    }


def _control(place: int) -> dict[str, bytes]:
    """Return what answers the job; its address may come later than the socket."""
    return {
        "control.sh": files.read_head(f"{_OURS}/control.sh", _MOST_BYTES),
        f"{_CONTROL}.socket": (
            "[Unit]\nDescription=Commands of the job\n[Socket]\nFreeBind=yes\nAccept=yes\nMaxConnections=64\n"
            f"ListenStream={job_network.address(place)}:{_PORT}\n"
        ).encode(),
        f"{_CONTROL}@.service": (
            "[Unit]\nDescription=A command of the job\nCollectMode=inactive-or-failed\n[Service]\n"
            f"ExecStart=-/bin/sh {FOLDER}/control.sh\nStandardInput=socket\nStandardError=journal\n"
            "KillMode=process\nTasksMax=infinity\nOOMPolicy=continue\nIgnoreSIGPIPE=no\n"
        ).encode(),
    }


def of_service(service: Service) -> dict[str, bytes]:
    """Return the files with a service's variables and command."""
    found = {
        "service.env": "".join(f"{name}={_quoted(value)}\n" for name, value in service.variables.items()).encode(),
        "environment.conf": f"[Service]\nEnvironmentFile=-{VARIABLES}\n".encode(),
    }
    if service.command:
        # A shell's script, whose quoting has no exceptions as that of units has.
        found["command"] = f"exec {' '.join(map(_shell_quoted, service.command))}\n".encode()
        found[_COMMAND_UNIT] = (
            f"[Unit]\nDescription=The command that the job names for this service\nAfter=network.target\n"
            f"[Service]\nType=exec\nExecStart=/bin/sh {FOLDER}/command\nWorkingDirectory=/\n"
        ).encode()
    return found


def _quoted(value: str) -> str:
    """Return ``value`` as an environment file of systemd has it, which takes a backslash before these in quotes."""
    for char in '\\"`$':
        value = value.replace(char, f"\\{char}")
    return f'"{value}"'


def _shell_quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"
