"""The options of systemd-nspawn that every machine gets, and why."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..host import process

# Each of these would wait for the network, which is set up from outside, or change it.
NETWORK_UNITS = (
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-networkd-wait-online.service",
    "networking.service",
    "NetworkManager.service",
    "NetworkManager-wait-online.service",
    "systemd-resolved.service",
)
# What an image starts by itself but jobs do not need: it would only take time.
ASLEEP = (
    *NETWORK_UNITS,
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "man-db.timer",
    "motd-news.timer",
    "console-getty.service",
    "getty.target",
)
# Useless without a disk, console and login records; masked for good on the machine's kernel command line.
_MASKED = (
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    # The journal stays in /run, in memory, as the machine is short-lived; it takes up to a tenth of that.
    "systemd-journal-flush.service",
    "systemd-remount-fs.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
)


def version() -> int | None:
    """Return the version of systemd-nspawn on this host; None if it does not say."""
    words = process.run(["systemd-nspawn", "--version"], check=False).stdout.split()[1:2]
    return int(words[0]) if words and words[0].isdigit() else None


def help_text() -> str:
    """Return systemd-nspawn's help on its options."""
    return process.run(["systemd-nspawn", "--help"]).stdout.decode(errors="replace")


def kept_options(machine: str, *, on_terminal: bool) -> list[str]:
    """Return the options for a command in the kept root of ``machine``, not booted and without a network."""
    return [
        "--quiet",
        f"--machine={machine}",
        "--register=no",
        "--keep-unit",
        "--settings=no",
        "--link-journal=no",
        "--private-network",
        # The root is evidence: nothing from the host goes into it.
        "--resolv-conf=off",
        "--timezone=off",
        "--as-pid2",
        f"--console={'interactive' if on_terminal else 'pipe'}",
        "--setenv=HISTFILE=/dev/null",
    ]


def boot_options(machine: str, options: Sequence[str], masked: Sequence[str] = ()) -> list[str]:
    """Return the options to follow those that name the tree: the usual ones and ``options``.

    The units ``masked`` are masked for good.
    """
    return [
        "--quiet",
        f"--machine={machine}",
        "--boot",
        # Ready when the machine's own systemd says so.
        "--notify-ready=yes",
        # Otherwise the machine would run in its own scope, out of reach of the unit's limits.
        "--keep-unit",
        # A .nspawn file beside an image must not change what we ask for.
        "--settings=no",
        "--link-journal=no",
        "--console=read-only",
        *options,
        *mask_words(masked),
    ]


def mask_words(more: Sequence[str] = ()) -> list[str]:
    """Return the words that mask units for good on a machine's kernel command line: the usual ones and ``more``."""
    return [f"systemd.mask={unit}" for unit in (*_MASKED, *more)]


def boot_failure(console: Sequence[str]) -> str:
    """Return in one line why a machine did not come up, from the lines of its console; empty if they do not say.

    The machine's systemd names a job that still waits every few seconds. Successes are left out.
    """
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[A-Z]|[\x00-\x1f]", "", line).strip() for line in console]
    waiting = dict.fromkeys(unit for line in lines for unit in re.findall(r"Job (\S+)/start running", line))
    if waiting:
        return f"its start waits for {', '.join(waiting)}"
    if any("unsupported legacy cgroup hierarchy" in line for line in lines):
        return "its systemd needs cgroup version 2: boot this host with systemd.unified_cgroup_hierarchy=1"
    telling = [line for line in lines if line and "  OK  " not in line]
    return " / ".join(telling[-3:])
