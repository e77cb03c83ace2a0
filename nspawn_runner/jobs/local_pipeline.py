"""Run several jobs of a .gitlab-ci.yml in their order, some at a time, each in a process of its own."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from ..errors import Error, printable
from ..host import files, process, signals
from ..output import human_age, note, table
from ..pipeline import outcomes
from ..pipeline.ci_job import CiJob
from ..pipeline.outcomes import Before, State
from ..pipeline.roster import Roster, RosterEntry
from . import artifact_files, local_job
from .local_folder import LocalFolder
from .local_job import LocalJob

_MAIN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "__main__.py")
RESULT = "result.json"
# A machine may take its time to stop.
_END_SECONDS = 90
_STATE_WIDTH = 16
_LONGEST_WAIT = 86400  # seconds; poll(2) counts milliseconds in an int


class PipelineRun(NamedTuple):
    """What a run of a pipeline needs: the jobs ``chosen`` of the roster, and how to make one ready.

    ``local`` makes a job ready with the variables that earlier ones hand on. ``by_hand`` are manual jobs that are to
    run. ``workspace`` is a private folder, ``folder`` where logs and artifacts stay; ``options`` are ours for each job.
    """

    roster: Roster
    chosen: Sequence[RosterEntry]
    local: Callable[[RosterEntry, Mapping[str, str]], LocalJob]
    workspace: str
    folder: LocalFolder
    at_once: int
    by_hand: frozenset[str] = frozenset()
    options: tuple[str, ...] = ()


class _Track:
    """What happens to one job."""

    def __init__(self, entry: RosterEntry, results: str) -> None:
        self.entry = entry
        self.results = results
        self.state = State.WAITING
        self.tried = 0
        self.began = self.took = 0.0
        self.deadline: float | None = None
        self.child: process.Popen | None = None
        self.is_late = False
        self.pidfd = -1
        self.why = ""
        self.kept = ""

    @property
    def is_left(self) -> bool:
        """Whether the job was neither run nor tried."""
        return self.state in {State.SKIPPED, State.MANUAL} and not self.tried


def run(wanted: PipelineRun) -> int:
    """Run the jobs and say what became of them; return the pipeline's exit status."""
    return _Pipeline(wanted).run()


