"""Calls into a running machine through its own systemd: units, questions, a shell's answer."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..host import process, systemd

# Properties of a unit that runs a command in a machine.
INSIDE_PROPERTIES = (
    "Type=exec",
    "IgnoreSIGPIPE=no",
    # One process killed for lack of memory must not end the whole command.
    "OOMPolicy=continue",
    # The machine's own limit applies; the default would be 15 % of it.
    "TasksMax=infinity",
    # Background processes of the command live until the machine ends.
    "KillMode=process",
    # A background process may keep writing: do not end it for that (systemd.exec(5)).
    "SendSIGHUP=no",
    # The command itself may change the machine's target.
    "IgnoreOnIsolate=yes",
)


def unit_argv(
    machine: str,
    command: Sequence[str],
    *,
    unit: str,
    description: str,
    properties: Sequence[str] = (),
    user: str = "",
    options: Sequence[str] = (),
    wait: bool = True,
) -> list[str]:
    """Return the call that runs ``command`` as the transient ``unit`` in ``machine``, with its caller's streams.

    Runs as ``user`` if given. With ``wait`` the call lasts as long as the unit, else it says when that has started.
    """
    whose = [f"--uid={user}"] if user else []
    lasting = ["--pipe", "--wait"] if wait else ["--pipe"]
    return systemd.run_argv(
        command,
        unit=unit,
        description=description,
        options=[*lasting, f"--machine={machine}", *whose, *options],
        properties=properties,
        quiet=wait,
    )


def systemctl_argv(machine: str, *words: str) -> list[str]:
    """Return the systemctl(1) call with ``words`` for the systemd of ``machine``."""
    return ["systemctl", f"--machine={machine}", *words]


def kill_argv(machine: str, unit: str, signal_name: str) -> list[str]:
    """Return the call that sends a signal (``TERM``, ``KILL``) to all processes of ``unit`` in ``machine``."""
    return systemctl_argv(machine, "--quiet", "kill", "--kill-whom=all", f"--signal={signal_name}", "--", unit)


def manager_argv(machine: str, *words: str) -> list[str]:
    """Return the busctl(1) call of a method of the systemd of ``machine``, answered as JSON."""
    manager = ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"]
    return ["busctl", "--json=short", f"--machine={machine}", "call", *manager, *words]


def shell_answer(
    machine: str,
    script: str,
    *arguments: str,
    label: str,
    description: str,
    properties: Sequence[str] = (),
    limit_bytes: int,
    seconds: float,
) -> bytes:
    """Run ``script`` in root's shell in ``machine``; return at most the first ``limit_bytes`` it writes in ``seconds``.

    ``label`` is a word for the unit's name.
    """
    unit = f"nspawn-runner-{label}-{os.urandom(4).hex()}.service"
    argv = unit_argv(machine, systemd.shell_argv(), unit=unit, description=description, properties=properties)
    program = systemd.shell_program(script, *arguments)
    return process.head(argv, limit_bytes=limit_bytes, timeout_seconds=seconds, stdin=program)
