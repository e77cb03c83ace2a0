"""Files for the start of a service's machine: its variables, for all of its units, and the job's command as a unit."""

from __future__ import annotations

from ..settings import paths
from .plan import Service

FOLDER = f"{paths.INSIDE_FOLDER}/start"
VARIABLES = f"{FOLDER}/service.env"  # documented: NAME="value", as in systemd.exec(5), EnvironmentFile=
COMMAND_UNIT = "nspawn-runner-command.service"


def contents(service: Service) -> dict[str, bytes]:
    """Return the files by their names."""
    found = {
        "service.env": "".join(f"{name}={_quoted(value)}\n" for name, value in service.variables.items()).encode(),
        "environment.conf": f"[Service]\nEnvironmentFile=-{VARIABLES}\n".encode(),
    }
    if service.command:
        # A shell's script, whose quoting has no exceptions as that of units has.
        found["command"] = f"exec {' '.join(map(_shell_quoted, service.command))}\n".encode()
        found[COMMAND_UNIT] = (
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
