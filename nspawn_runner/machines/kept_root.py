"""A shell in the kept root of a failed job, which is not booted and has no network."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..errors import HostError
from ..host import files, process, pump, systemd
from ..nspawn import options
from ..settings.profiles import Profile
from . import backends, confinement, limits, records
from .records import Record


def shell(machine: str, profile: Profile, command: Sequence[str]) -> int:
    """Run ``command``, or a root shell, in the root of a machine that is kept, and return its exit status.

    Whoever it belonged to may be hostile: the shell is as confined as the machine was, by ``profile`` and the limits.
    Meanwhile nobody removes the root. Raises locks.Busy where somebody else is in it, or removes it, and HostError.
    """
    with records.lock(machine, wait_seconds=0):
        record = records.read(machine)
        if record is None or record.state != "kept":
            raise HostError(f"the machine {machine} is kept no longer", advice="see: nspawn-runner list")
        if not backends.named(record.backend).is_complete(record):
            raise HostError(
                f"the image {record.image} was changed since, so the kept root of {machine} is incomplete",
                facts=f"what the job wrote is in {record.layer}/upper",
                advice=f"look there, or remove it: nspawn-runner cleanup --id {record.job}",
            )
        unit, on_terminal = records.login_unit_name(machine), os.isatty(0) and os.isatty(1)
        _end(unit)  # of a login that was killed
        files.make_private_folder(record.folder)
        try:
            argv = _argv(record, profile, unit, command, on_terminal=on_terminal)
            if on_terminal:
                return process.spawn(argv, stdin=0, env=_terminal()).wait()
            return pump.call(argv, env=_terminal())
        finally:
            _end(unit)
            files.remove_tree(record.folder)


def _end(unit: str) -> None:
    if systemd.is_loaded(unit):
        systemd.stop(unit)


def _terminal() -> dict[str, str]:
    return {"TERM": os.environ.get("TERM", "dumb")}


def _argv(record: Record, profile: Profile, unit: str, command: Sequence[str], *, on_terminal: bool) -> list[str]:
    """Return the call of a unit that mounts the root in a namespace of its own, as the machine's did."""
    nspawn = [
        *backends.named(record.backend).command(record),
        *options.kept_options(record.machine, on_terminal=on_terminal),
        *confinement.nspawn_options(profile, record),
        *confinement.builds_option(record),
        *(command or _shell(record)),
    ]
    return systemd.run_argv(
        systemd.command(nspawn, f"{record.folder}/command"),
        unit=unit,
        description=f"nspawn-runner login {record.machine}",
        options=["--pty" if on_terminal else "--pipe", "--wait"],
        properties=[
            "PrivateMounts=yes",
            "Environment=SYSTEMD_NSPAWN_LOCK=0",
            # What started in the root would not hear anything else.
            "KillMode=mixed",
            "KillSignal=SIGKILL",
            # The slice of a job with services is gone.
            *confinement.confinement(profile, record._replace(slice="machine.slice")),
            *limits.unit_properties(record.limits),
        ],
    )


def _shell(record: Record) -> list[str]:
    # Beside it an image without that shell has a /bin/sh.
    script = 'command -v "$0" >/dev/null && exec "$0" -l; exec /bin/sh -l'
    return ["/bin/sh", "-c", script, record.shell if record.shell.startswith("/") else "/bin/sh"]