class _Pipeline:
    def __init__(self, wanted: PipelineRun) -> None:
        self.wanted = wanted
        self.tracks = {
            entry.name: _Track(entry, f"{wanted.workspace}/job-{number}") for number, entry in enumerate(wanted.chosen)
        }

    def run(self) -> int:
        """Start what may start and wait for it, until nothing is left."""
        began = time.monotonic()
        try:
            while True:
                self.start()
                running = [track for track in self.tracks.values() if track.child is not None]
                if not running:
                    break
                self.wait(running)
        finally:
            self.stop()
        for track in self.tracks.values():
            if track.state is State.WAITING:  # nothing runs that it could wait for
                track.state, track.why = State.FAILED, "waits for itself, by way of what it needs"
                self.tell(track)
        self.tell_end(time.monotonic() - began)
        named = [track for name, track in self.tracks.items() if name in self.wanted.by_hand]
        left_out = [track for track in named if track.is_left]
        for track in left_out:
            _print(f"{printable(track.entry.name, 60)} did not run: it waits for a job that was left out or failed")
        return 1 if left_out else outcomes.status_of({track.state for track in self.tracks.values()})

    def start(self) -> None:
        """Start jobs until as many run as may, or none is left that can start."""
        changed = True
        while changed:
            changed = False
            for track in self.tracks.values():
                if track.state is not State.WAITING:
                    continue
                running = sum(each.child is not None for each in self.tracks.values())
                changed |= self.decide(track, free=running < self.wanted.at_once)

    def decide(self, track: _Track, *, free: bool) -> bool:
        """Start, skip or leave a waiting job; return whether anything changed for the others."""
        job = track.entry.job
        if job is None:
            track.state = State.SKIPPED if track.entry.only_here else State.FAILED
            track.why = track.entry.problem
        else:
            state = outcomes.next_state(job, self.before(track), started_by_hand=job.name in self.wanted.by_hand)
            if state is State.WAITING or (state is State.RUNNING and not free):
                return False
            if state is State.RUNNING:
                self.begin(track)
                return True
            track.state = state
        self.tell(track)
        return True

    def before(self, track: _Track) -> list[Before]:
        found = []
        for entry in self.wanted.roster.needed(track.entry):
            other = self.tracks.get(entry.name)
            if other is not None and other is not track:
                found.append(Before(other.state, may_be_left=entry.job is not None and entry.job.allow_failure))
        return found

    def begin(self, track: _Track) -> None:
        """Make the job ready and start its process; a job that cannot be made ready has failed."""
        track.tried += 1
        track.began = time.monotonic()
        try:
            variables: dict[str, str] = {}
            named = [each.name for each in self.wanted.roster.giving(track.entry)]
            giving = [self.tracks[name] for name in named if name in self.tracks]
            for other in giving:
                variables |= artifact_files.dotenv(other.results)[0]
            local = self.wanted.local(track.entry, variables)
            files.remove_tree(track.results)
            files.make_private_folder(track.results)
            given = artifact_files.gather(f"{track.results}/given", [other.results for other in giving])
            local = local._replace(given=given, results=f"{track.results}")
            files.write_atomically(f"{track.results}/job.json", json.dumps(local_job.to_json(local)).encode())
            log = self.wanted.folder.begin(track.entry.name)
        except Error as error:
            track.state, track.why = State.FAILED, error.what
            self.tell(track)
            return
        try:
            argv = [sys.executable, "-I", "-S", _MAIN, *self.wanted.options, "exec", f"--part={track.results}"]
            # If we are killed, gc removes the workspace: the job must end, and take its machine away.
            argv = ["setpriv", "--pdeathsig", "TERM", "--", *argv]
            track.child = process.spawn(argv, stdout=log, stderr=log, own_session=True)
        finally:
            os.close(log)
        track.pidfd = os.pidfd_open(track.child.pid)
        limit = local.job.timeout_seconds
        track.deadline, track.is_late = track.began + limit if limit else None, False
        track.state = State.RUNNING
        self.tell(track)

    def wait(self, running: Sequence[_Track]) -> None:
        """Wait until one of the ``running`` jobs ends or runs out of time."""
        limits = [track.deadline for track in running if track.deadline is not None]
        left = max(0.0, min(_LONGEST_WAIT, min(limits) - time.monotonic())) if limits else None
        ready = signals.wait([track.pidfd for track in running], left)
        for track in running:
            assert track.child is not None  # noqa: S101  (it is running)
            if track.pidfd in ready:
                self.end(track)
            elif track.deadline is not None and time.monotonic() >= track.deadline:
                self.hurry(track, track.child)

    def hurry(self, track: _Track, child: process.Popen) -> None:
        """Ask a job that has run out of time to end; the second time it has no choice."""
        if track.is_late:
            child.kill()
        else:
            child.terminate()
        track.is_late, track.deadline = True, time.monotonic() + _END_SECONDS

    def end(self, track: _Track) -> None:
        """Note how the job ended, and begin it again if it may be."""
        late = track.is_late
        assert track.child is not None  # noqa: S101  (it has run)
        track.child.wait()
        os.close(track.pidfd)
        track.child, track.pidfd = None, -1
        track.took = time.monotonic() - track.began
        job = track.entry.job
        assert job is not None  # noqa: S101  (it has run)
        status = None if late else _status(track.results)
        track.why = "took too long" if late else f"exit code {status}" if status else "" if status == 0 else "no result"
        if status == 0 and artifact_files.dotenv(track.results)[1]:
            status, track.why = None, "its dotenv report is malformed"  # GitLab does not take it either
        track.state = outcomes.ended(job, status)
        kind = "job_execution_timeout" if late else "script_failure" if status else "runner_system_failure"
        if track.state is not State.SUCCESS and outcomes.again(job, track.tried, kind):
            self.tell(track, more=f", try {track.tried + 1} follows")
            track.state = State.WAITING
            return
        self.keep(track, job)
        self.tell(track)
        if track.state is not State.SUCCESS:
            self.show_log(track)

    def keep(self, track: _Track, job: CiJob) -> None:
        """Unpack the job's artifacts into the project's folder."""
        problems = artifact_files.dotenv(track.results)[1]
        if os.path.exists(f"{track.results}/{artifact_files.FILES}"):
            track.kept = os.path.relpath(self.wanted.folder.of(job.name))
        for problem in (*problems, *self.wanted.folder.keep(job.name, track.results)):
            note(f"  {job.name}: {printable(problem)}")

    def stop(self) -> None:
        """End all jobs that still run: we are asked to end."""
        running = [track for track in self.tracks.values() if track.child is not None]
        with signals.held():
            for track in running:
                assert track.child is not None  # noqa: S101  (asked above)
                if track.child.poll() is None:
                    track.child.terminate()
            for track in running:
                assert track.child is not None  # noqa: S101  (asked above)
                process.end(track.child, _END_SECONDS)
                os.close(track.pidfd)

    def tell(self, track: _Track, more: str = "") -> None:
        """Say what has just become of the job."""
        parts = [track.state.value.ljust(_STATE_WIDTH), printable(track.entry.name, 100)]
        if track.took and track.state.is_over:
            parts.append(f" {track.took:.1f} s")
        why = f"{track.why}{more}"
        if track.state is State.RUNNING:
            why = f"try {track.tried}" if track.tried > 1 else ""
        _print(f"{''.join(parts)}{f': {printable(why)}' if why else ''}")

    def show_log(self, track: _Track) -> None:
        """Write the whole log of a failed job to our own output."""
        _print(f"--- log of {printable(track.entry.name, 100)}")
        try:
            fd = self.wanted.folder.log_of(track.entry.name)
        except OSError:
            return
        with os.fdopen(fd, "rb") as log, suppress(OSError):
            sys.stdout.flush()
            while piece := log.read(1 << 16):
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        _print("---")

    def tell_end(self, seconds: float) -> None:
        """Write the table of what became of each job."""
        rows = [("JOB", "STAGE", "RESULT", "TIME", "")]
        for track in self.tracks.values():
            took = f"{track.took:.1f} s" if track.took else "-"
            more = "; ".join(part for part in (track.why, f"files: {track.kept}" if track.kept else "") if part)
            name = printable(track.entry.name, 60)
            rows.append((name, printable(track.entry.stage, 30), track.state.value, took, printable(more, 100)))
        _print("")
        for line in table(rows):
            _print(line)
        states = {track.state for track in self.tracks.values()}
        result = "failed" if State.FAILED in states else "blocked by a manual job" if self.is_blocked() else "success"
        _print(f"pipeline: {result}, {human_age(seconds)}")

    def is_blocked(self) -> bool:
        """Return whether jobs did not run because a manual one must run first."""
        manual = [track.entry.job for track in self.tracks.values() if track.state is State.MANUAL]
        return any(job is not None and not job.allow_failure for job in manual)


def _status(results: str) -> int | None:
    """Return the status of the job's script; None if it has none, as after a failure of the host."""
    try:
        status = json.loads(files.read_head(f"{results}/{RESULT}", 100))["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return status if isinstance(status, int) else None


def _print(line: str) -> None:
    with suppress(OSError):  # nobody may read it any more, as behind head(1): the jobs go on
        print(line, flush=True)
