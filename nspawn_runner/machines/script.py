"""Run a script in a machine: its output passed on as it comes, its true status reported by the machine itself.

The script is one transient unit in the machine. systemd-run's own exit status says little (0 also when the machine
died), so a wrapper in the machine writes the status down. It comes with the script, before it in the memory file that
is its stdin, and not in the unit: systemd would misread a shell's text there.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from enum import Enum

from ..errors import Error, HostError, JobError
from ..host import process, signals, systemd
from ..light_typing import NamedTuple
from ..nspawn import calls
from . import cgroups, limits, network, notes, records, relay
from .records import Record

# What a shell started at a login has, without what systemd adds for services. "$1" is a mark that says on stderr that
# this runs, before anything of the job does; "$2" is the shell. $SHELL is that too for root, and for a user whose own
# is none to work with, which systemd leaves out. The end is written down at the start of the memory file, by a
# descriptor of its own: whatever the script does with its own descriptors or its wrapper, it can only fail by it.
_WRAPPER = r"""
echo "$1" >&2
unset INVOCATION_ID JOURNAL_STREAM MEMORY_PRESSURE_WATCH MEMORY_PRESSURE_WRITE SYSTEMD_EXEC_PID
export LANG="${LANG:-C.UTF-8}" TERM=xterm PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cd 2>/dev/null || cd /
unset OLDPWD
if ! command -v "$2" >/dev/null; then echo no-shell 1<>/proc/self/fd/0; exit 127; fi
[ "$USER" = root ] && unset SHELL
SHELL="${SHELL:-$2}" "$2"
echo "exited $?" 1<>/proc/self/fd/0
exit
"""
_SHELLS = {"sh", "bash", "dash", "ash", "ksh", "zsh"}
# A comment, for the shell that reads the wrapper, until something is written down there.
_HEADER = b"#" * 31 + b"\n"
_PROGRAM = _HEADER + _WRAPPER.encode()
# GitLab's only stage before anything that the job itself says is run: get_sources begins with its hooks.
_NOT_OF_THE_JOB = "prepare_script"
_ANSWER_SECONDS = 5
_MOST_BYTES = 4096  # of an answer
_REBOOT_SECONDS = 90
_BUSES = ("dbus.service", "dbus-broker.service")
# After a stage that waited for all of that.
_STILL_MUTE_SECONDS = 5


class Outcome(Enum):
    """How a script ended: with a status of its own, killed with its wrapper, or for reasons outside of it."""

    FINISHED = "finished"
    NO_SHELL = "no shell"
    KILLED = "killed"
    REBOOTED = "rebooted"
    POWERED_OFF = "powered off"
    MACHINE_LOST = "machine lost"
    LIMIT_REACHED = "limit reached"


class Result(NamedTuple):
    """The outcome, the script's exit status (0 to 255), and a text for each limit that the job has reached."""

    outcome: Outcome
    status: int
    detail: str = ""
    limits_reached: tuple[str, ...] = ()


def run(record: Record, content: bytes, stage: str, *, shell: str, grace_seconds: int) -> Result:
    """Run the script ``content`` in the machine with ``shell`` and return how it ended.

    Raises Cancelled when a signal arrives, once all of the script's processes have ended: asked by SIGTERM, and after
    ``grace_seconds`` by SIGKILL. Raises HostError when the machine cannot be asked, JobError when a limit has ended it
    or keeps the script from starting, OSError when our own streams break.
    """
    deadline = time.monotonic() + (_STILL_MUTE_SECONDS if notes.is_mute(record.machine) else _REBOOT_SECONDS)
    while True:
        _wait_until_up(record, deadline)
        network.look(record)
        before, since = limits.counts(record), time.time()
        started, said = _attempt(record, content, stage, shell, grace_seconds)
        if started:
            notes.note_script(record.machine, of_the_job=stage != _NOT_OF_THE_JOB)
            result = _result(record, said, since, shell, before.oom_kills)
            reached = limits.reached(record, before, failed=result.status != 0)
            return result._replace(limits_reached=reached)
        # The script never started: the machine was on its way down just then, or cannot start any.
        if time.monotonic() > deadline or (systemd.is_active(record.unit) and _answers(record.machine)):
            raise _gone(record)
        signals.sleep(0.5)


