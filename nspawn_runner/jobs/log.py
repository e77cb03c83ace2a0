"""What a job's log says besides the script's output: evidence of a failure, and what the job used."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from signal import Signals

from ..errors import Cancelled, Error, JobError
from ..gitlab import stages
from ..host import signals
from ..light_typing import Protocol
from ..machines import notes, records
from ..machines.records import Record
from ..output import human_age, human_size, say

_EVIDENCE_SECONDS = 5
# Short, as the runner waits for a stage that it stops.
_STOPPED_SECONDS = 1
_FOLLOW_SECONDS, _JOURNAL_SECONDS = 1, 3


class MayBeLast(Protocol):
    """Tells whether a stage that ended like this may be the job's last."""

    def __call__(self, *, failed: bool, stopped: bool) -> bool: ...


def run(
    record: Record,
    stage: str,
    script: Callable[[], int],
    *,
    decides: bool,
    may_be_last: MayBeLast,
    journals: bool = False,
) -> int:
    """Call ``script``, which runs one in the machine, note how the ``stage`` ended, and return its status.

    After a failure, logs what the machine knows about it. ``decides`` says whether the job fails with this stage. If
    the stage ``may_be_last``, also logs the end of the job, unless that has been logged.
    """
    began, result, stopped = time.monotonic(), "system failure", False
    if decides:
        notes.note_begin(record.machine, stage)
    try:
        with _journals(record) if journals and record.place else nullcontext():
            status = script()
        signals.check()
        result = "failed" if status else "success"
        return status
    except Cancelled as cancelled:
        stopped = True
        if decides and stage == stages.AFTER_SCRIPT:
            # The only stage whose status the runner believes after a timeout. When the job is cancelled or the runner
            # ends, it has its own verdict, as for the other stages.
            result = "failed"
            name = Signals(cancelled.signal_number).name
            raise JobError(f"stopped by {name}: after_script did not end in time") from None
        result = "canceled"
        raise
    except JobError:
        result = "failed"
        raise
    finally:
        if decides:
            notes.note_result(record.machine, stage, result)
        if result != "success":
            _tell_failure(record, began, _STOPPED_SECONDS if stopped else _EVIDENCE_SECONDS)
        if may_be_last(failed=result != "success", stopped=stopped):
            tell_end(record)


def _tell_failure(record: Record, began: float, seconds: float) -> None:
    from ..machines import evidence  # most stages do not need it

    with _unasked():
        say(*evidence.lines(record, since=began, seconds=seconds))


def tell_end(record: Record) -> None:
    """Say what the job used, and where to look at its root if that is kept; each only once."""
    from ..machines import stop
    if os.path.exists(records.removal_file(record.machine)):
        return  # a new file would get in the way of removing the machine's folder
    with _unasked():
        if notes.is_first_time(record.machine, "usage-was-told"):
            _tell_services(record)
            _tell_usage(record)
        if stop.is_to_be_kept(record) and notes.is_first_time(record.machine, "keeping-was-told"):
            host, age = os.uname().nodename, human_age(record.keep_failed_seconds)
            say(f"the machine's root is kept on {host} for {age}: nspawn-runner login {record.job}")


@contextmanager
def _journals(record: Record) -> Iterator[None]:
    """Pass on what the journals of the job's services get while the block lasts, and the rest at its end."""
    from threading import Event, Thread

    over = Event()

    def follow() -> None:
        while not over.wait(_FOLLOW_SECONDS):
            _tell_journals(record, over.is_set)

    thread = Thread(target=follow)
    thread.start()
    stopped = False
    try:
        yield
    except Cancelled:
        stopped = True  # the runner waits for us
        raise
    finally:
        over.set()
        thread.join()  # as long as one question takes
        if not stopped:
            _tell_journals(record, lambda: False)


def _tell_journals(record: Record, is_over: Callable[[], bool]) -> None:
    """Pass on what the journals of the job's services have got since the last time, until ``is_over`` is true."""
    from ..machines import evidence

    with _unasked():
        for service in records.of_services(record.machine):
            if not is_over():
                lines = evidence.new_lines(service, seconds=_JOURNAL_SECONDS)
                say(*(f"[service:{service.service}] {line}" for line in lines))


def wants_journals(value: str | None) -> bool:
    """Return whether the ``value`` of CI_DEBUG_SERVICES asks for the journals of services."""
    return (value or "").lower() in {"true", "1", "yes"}


def _tell_services(record: Record) -> None:
    """Say which services of the job have ended before it."""
    for service in records.of_services(record.machine) if record.place else []:
        end = records.read_end(service.machine)
        if end is None or os.path.exists(records.ready_file(service.machine)):
            continue
        from ..machines import limits

        if end.exit_status == "133":
            why = "it went down for a reboot and is not up again"
        else:
            why = limits.end_by_limit(service, end) or (
                "it was powered off from inside" if end.result == "success" else f"{end.result} {end.exit_status}"
            )
        say(f"service {service.service} ended before the job did, {human_age(time.time() - end.at)} ago: {why}")


def _tell_usage(record: Record) -> None:
    from ..machines import evidence
    used = evidence.usage(record)
    known = [f"took {used.wall_seconds:.1f} s"]
    if used.cpu_seconds is not None:
        known.append(f"CPU time {used.cpu_seconds:.1f} s")
    if used.memory_peak_bytes is not None:
        known.append(f"memory up to {human_size(used.memory_peak_bytes)}")
    if used.written_bytes is not None:
        known.append(f"wrote {human_size(used.written_bytes)}")
    say(", ".join(known))


def _unasked() -> AbstractContextManager[None]:
    """Keep failures of extra messages from changing a stage's result, for example without memory or disk space."""
    return suppress(Error, OSError)
