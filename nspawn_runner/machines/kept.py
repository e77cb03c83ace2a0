"""The kept root of a failed job: a shell in it, which is not booted and has no network."""

from __future__ import annotations

import os

from ..host import files, process, systemd
from . import backends, records
from .records import Record


def shell(record: Record) -> int:
    """Open a root shell on the terminal in the root of a machine that is kept, and return its exit status.

    Meanwhile nobody removes that. Raises locks.Busy where somebody else is in it, or removes it.
    """
    with records.lock(record.machine, wait_seconds=0):
        files.make_private_folder(record.folder)
        try:
            return process.spawn(_argv(record), stdin=0, env={"TERM": os.environ.get("TERM", "dumb")}).wait()
        finally:
            files.remove_tree(record.folder)


def _argv(record: Record) -> list[str]:
    """Return the call of a unit that mounts the root in a namespace of its own, as the machine's did."""
    command = [
        *backends.named(record.backend).command(record),
        "--quiet",
        f"--machine={record.machine}",
        "--register=no",
        "--keep-unit",
        "--settings=no",
        "--link-journal=no",
        "--private-network",
        # The root is evidence: nothing of the host's goes into it.
        "--resolv-conf=off",
        "--timezone=off",
        "--as-pid2",
        "--console=interactive",
        "--setenv=HISTFILE=/dev/null",
        *_command(record),
    ]
    return systemd.run_argv(
        systemd.escaped(command),
        unit=f"nspawn-runner-login-{record.machine}.service",
        options=["--pty", "--wait"],
        properties=["PrivateMounts=yes", "Delegate=yes", "Environment=SYSTEMD_NSPAWN_LOCK=0"],
    )


def _command(record: Record) -> list[str]:
    # Beside it an image without that shell has a /bin/sh.
    script = 'command -v "$0" >/dev/null && exec "$0" -l; exec /bin/sh -l'
    return ["/bin/sh", "-c", script, record.shell if record.shell.startswith("/") else "/bin/sh"]
