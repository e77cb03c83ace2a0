"""What a job's stages note of its machine: how the job failed, whether its own scripts ran, what was reported."""

from __future__ import annotations

import os
from contextlib import suppress

from ..host import files
from .records import folder, removal_file

_SCRIPT_HAS_RUN = "script-has-run"
_MUTE = "mute"


def note_begin(machine: str, stage: str) -> None:
    """Write down that a ``stage`` of the machine's job begins: whatever kills us, it has then not succeeded."""
    if not _noted(machine)[0]:
        note_result(machine, stage, "system failure")


def note_result(machine: str, stage: str, result: str) -> None:
    """Write down how a ``stage`` of the machine's job ended: ``success``, ``failed``, ``canceled``, ``system failure``.

    Of failures the first stays: what comes after, such as an upload, does not change what became of the job. But a
    stage that the runner tries again and that succeeds then has not failed it.
    """
    if os.path.exists(removal_file(machine)):
        return  # a file more would be in the way of whoever removes the folder
    with suppress(OSError):  # a machine that was cleaned up meanwhile, or a full /run: the log says it in any case
        noted = _noted(machine)
        if result == "success":
            if noted[0] == stage:
                files.remove_file(_failure_file(machine))
        elif noted[0] in {"", stage}:
            files.write_atomically(_failure_file(machine), f"{stage}\n{result}".encode())


def failure(machine: str) -> str:
    """Return how the job of ``machine`` failed, in the words of ``note_result``; nothing where it has not."""
    return _noted(machine)[1]


def note_script(machine: str, *, of_the_job: bool) -> None:
    """Write down that a script has run in the machine, if it is ``of_the_job``, whose doing is then what it is like."""
    if of_the_job:
        is_first_time(machine, _SCRIPT_HAS_RUN)


def has_run_scripts_of_job(machine: str) -> bool:
    """Return whether anything that the job itself says has run in the machine."""
    return os.path.exists(f"{folder(machine)}/{_SCRIPT_HAS_RUN}")


def note_mute(machine: str) -> None:
    """Write down that the machine, which runs, has not started a script for as long as a reboot may take."""
    is_first_time(machine, _MUTE)


def is_mute(machine: str) -> bool:
    """Return whether ``note_mute`` was called for the machine."""
    return os.path.exists(f"{folder(machine)}/{_MUTE}")


def is_first_time(machine: str, what: str) -> bool:
    """Return whether this is asked for the first time of the machine and ``what``, a file's name."""
    try:
        os.close(os.open(f"{folder(machine)}/{what}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    except OSError:
        return True
    return True


def _noted(machine: str) -> tuple[str, str]:
    try:
        stage, _, result = files.read_head(_failure_file(machine), 256).decode(errors="replace").partition("\n")
    except OSError:
        return "", ""
    return stage, result


def _failure_file(machine: str) -> str:
    return f"{folder(machine)}/failure"
