"""systemd's tools as argument lists, and the few questions we ask."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from . import process

# Of a unit in a machine that is given a command to run there.
INSIDE_PROPERTIES = (
    "Type=exec",
    "IgnoreSIGPIPE=no",
    # One process killed for want of memory must not end the whole command.
    "OOMPolicy=continue",
    # The machine's own limit counts; inside, 15 % of it would.
    "TasksMax=infinity",
    # What the command leaves in the background lives until the machine ends.
    "KillMode=process",
    # A background process may go on writing: do not end it for that (systemd.exec(5)).
    "SendSIGHUP=no",
)

_JOURNAL_SECONDS = 5


def escaped(argv: Sequence[str]) -> list[str]:
    """Return ``argv`` so that systemd passes it on as it is: it expands $ in commands (systemd.service(5))."""
    return [argument.replace("$", "$$") for argument in argv]


def run_argv(
    command: Sequence[str],
    *,
    unit: str,
    properties: Sequence[str] = (),
    options: Sequence[str] = (),
    quiet: bool = True,
) -> list[str]:
    """Return the call of systemd-run(1) that starts ``command`` as the transient ``unit``.

    ``properties`` are NAME=VALUE. A unit that failed is unloaded (--collect), or it would block its name.
    Unless ``quiet``, systemd-run says on stderr that the unit has started.
    """
    return [
        "systemd-run",
        *(["--quiet"] if quiet else []),
        "--collect",
        f"--unit={unit}",
        *options,
        *(f"--property={item}" for item in properties),
        "--",
        *command,
    ]


def is_loaded(unit: str) -> bool:
    """Tell whether the transient ``unit`` exists, by its file, without a child process."""
    return os.path.lexists(f"/run/systemd/transient/{unit}")


def state(unit: str) -> Mapping[str, str]:
    """Return ActiveState, SubState, MainPID and ControlGroup of the host's ``unit``."""
    names = "ActiveState,SubState,MainPID,ControlGroup"
    shown = process.run(["systemctl", "show", f"--property={names}", "--", unit], check=False).stdout
    return dict(line.split("=", 1) for line in shown.decode(errors="replace").splitlines() if "=" in line)


def is_active(unit: str) -> bool:
    """Tell whether ``unit`` runs, starts or ends just now."""
    return state(unit).get("ActiveState", "inactive") not in {"inactive", "failed"}


def stop(unit: str) -> None:
    """Stop the host's ``unit`` and wait until it is gone; a unit that is not there is fine."""
    done = process.run(["systemctl", "stop", "--quiet", "--", unit], check=False)
    # 5: the unit is not loaded (systemctl(1)).
    if done.returncode not in {0, 5}:
        raise process.CommandError(["systemctl", "stop", unit], done.returncode, done.stderr)


def stop_soon(unit: str) -> None:
    """Let systemd stop the host's ``unit``, also one that is about to start again, without waiting for it."""
    process.run(["systemctl", "stop", "--quiet", "--no-block", "--", unit], check=False)


def journal_tail(unit: str, *, since: float, lines: int = 200) -> list[str]:
    """Return the last ``lines`` lines that processes of the host's ``unit`` wrote after ``since`` (epoch seconds).

    None where the journal cannot be read in some seconds.
    """
    # Forwards, journalctl would give the first lines after that time.
    # Whole seconds, and never later than asked for.
    options = [f"--since=@{int(since)}", "--reverse", f"--lines={lines}", "--output=cat", "--no-pager"]
    # What goes through their standard output, not the entries that our own tool makes in the unit.
    argv = ["journalctl", *options, f"_SYSTEMD_UNIT={unit}", "_TRANSPORT=stdout"]
    try:
        # What was said last may still wait for the journal to read it.
        process.run(["journalctl", "--sync"], check=False, timeout_seconds=_JOURNAL_SECONDS)
        done = process.run(argv, check=False, timeout_seconds=_JOURNAL_SECONDS)
    except process.CommandError:
        return []
    return done.stdout.decode(errors="replace").splitlines()[::-1]
