"""What a job's log says beside a script's own output: what the machine knows of a failure, and what it has used."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress

from ..errors import Cancelled, Error, JobError
from ..machines import notes
from ..machines.records import Record

# gitlab-runner's last call of run for a job (common/build.go).
LAST_STAGE = "cleanup_file_variables"
_EVIDENCE_SECONDS = 5
# The runner waits for a cancelled stage.
_CANCELLED_SECONDS = 1


def decides(stage: str, environ: Mapping[str, str]) -> bool:
    """Tell whether the job fails with its ``stage``, by the runner's rules (common/build.go)."""
    if stage == "after_script":
        return environ.get("CUSTOM_ENV_AFTER_SCRIPT_IGNORE_ERRORS", "").lower() in {"false", "0", "f"}
    return stage != LAST_STAGE


def run(record: Record, stage: str, script: Callable[[], int], *, decides: bool) -> int:
    """Call ``script``, which runs one in the machine, and return its status, having noted how the ``stage`` ended.

    Of a failure the log tells what the machine knows. ``decides`` is whether the job fails with this stage.
    """
    began, result = time.monotonic(), "system failure"
    if decides:
        notes.note_begin(record.machine, stage)
    try:
        status = script()
        result = "failed" if status else "success"
        return status
    except Cancelled:
        result = "canceled"
        raise
    except JobError:
        result = "failed"
        raise
    finally:
        if decides:
            notes.note_result(record.machine, stage, result)
        if result != "success":
            _tell_failure(record, began, _CANCELLED_SECONDS if result == "canceled" else _EVIDENCE_SECONDS)
        if stage == LAST_STAGE:
            tell_end(record)


def _tell_failure(record: Record, began: float, seconds: float) -> None:
    from ..machines import evidence  # which most stages do without

    with _unasked():
        _say(*evidence.lines(record, since=began, seconds=seconds))


def tell_end(record: Record) -> None:
    """Say what the job has used, and where its root can be looked at if that is kept."""
    from ..machines import evidence, stop
    from .words import human_age, human_size

    with _unasked():
        used = evidence.usage(record)
        known = [f"took {used.wall_seconds:.1f} s"]
        if used.cpu_seconds is not None:
            known.append(f"CPU time {used.cpu_seconds:.1f} s")
        if used.memory_peak_bytes is not None:
            known.append(f"memory up to {human_size(used.memory_peak_bytes)}")
        if used.written_bytes is not None:
            known.append(f"wrote {human_size(used.written_bytes)}")
        _say(", ".join(known))
        if stop.is_to_be_kept(record):
            host, age = os.uname().nodename, human_age(record.keep_failed_seconds)
            _say(f"the machine's root is kept on {host} for {age}: nspawn-runner login {record.job}")


def _unasked() -> AbstractContextManager[None]:
    """Let what is only told beside a stage's result not change that, as on a host without memory or room."""
    return suppress(Error, OSError)


def _say(*lines: str) -> None:
    for line in lines:
        print(line if line.startswith(" ") else f"nspawn-runner: {line}", file=sys.stderr)
    sys.stderr.flush()
