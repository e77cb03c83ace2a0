"""Calls of systemd's tools, and the few questions we ask systemd."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence

from ..errors import HostError, printable
from . import files, process, signals

# What systemd expands, unquotes or splits when it reads a unit's file: $ % quotes, backslashes, control characters.
_ODD = re.compile(r"[$%\"'\\\x00-\x1f\x7f]")
# This alone is written with a %, which no specifier follows.
_QUOTA = re.compile(r"CPUQuota=[0-9]+%")
_ARGUMENTS = os.path.join(os.path.dirname(__file__), "arguments.py")

_JOURNAL_SECONDS = 5
_TRIES, _TRY_SECONDS = 5, 0.3


def plain(text: str) -> str:
    """Return ``text`` with _ for each character that a unit's file does not give back as it is, and for spaces."""
    return _ODD.sub("_", text).replace(" ", "_")


def shell_argv(*arguments: str) -> list[str]:
    """Return the command of a shell that reads its program from its standard input, which must be a file.

    The program is not in the command, where systemd would misread it. It opens the file again: its standard input stays
    where the caller has put it.
    """
    return ["/bin/sh", "/proc/self/fd/0", *arguments]


def shell_program(text: str, *arguments: str) -> bytes:
    """Return the program ``text`` for ``shell_argv`` with arguments that a unit need not be able to hold.

    Names of units are such: systemd writes \\x2d in them.
    """
    from shlex import join

    return f"set -- {join(arguments)}\n{text}".encode()


def command(argv: Sequence[str], file: str) -> list[str]:
    """Return ``argv``, or where a unit cannot hold it a command that reads it from ``file``, which is written."""
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

    ``properties`` are NAME=VALUE. A unit that failed is unloaded (--collect), or it would block its name.
    Unless ``quiet``, systemd-run says on stderr that the unit has started.

    systemd writes the unit to a file and reads that again at every daemon-reload: raises HostError for what would not
    come back as it was.
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
        # Without one systemd-run would make it of the command line.
        f"--description={description}",
        *options,
        *(f"--property={item}" for item in properties),
        "--",
        *command,
    ]


def is_loaded(unit: str) -> bool:
    """Return whether the transient ``unit`` exists, by its file, without a child process."""
    return os.path.lexists(f"/run/systemd/transient/{unit}")


def state(unit: str) -> Mapping[str, str]:
    """Return ActiveState, SubState, MainPID and ControlGroup of the host's ``unit``."""
    names = "ActiveState,SubState,MainPID,ControlGroup"
    done = _called(["systemctl", "show", f"--property={names}", "--", unit])
    return dict(line.split("=", 1) for line in done.stdout.decode(errors="replace").splitlines() if "=" in line)


def _called(argv: Sequence[str], *, fine: Sequence[int] = (0,)) -> process.Done:
    """Call systemctl; again a few times when it fails: a systemd that re-executes itself hangs up on its callers."""
    for _ in range(_TRIES):
        done = process.run(argv, check=False)
        if done.returncode in fine:
            break
        signals.sleep(_TRY_SECONDS)
    return done


def is_active(unit: str) -> bool:
    """Return whether ``unit`` runs, starts or ends just now."""
    return state(unit).get("ActiveState", "inactive") not in {"inactive", "failed"}


def stop(unit: str) -> None:
    """Stop the host's ``unit`` and wait until it is gone; a unit that does not exist is fine."""
    done = _called(["systemctl", "stop", "--quiet", "--", unit], fine=(0, 5))  # 5: it is not loaded (systemctl(1))
    if done.returncode not in {0, 5}:
        raise process.CommandError(["systemctl", "stop", unit], done.returncode, done.stderr)


def stop_soon(unit: str) -> None:
    """Let systemd stop the host's ``unit``, also one that is about to start again, without waiting for it."""
    process.run(["systemctl", "stop", "--quiet", "--no-block", "--", unit], check=False)


def journal_tail(unit: str, *, since: float, lines: int = 200) -> list[str]:
    """Return the last ``lines`` lines that processes of the host's ``unit`` wrote after ``since`` (epoch seconds).

    Those of their standard output, and what systemd-nspawn logs itself, but not the entries that our own tool makes in
    the unit. Empty where the journal cannot be read in some seconds.
    """
    # Forwards, journalctl would give the first lines after that time.
    output = [f"_SYSTEMD_UNIT={unit}", "_TRANSPORT=stdout"]
    return _journal(["--reverse", f"--lines={lines}", *output, "+", *_logged_by_nspawn(unit)], since)[::-1]


def nspawn_log(unit: str, *, since: float) -> list[str]:
    """Return what systemd-nspawn itself logged in the host's ``unit`` after ``since``, without its machine's console.

    journald tells the two apart, so no machine can put words in its mouth. Empty where the journal cannot be read.
    """
    return _journal(_logged_by_nspawn(unit), since)


def _logged_by_nspawn(unit: str) -> list[str]:
    return [f"_SYSTEMD_UNIT={unit}", "_TRANSPORT=journal", "_COMM=systemd-nspawn"]


def _journal(query: Sequence[str], since: float) -> list[str]:
    # Whole seconds, and never later than asked for.
    argv = ["journalctl", f"--since=@{int(since)}", "--output=cat", "--no-pager", *query]
    try:
        # What was said last may still wait for the journal to read it.
        process.run(["journalctl", "--sync"], check=False, timeout_seconds=_JOURNAL_SECONDS)
        done = process.run(argv, check=False, timeout_seconds=_JOURNAL_SECONDS)
    except process.CommandError:
        return []
    return done.stdout.decode(errors="replace").splitlines()