def _attempt(record: Record, content: bytes, stage: str, shell: str, grace_seconds: int) -> tuple[bool, str]:
    """Run the script once; return whether it has started, and what the wrapper wrote down of its end."""
    unit = f"nspawn-runner-{stage}-{os.urandom(4).hex()}.service"
    memory = os.memfd_create("script")
    try:
        process.write_all(memory, _PROGRAM + _environment(record, shell) + content)
        os.lseek(memory, len(_PROGRAM), os.SEEK_SET)
        mark = os.urandom(8).hex()
        started = relay.stream(
            _systemd_run_argv(record, unit, stage, mark, shell),
            stdin=memory,
            machine=record.machine,
            stage=stage,
            mark=mark,
            is_over=lambda started: _is_over(record, unit, _written(memory), started=started),
            end=lambda: _kill_script(record.machine, unit, grace_seconds),
        )
        return started, _written(memory)
    finally:
        os.close(memory)


def _environment(record: Record, shell: str) -> bytes:
    """Return what sets the image's own environment, before the script does the job's; nothing for another language."""
    return record.environment.encode() if os.path.basename(shell) in _SHELLS else b""


def _written(memory: int) -> str:
    """Return what the wrapper has written down so far."""
    head = os.pread(memory, len(_HEADER), 0).partition(b"\n")[0]
    return "" if head.startswith(b"#") else head.decode(errors="replace")


def _is_over(record: Record, unit: str, said: str, *, started: bool) -> bool:
    """Return whether the script is over, systemd-run having ended: it also does when the script restarts the bus.

    A machine that does not answer is waited for, unless it is on its way down.
    """
    if said:
        return True
    now = records.read(record.machine)
    if now is None or now.state == "stopping" or not os.path.exists(records.ready_file(record.machine)):
        return True
    state = _ask(record.machine, "is-active", unit)
    if state:
        return state not in {"active", "activating", "deactivating", "reloading"}
    if not started or not systemd.is_active(record.unit):
        return True
    # Where the job has stopped the machine's bus nobody else can say.
    return not cgroups.is_populated(record.group, unit)


def _systemd_run_argv(record: Record, unit: str, stage: str, mark: str, shell: str) -> list[str]:
    return calls.unit_argv(
        record.machine,
        systemd.shell_argv(mark, shell),
        unit=unit,
        description=f"nspawn-runner: {stage} of the job",
        properties=[*calls.INSIDE_PROPERTIES, *limits.script_properties(record.limits)],
        user=record.user,
    )


def _kill_script(machine: str, unit: str, grace_seconds: int) -> None:
    """End all of a script's processes: SIGTERM, and SIGKILL for what is left after the grace."""
    _signal(machine, unit, "TERM")
    deadline = time.monotonic() + grace_seconds
    while time.monotonic() < deadline and _has_processes(machine, unit):
        signals.sleep(0.05)
    _signal(machine, unit, "KILL")


def _signal(machine: str, unit: str, name: str) -> None:
    argv = calls.kill_argv(machine, unit, name)
    process.head(argv, limit_bytes=1, timeout_seconds=_ANSWER_SECONDS, must_answer=True)  # it says nothing


def _has_processes(machine: str, unit: str) -> bool:
    """Return whether a process of ``unit`` is left; with the end of the wrapper alone the unit is inactive already."""
    argv = calls.manager_argv(machine, "GetUnitProcesses", "s", unit)
    said = process.head(argv, limit_bytes=_MOST_BYTES, timeout_seconds=_ANSWER_SECONDS, must_answer=True)
    if not said:  # a unit without processes may be unknown by now
        return False
    try:
        return bool(json.loads(said)["data"] != [[]])
    except ValueError:  # it was longer
        return True


def _result(record: Record, said: str, since: float, shell: str, kills_before: int) -> Result:
    """Translate what the wrapper wrote; without a status, ask why there is none."""
    if said == "no-shell":
        return Result(Outcome.NO_SHELL, 127, shell)
    word, _, number = said.partition(" ")
    if word == "exited" and number.isascii() and number.isdigit() and len(number) <= 3 and int(number) <= 255:
        return Result(Outcome.FINISHED, int(number))
    return _why_lost(record, since, kills_before)


def _why_lost(record: Record, since: float, kills_before: int) -> Result:
    """Tell what became of a script that started and never said its status."""
    now = records.read(record.machine)
    if now is None or now.state == "stopping":
        return Result(Outcome.MACHINE_LOST, 1, "it was cleaned up")
    end = _await_end(record, since)
    if end is None:
        return Result(Outcome.KILLED, 137)
    if end.exit_status == "133":
        return Result(Outcome.REBOOTED, 143)
    if limit := limits.end_by_limit(record, end, kills_before):
        return Result(Outcome.LIMIT_REACHED, 1, limit)
    if _ended_itself(record, end):
        return Result(Outcome.POWERED_OFF, 143)
    killed = f"systemd-nspawn was killed by {end.exit_status}"
    detail = killed if end.result == "signal" else f"{end.result}, {end.exit_code} {end.exit_status}"
    return Result(Outcome.MACHINE_LOST, 1, detail)


