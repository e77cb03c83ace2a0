"""join: called by the unit of a machine in a job's network when it is up: after a reboot it joins that again."""

from __future__ import annotations

from ..light_typing import TYPE_CHECKING
from ..machines import network, records
from ..names import is_machine_name

if TYPE_CHECKING:
    import argparse

    from ..settings.tables import Settings

HELP = ""
DESCRIPTION = ""
_SECONDS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: systemd is the only caller and names the machine."""


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Give the machine its network; one that is being removed meanwhile needs none."""
    del settings
    record = records.read(args.machine) if is_machine_name(args.machine) else None
    if record is not None and record.state != records.UNREADABLE:
        args.entry.in_machine(record)
        network.join(record, seconds=_SECONDS)
    return 0
