"""A shell or command of the administrator in a running machine, with or without a terminal.

Its words lie in a file in the machine, as a program for a shell: systemd would misread them in a unit, and machinectl
in its arguments. What is started says its status there too: systemd-run and machinectl say little of it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..host import process, pump, systemd
from ..nspawn import calls
from ..settings import paths
from . import relay
from .records import Record

# A command that is interrupted has a status, and its shell lives to write it down. $0 is the program's file.
_PROGRAM = """
trap : INT QUIT
cd 2>/dev/null || cd /
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"$@"
echo "$?" >"$0.status"
"""
_TAKE_STATUS = """
head -c 4 -- "$1.status"
rm -f -- "$1" "$1.status"
"""
_ANSWER_SECONDS = 10
_DESCRIPTION = "nspawn-runner: login"


def run(record: Record, command: Sequence[str]) -> int | None:
    """Run the words ``command``, or a login shell, as root and return its status; None where the machine tells none.

    With a terminal it has one in the machine, else pipes from and to our streams. Whatever interrupts us ends it.
    """
    words = command or [record.shell if record.shell.startswith("/") else "/bin/sh", "-l"]
    number = os.urandom(4).hex()
    file = f"{paths.INSIDE_FOLDER}-login-{number}"
    writer = [f"of={file}", "status=none"]
    argv = _unit_argv(record, ["dd", *writer], f"nspawn-runner-login-{number}-file.service", ["UMask=0077"])
    process.run(argv, check=False, stdin=systemd.shell_program(_PROGRAM, *words), timeout_seconds=_ANSWER_SECONDS)
    if os.isatty(0) and os.isatty(1):
        _on_terminal(record, file)
    else:
        _through_pipes(record, file, f"nspawn-runner-login-{number}.service")
    return _take_status(record, file)


def _on_terminal(record: Record, file: str) -> None:
    child = process.spawn(["machinectl", "--quiet", "shell", f"root@{record.machine}", "/bin/sh", file], stdin=0)
    try:
        child.wait()
    except BaseException:
        process.end(child, _ANSWER_SECONDS)
        _take_status(record, file)
        raise


def _through_pipes(record: Record, file: str, unit: str) -> None:
    try:
        argv = _unit_argv(record, ["/bin/sh", file], unit, calls.INSIDE_PROPERTIES)
        pump.call(argv, hand_over=lambda readers: relay.hand_over(readers, record.machine, "login"))
    except BaseException:
        kill = calls.kill_argv(record.machine, unit, "KILL")
        process.run(kill, check=False, timeout_seconds=_ANSWER_SECONDS)
        _take_status(record, file)
        raise


def _unit_argv(record: Record, command: Sequence[str], unit: str, properties: Sequence[str]) -> list[str]:
    return calls.unit_argv(
        record.machine, command, unit=unit, description=_DESCRIPTION, properties=properties, user="root"
    )


def _take_status(record: Record, file: str) -> int | None:
    """Return what the command's status was, by its own machine, and remove the files there."""
    said = calls.shell_answer(
        record.machine,
        _TAKE_STATUS,
        file,
        label="login-status",
        description=_DESCRIPTION,
        properties=["Type=exec"],
        limit_bytes=4,
        seconds=_ANSWER_SECONDS,
    )
    word = said.decode(errors="replace").strip()
    return int(word) if word.isascii() and word.isdigit() and int(word) < 256 else None