def _await_end(record: Record, since: float) -> records.End | None:
    """Wait for the reaper's word on an end after ``since``, while the unit is going down; None when it runs on."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        end = records.read_end(record.machine)
        if end is not None and end.at >= since:
            return end
        state = systemd.state(record.unit)
        if state.get("ActiveState") == "active" and _answers(record.machine):
            return None
        signals.sleep(0.05)
    return None


def _answers(machine: str) -> bool:
    """Return whether the machine's systemd answers and is not on its way down."""
    return _ask(machine, "is-system-running") in {"running", "degraded", "starting", "initializing"}


def _ask(machine: str, *question: str) -> str:
    """Return what the machine's systemd answers to a question for systemctl, or nothing when it does not in time."""
    with suppress(HostError):
        argv = calls.systemctl_argv(machine, *question)
        said = process.head(argv, limit_bytes=_MOST_BYTES, timeout_seconds=_ANSWER_SECONDS)
        return said.decode(errors="replace").strip()
    return ""


def _wait_until_up(record: Record, deadline: float) -> None:
    """Wait for a machine that is rebooting; raises Error where it does not come back until ``deadline``."""
    while not os.path.exists(records.ready_file(record.machine)):
        state = systemd.state(record.unit).get("ActiveState")
        if time.monotonic() > deadline or state not in {"active", "activating", "deactivating"}:
            raise _gone(record)
        if state == "active":
            _join_again(record)
        signals.sleep(0.05)


def _join_again(record: Record) -> None:
    """Give a machine that was rebooted its address; raises JobError where the job has left it nothing to give it to."""
    try:
        network.join(record, seconds=5)
    except HostError as error:
        if not notes.has_run_scripts_of_job(record.machine):
            raise
        raise JobError(f"{error.what} after a reboot by the job", facts=error.facts, advice=error.advice) from error


def _gone(record: Record) -> Error:
    """Return why no script can be started: the job's fault where only the job can have done it."""
    end = records.read_end(record.machine)
    advice = f"see: journalctl --unit={record.unit}"
    if end is None or os.path.exists(records.ready_file(record.machine)):
        return _mute(record, advice)
    if end.exit_status == "133":
        return JobError(f"the machine {record.machine} did not come back from a reboot by the job", advice=advice)
    if limit := limits.end_by_limit(record, end):
        return JobError(f"the machine {record.machine} is gone: {limit}")
    if end.result == "timeout":
        return JobError(f"the machine {record.machine} is gone: its boot after a reboot by the job took too long")
    if _ended_itself(record, end):
        off = end.result == "success"
        how = "it was powered off from inside" if off else f"its own init ended with status {end.exit_status}"
        return JobError(f"the machine {record.machine} is gone: {how}")
    return HostError(f"the machine {record.machine} is gone: it ended with {end.result}", advice=advice)


def _ended_itself(record: Record, end: records.End) -> bool:
    """Tell whether it was the machine's own init that ended, or could not start again: by then that is the job's doing.

    Its status is what the job wants it to be, as with systemctl exit 3. But 1 may also be systemd-nspawn's word for an
    init that somebody has killed, and nobody inside can; only its log tells (nspawn.c, wait_for_container).
    """
    if end.result != "exit-code" or not notes.has_run_scripts_of_job(record.machine):
        return end.result == "success"
    told = systemd.nspawn_log(record.unit, since=record.created) if end.exit_status == "1" else []
    return not any("terminated by signal" in line for line in told)


def _mute(record: Record, advice: str) -> Error:
    notes.note_mute(record.machine)
    what = f"no script can be started in the machine {record.machine}"
    if limit := limits.why_nothing_starts(record):
        return JobError(what, facts=limit)
    if notes.has_run_scripts_of_job(record.machine):
        group = record.group
        if any(cgroups.is_populated(group, bus) for bus in _BUSES):
            facts = "a script of the job has run there before: are /bin/sh and systemd as they were?"
        else:
            facts = "its bus has ended, by which scripts are started; systemctl rescue, emergency and stop dbus do that"
        return JobError(what, facts=facts)
    return HostError(what, advice=advice)
