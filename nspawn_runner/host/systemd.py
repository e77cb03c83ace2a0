"""Call systemd's tools, and ask systemd what we need to know."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence

from ..errors import HostError, printable
from . import files, process, signals

# What systemd expands, unquotes or splits when it reads a unit file: $ % quotes, backslashes, control characters.
_ODD = re.compile(r"[$%\"'\\\x00-\x1f\x7f]")
# The only property whose % does not start a specifier.
_QUOTA = re.compile(r"CPUQuota=[0-9]+%")
_ARGUMENTS = os.path.join(os.path.dirname(__file__), "arguments.py")

_JOURNAL_SECONDS = 5
_TRIES, _TRY_SECONDS = 5, 0.3


def plain(text: str) -> str:
    """Return ``text`` with _ for spaces and for each character that a unit file does not preserve."""
    return _ODD.sub("_", text).replace(" ", "_")


def shell_argv(*arguments: str) -> list[str]:
    """Return the command of a shell that reads its program from its standard input, which must be a file.

    The program is not in the command, where systemd would misread it. The shell reopens the file, so its standard input
    keeps the position that the caller has set.
    """
    return ["/bin/sh", "/proc/self/fd/0", *arguments]


def shell_program(text: str, *arguments: str) -> bytes:
    """Return the program ``text`` for ``shell_argv``, with ``arguments`` that a unit may be unable to hold.

    Unit names are an example: systemd writes \\x2d in them.
    """
    from shlex import join

    return f"set -- {join(arguments)}\n{text}".encode()


def command(argv: Sequence[str], file: str) -> list[str]:
    """Return ``argv``; if a unit cannot hold it, write it to ``file`` and return a command that runs it from there."""
    if not any(map(_ODD.search, argv)):
        return list(argv)
    files.write_atomically(file, b"".join(word.encode() + b"\0" for word in argv))
    return [sys.executable, "-I", "-S", _ARGUMENTS, file]


def run_argv(
    command: Sequence[str],
    *,
    unit: str,
    description: str,
    properties: Sequence[str] = (),
    options: Sequence[str] = (),
    quiet: bool = True,
) -> list[str]:
    """Return the call of systemd-run(1) that starts ``command`` as the transient ``unit``.

    ``properties`` are NAME=VALUE. A failed unit is unloaded (--collect), as it would block its name. Unless ``quiet``,
    systemd-run says on stderr that the unit has started.

    systemd writes the unit to a file and rereads that at every daemon-reload: raises HostError for text that would not
    survive this.
    """
    for text in (description, *(item for item in properties if not _QUOTA.fullmatch(item)), *command):
        if found := _ODD.search(text):
            raise HostError(
                f"no unit can hold the character {found.group()!r}: {printable(text, 200)}",
                advice="choose a name or a path without it in the settings",
            )
    return [
        "systemd-run",
        *(["--quiet"] if quiet else []),
        "--collect",
        f"--unit={unit}",
        # Otherwise systemd-run would use the command line.
        f"--description={description}",
        *options,
        *(f"--property={item}" for item in properties),
        "--",
        *command,
    ]


def is_loaded(unit: str) -> bool:
    """Return whether the transient ``unit`` exists, judging by its file, without a child process."""
    return os.path.lexists(f"/run/systemd/transient/{unit}")


def state(unit: str) -> Mapping[str, str]:
    """Return ActiveState, SubState, MainPID and ControlGroup of the host's ``unit``."""
    names = "ActiveState,SubState,MainPID,ControlGroup"
    done = _called(["systemctl", "show", f"--property={names}", "--", unit])
    return dict(line.split("=", 1) for line in done.stdout.decode(errors="replace").splitlines() if "=" in line)


def _called(argv: Sequence[str], *, fine: Sequence[int] = (0,)) -> process.Done:
    """Call systemctl, with a few retries if it fails: a systemd that re-executes itself drops its connections."""
    for _ in range(_TRIES):
        done = process.run(argv, check=False)
        if done.returncode in fine:
            break
        signals.sleep(_TRY_SECONDS)
    return done


def is_active(unit: str) -> bool:
    """Return whether ``unit`` is running, starting or stopping."""
    return state(unit).get("ActiveState", "inactive") not in {"inactive", "failed"}


def stop(unit: str) -> None:
    """Stop the host's ``unit`` and wait until it is gone; a unit that does not exist is fine. Raises CommandError."""
    done = _called(["systemctl", "stop", "--quiet", "--", unit], fine=(0, 5))  # 5: it is not loaded (systemctl(1))
    if done.returncode not in {0, 5}:
        raise process.CommandError(["systemctl", "stop", unit], done.returncode, done.stderr)


def stop_soon(unit: str) -> None:
    """Make systemd stop the host's ``unit``, even one about to restart, without waiting for it."""
    process.run(["systemctl", "stop", "--quiet", "--no-block", "--", unit], check=False)


def journal_tail(unit: str, *, since: float, lines: int = 200) -> list[str]:
    """Return the last ``lines`` lines that processes of the host's ``unit`` wrote after ``since`` (epoch seconds).

    Includes their standard output and systemd-nspawn's own log, but not the entries of our tool in the unit. Empty if
    journalctl takes more than 5 s.
    """
    # Without --reverse, journalctl would give the first lines after that time.
    output = [f"_SYSTEMD_UNIT={unit}", "_TRANSPORT=stdout"]
    return _journal(["--reverse", f"--lines={lines}", *output, "+", *_logged_by_nspawn(unit)], since)[::-1]


def nspawn_log(unit: str, *, since: float) -> list[str]:
    """Return what systemd-nspawn itself logged in the host's ``unit`` after ``since``, without its machine's console.

    journald tells the two apart, so no machine can fake it. Empty if the journal cannot be read.
    """
    return _journal(_logged_by_nspawn(unit), since)


def _logged_by_nspawn(unit: str) -> list[str]:
    return [f"_SYSTEMD_UNIT={unit}", "_TRANSPORT=journal", "_COMM=systemd-nspawn"]


def _journal(query: Sequence[str], since: float) -> list[str]:
    # Whole seconds, rounded down.
    argv = ["journalctl", f"--since=@{int(since)}", "--output=cat", "--no-pager", *query]
    try:
        # The last lines may still be waiting for the journal to read them.
        process.run(["journalctl", "--sync"], check=False, timeout_seconds=_JOURNAL_SECONDS)
        done = process.run(argv, check=False, timeout_seconds=_JOURNAL_SECONDS)
    except process.CommandError:
        return []
    return done.stdout.decode(errors="replace").splitlines()
