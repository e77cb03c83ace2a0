"""The options of systemd-nspawn that every machine gets, and why."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Units of an image that wait for a network we set from outside, or that do work no job wants; masked on the machine's
# kernel command line, so that the image need not be touched. Each wait-online unit alone would block the boot.
_MASKED = (
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-networkd-wait-online.service",
    "networking.service",
    "NetworkManager.service",
    "NetworkManager-wait-online.service",
    "systemd-resolved.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "console-getty.service",
    "getty.target",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    # The machine's journal stays in /run, in memory as the machine is short-lived; it takes up to a tenth of that.
    "systemd-journal-flush.service",
    "systemd-remount-fs.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
)


def boot_options(machine: str, binds: Sequence[str]) -> list[str]:
    """Return the options that follow the ones naming the tree; ``binds`` are whole --bind options."""
    return [
        "--quiet",
        f"--machine={machine}",
        "--boot",
        # Ready when the machine's own systemd says so.
        "--notify-ready=yes",
        # Without it the machine runs in a scope of its own, where the unit's limits do not reach.
        "--keep-unit",
        # A .nspawn file beside an image must not change what we ask for.
        "--settings=no",
        "--link-journal=no",
        # What a machine writes is thrown away with it; fsync would only cost time.
        "--suppress-sync=yes",
        "--console=read-only",
        *binds,
        *mask_words(),
    ]


def mask_words() -> list[str]:
    """Return the words for a booted machine's command line that keep its units off what is set from outside."""
    return [f"systemd.mask={unit}" for unit in _MASKED]


def boot_failure(console: Sequence[str]) -> str:
    """Return in one line why a machine did not come up, from what it wrote to its console; empty if that says nothing.

    A job of the machine's systemd that still waits is said every few seconds; what went well is left out.
    """
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[A-Z]|[\x00-\x1f]", "", line).strip() for line in console]
    waiting = dict.fromkeys(unit for line in lines for unit in re.findall(r"Job (\S+)/start running", line))
    if waiting:
        return f"its start waits for {', '.join(waiting)}"
    if any("unsupported legacy cgroup hierarchy" in line for line in lines):
        return "its systemd needs cgroup version 2: boot this host with systemd.unified_cgroup_hierarchy=1"
    telling = [line for line in lines if line and "  OK  " not in line]
    return " / ".join(telling[-3:])
