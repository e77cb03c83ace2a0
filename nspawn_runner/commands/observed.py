"""What a job's log says beside a script's own output: what the machine knows of a failure, and what it has used."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from ..errors import Cancelled, JobError
from ..machines import evidence, records
from ..machines.records import Record
from .words import human_age, human_size

# gitlab-runner's last call of run for a job (common/build.go).
LAST_STAGE = "cleanup_file_variables"
# A failure of after_script does not fail the job.
_HARMLESS = "after_script"
_EVIDENCE_SECONDS = 5
# The runner waits for a cancelled stage.
_CANCELLED_SECONDS = 1


def run(record: Record, stage: str, script: Callable[[], int]) -> int:
    """Call ``script``, which runs one in the machine, and return its status, having noted how the ``stage`` ended.

    Of a failure the log tells what the machine knows.
    """
    began, result = time.monotonic(), "system failure"
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
        if stage != _HARMLESS:
            records.note_result(record.machine, stage, result)
        if result != "success":
            seconds = _CANCELLED_SECONDS if result == "canceled" else _EVIDENCE_SECONDS
            _say(*evidence.lines(record, since=began, seconds=seconds))
        if stage == LAST_STAGE:
            tell_end(record)


def tell_end(record: Record) -> None:
    """Say what the job has used, and where its root can be looked at if that is kept."""
    used = evidence.usage(record)
    known = [f"took {used.wall_seconds:.1f} s"]
    if used.cpu_seconds is not None:
        known.append(f"CPU time {used.cpu_seconds:.1f} s")
    if used.memory_peak_bytes is not None:
        known.append(f"memory up to {human_size(used.memory_peak_bytes)}")
    if used.written_bytes is not None:
        known.append(f"wrote {human_size(used.written_bytes)}")
    _say(", ".join(known))
    if record.keep_failed_seconds and records.failure(record.machine):
        host, age = os.uname().nodename, human_age(record.keep_failed_seconds)
        _say(f"the machine's root is kept on {host} for {age}: nspawn-runner login {record.job}")


def _say(*lines: str) -> None:
    with suppress(OSError):  # whoever reads the log has gone; that is not what the stage is about
        for line in lines:
            print(line if line.startswith(" ") else f"nspawn-runner: {line}", file=sys.stderr)
        sys.stderr.flush()
