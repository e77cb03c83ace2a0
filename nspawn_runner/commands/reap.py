"""reap: called by a machine's unit when it ends (ExecStopPost=); record how it ended and remove its layer."""

from __future__ import annotations

import os

from ..light_typing import TYPE_CHECKING
from ..machines import records, stop
from ..names import is_machine_name

if TYPE_CHECKING:
    import argparse

    from ..settings.tables import Settings

HELP = ""
DESCRIPTION = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: only systemd calls this, with the machine's name."""


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Reap the machine; $SERVICE_RESULT, $EXIT_CODE and $EXIT_STATUS are systemd's (systemd.exec(5))."""
    del settings
    record = records.read(args.machine) if is_machine_name(args.machine) else None
    if record is None:
        return 0
    args.entry.in_machine(record)
    how = " ".join(os.environ.get(name, "") for name in ("SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS"))
    done = "went down for a reboot" if os.environ.get("EXIT_STATUS") == "133" else "ended by itself"
    args.entry.event = f"the machine {record.machine} {done} ({how}: systemd.exec(5))"
    stop.reap(
        record,
        result=os.environ.get("SERVICE_RESULT", ""),
        exit_code=os.environ.get("EXIT_CODE", ""),
        exit_status=os.environ.get("EXIT_STATUS", ""),
    )
    return 0
