"""The options of systemd-nspawn that every machine gets, and why."""

from __future__ import annotations

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
        *(f"systemd.mask={unit}" for unit in _MASKED),
    ]
