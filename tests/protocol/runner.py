"""A stand-in for gitlab-runner: calls the stages of a custom executor as the runner does, and tells what it saw.

The file has two lives. Imported by tests it offers `RunnerStandIn`, which copies this very file into a host and runs it
there as a program: next to the driver, where process groups, signals and pipes are real. The program needs nothing but
Python 3.11.

    stand_in = RunnerStandIn(host, Driver.of("/usr/bin/nspawn-runner"))
    result = stand_in.job(Job(scripts={"build_script": "exit 42"}, image="bookworm"))
    assert (result.status, result.exit_code) == ("script_failure", 42)
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Protocol, Self

Status = Literal["success", "script_failure", "system_failure", "canceled", "timed_out"]
Verdict = Literal["success", "build_failure", "system_failure", "unknown"]
Action = Literal["cancel", "time_out", "abort", "kill_driver"]

PREPARATION = ("prepare_script", "get_sources", "restore_cache", "download_artifacts")
ATTEMPTS = {
    "get_sources": "GET_SOURCES_ATTEMPTS",
    "restore_cache": "RESTORE_CACHE_ATTEMPTS",
    "download_artifacts": "ARTIFACT_DOWNLOAD_ATTEMPTS",
}
# What the runner has to do in every job. A job's own scripts replace them; an empty one is not called.
USUAL_SCRIPTS = {
    "prepare_script": 'echo "Running on $(hostname) via stand-in..."',
    "get_sources": 'mkdir -p "$CI_PROJECT_DIR"',
    "clear_worktree": 'rm -rf "$CI_PROJECT_DIR"',
    "cleanup_file_variables": 'rm -rf "$RUNNER_TEMP_PROJECT_DIR"',
}
SERVICE_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "CONFIG_FILE": "/etc/gitlab-runner/config.toml",
    "INVOCATION_ID": "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
    "JOURNAL_STREAM": "8:12345",
    "SYSTEMD_EXEC_PID": "1234",
}
ANSWER_TYPES: dict[str, type] = {
    "driver": dict,
    "hostname": str,
    "builds_dir": str,
    "cache_dir": str,
    "builds_dir_is_shared": bool,
    "job_env": dict,
    "shell": str,
}


@dataclass(frozen=True)
class Driver:
    """The command lines of config.toml; None stands for a setting that is not there."""

    config: list[str] | None
    prepare: list[str] | None
    run: list[str]
    cleanup: list[str] | None

    @classmethod
    def of(cls, *command: str) -> Self:
        """A driver whose four stages are sub-commands of one command."""
        return cls([*command, "config"], [*command, "prepare"], [*command, "run"], [*command, "cleanup"])


@dataclass(frozen=True)
class Event:
    """Something that befalls a job, `after_seconds` after `stage` began or after it wrote `output`."""

    action: Action
    stage: str
    after_seconds: float = 0.0
    output: str = ""
    occurrence: int = 1


@dataclass(frozen=True)
class Job:
    """What GitLab hands out.

    `scripts` maps stages to shell text: build_script, any step_*, after_script, and the runner's own. `variables` are
    the job's own and override predefined ones; `payload` is merged over the generated JOB_RESPONSE_FILE.
    """

    scripts: dict[str, str] = field(default_factory=dict)
    id: int = 1001
    image: str | None = None
    services: list[dict[str, Any]] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    file_variables: dict[str, str] = field(default_factory=dict)
    project_id: int = 7
    project_path: str = "group/project"
    ref: str = "main"
    protected: bool = False
    timeout_seconds: float = 120.0
    script_timeout_seconds: float = 0.0
    after_script_timeout_seconds: float = 300.0
    events: list[Event] = field(default_factory=list)
    payload: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Behaviour:
    """How the runner behaves: by default as today, apart from the exit statuses, which drivers must not assume."""

    build_failure_exit_code: int = 91
    system_failure_exit_code: int = 92
    job_response_file: bool = True
    build_exit_code_file: bool = True
    script_form: Literal["subshell", "trap", "plain"] = "subshell"
    script_name: str = "script"
    cancel: Literal["new", "old"] = "new"
    after_script_may_fail_the_job: bool = True
    always_cleans_file_variables: bool = True
    one_pipe: bool = False
    prepare_tries: int = 3
    retry_seconds: float = 0.2
    config_timeout_seconds: float = 3600.0
    prepare_timeout_seconds: float = 3600.0
    cleanup_timeout_seconds: float = 3600.0
    graceful_kill_seconds: float = 20.0
    force_kill_seconds: float = 5.0
    finish_wait_seconds: float = 300.0
    builds_dir: str = ""
    cache_dir: str = ""
    server_url: str = "https://gitlab.example.org"
    runner_token: str = "stand-in-token"  # noqa: S105
    slot: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    temporary_folder: str = "/tmp"
    kept_bytes: int = 1 << 26


NEW = Behaviour()
# 14.7, and before 14.1
OLD = Behaviour(
    build_exit_code_file=False,
    script_form="plain",
    script_name="script.",
    cancel="old",
    after_script_may_fail_the_job=False,
    always_cleans_file_variables=False,
    one_pipe=True,
)
ANCIENT = replace(OLD, job_response_file=False)


@dataclass
class Call:
    """What is known of one call; times are seconds since the job began, sizes count all that was written."""

    stage: str
    argv: list[str]
    temporary: str
    began: float
    exited: float | None = None
    ended: float | None = None
    status: int | None = None
    verdict: Verdict = "unknown"
    exit_code: int | None = None
    message: str = ""
    stdout: bytes = b""
    stderr: bytes = b""
    stdout_size: int = 0
    stderr_size: int = 0
    signals: list[str] = field(default_factory=list)
    survivors: bool = False

    @property
    def seconds(self) -> float:
        """The time until the runner took the call as over; raises ValueError when it never was."""
        if self.ended is None:
            raise ValueError(f"{self.stage} was abandoned")
        return self.ended - self.began

    @property
    def eof_delay(self) -> float:
        """The time between the exit of the driver and the end-of-file on its output."""
        if self.ended is None or self.exited is None:
            raise ValueError(f"{self.stage} was abandoned")
        return self.ended - self.exited


@dataclass(frozen=True)
class JobResult:
    """How the job ended for GitLab, what is in its log, and every call of the driver in order."""

    status: Status
    exit_code: int | None
    message: str
    trace: bytes
    calls: list[Call]
    answer: dict[str, Any] | None
    seconds: float

    @property
    def stages(self) -> list[str]:
        """The names of the stages in the order of their calls; those of run by the name of the script."""
        return [call.stage for call in self.calls]

    def call(self, stage: str, occurrence: int = 1) -> Call:
        """The given call of a stage; raises LookupError when there was none."""
        found = [call for call in self.calls if call.stage == stage]
        if len(found) < occurrence:
            raise LookupError(f"{stage} was called {len(found)} times; calls: {self.stages}")
        return found[occurrence - 1]


# --- inside: the program ---


class Failure(Exception):
    """A stage did not succeed: how the job ends because of it, and whether a prepare may be tried again."""

    def __init__(self, status: Status, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.status: Status = status
        self.message = message
        self.exit_code = exit_code


class Context:
    """A right to go on, which ends for a cause; a child ends with its parent."""

    def __init__(self, changed: threading.Condition, parent: Context | None = None) -> None:
        self._changed, self._parent = changed, parent
        self._own: Status | None = None

    @property
    def cause(self) -> Status | None:
        return self._own or (self._parent.cause if self._parent else None)

    def end(self, cause: Status) -> None:
        with self._changed:
            self._own = self._own or cause
            self._changed.notify_all()

    def end_after(self, seconds: float, cause: Status) -> Context:
        timer = threading.Timer(seconds, self.end, [cause])
        timer.daemon = True
        timer.start()
        return self


class Program:
    """One job, from config to cleanup."""

    def __init__(self, driver: Driver, job: Job, behaviour: Behaviour, trace: Callable[[bytes], object]) -> None:
        self.driver, self.job, self.behaviour = driver, job, behaviour
        self._write_trace = trace
        self._zero = time.monotonic()
        self._changed = threading.Condition()
        self._context = Context(self._changed)
        self._cancel_ends = self._context
        self._live: dict[int, subprocess.Popen[bytes]] = {}
        self._temporary = ""
        self._configured = False
        self._job_status = "running"
        self.trace: list[bytes] = []
        self.calls: list[Call] = []
        self.answer: dict[str, Any] | None = None

    def do(self) -> JobResult:
        """Run the whole job; cleanup comes last, whatever happens."""
        for event in self.job.events:
            threading.Thread(target=self._await_event, args=[event], daemon=True).start()
        self._context.end_after(self.job.timeout_seconds, "timed_out")
        ended = Failure("success", "")
        try:
            self._prepare()
        except Failure as failure:
            ended = failure
        else:
            ended = self._run_scripts()
        return JobResult(
            status=ended.status,
            exit_code=ended.exit_code,
            message=ended.message,
            trace=b"".join(self.trace),
            calls=self.calls,
            answer=self.answer,
            seconds=self._now(),
        )

    def act(self, action: Action) -> None:
        """Let something befall the job now."""
        if action == "cancel":
            self._cancel_ends.end("canceled")
        elif action == "time_out":
            self._context.end("timed_out")
        elif action == "abort":
            self._context.end("system_failure")
        else:
            with self._changed:
                if self._live:
                    self._live[max(self._live)].send_signal(signal.SIGKILL)

    def _now(self) -> float:
        return time.monotonic() - self._zero

    # stages

    def _prepare(self) -> None:
        last = Failure("system_failure", "no try")
        for attempt in range(self.behaviour.prepare_tries):
            if attempt:
                self._pause(self.behaviour.retry_seconds)
            self._temporary = tempfile.mkdtemp(prefix="custom-executor", dir=self.behaviour.temporary_folder)
            try:
                self._write_payload()
                self._configure()
                if self.driver.prepare is not None:
                    context = self._limited(self.behaviour.prepare_timeout_seconds)
                    self._call("prepare", self.driver.prepare, context)
                return
            except Failure as failure:
                last = failure
            self._cleanup()
            if last.status == "script_failure":
                break
            if self._context.cause:
                last = Failure(self._context.cause, "the job ended while it was prepared")
                break
        raise last

    def _limited(self, seconds: float) -> Context:
        return Context(self._changed, self._context).end_after(seconds, "system_failure")

    def _configure(self) -> None:
        self.answer, self._configured = None, False
        if self.driver.config is not None:
            context = self._limited(self.behaviour.config_timeout_seconds)
            call = self._call("config", self.driver.config, context)
            try:
                self.answer = parse_answer(call.stdout)
            except ValueError as error:
                call.message = f"the answer is not what it should be: {error}"
                raise Failure("system_failure", call.message) from None
        self._configured = True
        for name in ("builds_dir", "cache_dir"):
            if not self._folder(name):
                raise Failure("system_failure", f"{name} is named neither by config nor by config.toml")

    def _run_scripts(self) -> Failure:
        """Run the scripts in a thread: when the job ends early, cleanup waits for them only so long."""
        ended: list[Failure] = []

        def work() -> None:
            outcome = self._scripts()
            with self._changed:
                ended.append(outcome)
                self._changed.notify_all()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        with self._changed:
            self._changed.wait_for(lambda: ended or self._context.cause)
            if cause := self._context.cause:
                self._changed.wait_for(lambda: ended, self.behaviour.finish_wait_seconds)
                outcome = Failure(cause, "the job ended early")
            else:
                outcome = ended[0]
        self._cleanup()
        thread.join(self.behaviour.graceful_kill_seconds + self.behaviour.force_kill_seconds + 1)
        return outcome

    def _scripts(self) -> Failure:
        failure: Failure | None = None
        for stage in PREPARATION:
            try:
                self._attempts(stage)
            except Failure as caught:
                failure = caught
                if stage == "prepare_script":
                    return failure
                break
        if failure is None:
            failure = self._user_scripts()
        ending = "_on_failure" if failure else ""
        for stage in (f"archive_cache{ending}", f"upload_artifacts{ending or '_on_success'}"):
            try:
                self._script(stage, self._context)
            except Failure as caught:
                failure = failure or caught
        wanted = self.job.file_variables or self.job.variables.get("FF_ENABLE_JOB_CLEANUP") == "true"
        if wanted or self.behaviour.always_cleans_file_variables:
            with contextlib.suppress(Failure):
                self._script("cleanup_file_variables", self._context)
        return failure or Failure("success", "")

    def _attempts(self, stage: str) -> None:
        attempts = 1
        with contextlib.suppress(KeyError, ValueError):
            attempts = min(10, max(1, int(self.job.variables[ATTEMPTS[stage]])))
        for attempt in range(1, attempts + 1):
            try:
                self._script(stage, self._context)
                return
            except Failure:
                if attempt == attempts or self._context.cause:
                    raise
            if stage == "get_sources" and attempt == 1:
                self._script("clear_worktree", self._context)
            self._pause(self.behaviour.retry_seconds)

    def _user_scripts(self) -> Failure | None:
        context = self._context
        if self.behaviour.cancel == "new":
            context = self._cancel_ends = Context(self._changed, self._context)
            if self.job.script_timeout_seconds:
                context.end_after(self.job.script_timeout_seconds, "timed_out")
        failure: Failure | None = None
        for stage in user_stages(self.job.scripts):
            try:
                self._script(stage, context)
            except Failure as caught:
                failure = caught
                break
        if context.cause and not self._context.cause:
            failure = Failure(context.cause, "the script was ended")
        words = {"canceled": "canceled", "timed_out": "timedout"}
        self._job_status = words.get(failure.status, "failed") if failure else "success"
        limit = self.job.after_script_timeout_seconds
        try:
            self._script("after_script", Context(self._changed, self._context).end_after(limit, "timed_out"))
        except Failure as caught:
            counts = self.behaviour.after_script_may_fail_the_job
            if counts and self.job.variables.get("AFTER_SCRIPT_IGNORE_ERRORS") == "false":
                failure = failure or caught
        return failure

    def _script(self, stage: str, context: Context) -> None:
        if context.cause:
            raise Failure(context.cause, "the job has ended")
        text = self.job.scripts.get(stage, USUAL_SCRIPTS.get(stage, ""))
        if not text:
            return
        path = os.path.join(tempfile.mkdtemp(prefix="script", dir=self._temporary), self.behaviour.script_name)
        user = stage in (*user_stages(self.job.scripts), "after_script")
        body = script_body(text, self._variables(), self.job.file_variables, user=user)
        write_file(path, shell_script(body, self.behaviour.script_form), 0o700)
        self._call(stage, [*self.driver.run, path, stage], context)

    def _cleanup(self) -> None:
        if self.driver.cleanup is not None:
            context = Context(self._changed).end_after(self.behaviour.cleanup_timeout_seconds, "system_failure")
            with contextlib.suppress(Failure):
                self._call("cleanup", self.driver.cleanup, context)
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._context.cause, seconds)

    # one call

    def _call(self, stage: str, argv: Sequence[str], context: Context) -> Call:
        """Call the driver, wait for its exit and for end-of-file, and raise Failure unless it succeeded."""
        call = Call(stage=stage, argv=list(argv), temporary=self._temporary, began=self._now())
        single = self.behaviour.one_pipe and stage not in ("config", "cleanup")
        with self._changed:
            self.calls.append(call)
            number = len(self.calls)
            try:
                process = subprocess.Popen(
                    argv,
                    cwd=self._temporary,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT if single else subprocess.PIPE,
                    process_group=0,
                )
            except (OSError, ValueError) as error:
                call.message = f"cannot be started: {error}"
                call.exited = call.ended = self._now()
                raise Failure("system_failure", f"{stage} {call.message}") from None
            self._live[number] = process
            self._changed.notify_all()
        in_trace = {"config": ["stderr"], "cleanup": []}.get(stage, ["stdout", "stderr"])
        readers = [
            threading.Thread(target=self._read, args=[call, name, pipe, name in in_trace], daemon=True)
            for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr))
            if pipe
        ]
        waiter = threading.Thread(target=self._await_end, args=[call, number, process, readers], daemon=True)
        for thread in (*readers, waiter):
            thread.start()
        with self._changed:
            self._changed.wait_for(lambda: call.ended is not None or context.cause)
            waits = {"TERM": self.behaviour.graceful_kill_seconds, "KILL": self.behaviour.force_kill_seconds}
            for name, seconds in waits.items():
                if call.ended is None:
                    call.signals.append(name)
                    signal_group(process.pid, getattr(signal, f"SIG{name}"))
                    self._changed.wait_for(lambda: call.ended is not None, seconds)
            if call.ended is None:
                call.message = "does not end, not even after SIGKILL; abandoned"
                raise Failure("system_failure", f"{stage} {call.message}")
        self._judge(call)
        return call

    def _read(self, call: Call, name: str, pipe: IO[bytes], in_trace: bool) -> None:
        while chunk := os.read(pipe.fileno(), 65536):
            with self._changed:
                kept: bytes = getattr(call, name)
                setattr(call, name, kept + chunk[: max(0, self.behaviour.kept_bytes - len(kept))])
                setattr(call, f"{name}_size", getattr(call, f"{name}_size") + len(chunk))
                if in_trace:
                    self.trace.append(chunk)
                    self._write_trace(chunk)
                self._changed.notify_all()
        pipe.close()

    def _await_end(
        self, call: Call, number: int, process: subprocess.Popen[bytes], readers: list[threading.Thread]
    ) -> None:
        status = process.wait()
        with self._changed:
            del self._live[number]
            call.status, call.exited = status, self._now()
        for reader in readers:
            reader.join()
        ended = self._now()
        while (alive := is_alive(process.pid)) and self._now() < ended + 0.1:
            time.sleep(0.005)
        with self._changed:
            call.survivors, call.ended = alive, ended
            self._changed.notify_all()

    def _judge(self, call: Call) -> None:
        """Read the exit status as the runner does; a signal is an unknown status too."""
        if call.status == 0:
            call.verdict = "success"
            return
        if call.status == self.behaviour.system_failure_exit_code:
            call.verdict, call.message = "system_failure", "system failure"
        elif call.status == self.behaviour.build_failure_exit_code:
            try:
                call.exit_code = self._build_exit_code()
            except ValueError as error:
                call.message = f"BUILD_EXIT_CODE_FILE: {error}"
            else:
                call.verdict, call.message = "build_failure", f"exit status {call.exit_code}"
                raise Failure("script_failure", f"{call.stage}: {call.message}", call.exit_code)
        else:
            call.message = f"unknown exit code {call.status}"
        raise Failure("system_failure", f"{call.stage}: {call.message}")

    def _build_exit_code(self) -> int:
        try:
            with open(self._exit_code_file(), "rb") as file:
                first = file.readline().rstrip(b"\r\n")
        except OSError:
            return self.behaviour.build_failure_exit_code
        if not re.fullmatch(rb"[+-]?[0-9]+", first):
            raise ValueError(f"not an integer: {first!r}")
        return int(first)

    # what the driver is given

    def _exit_code_file(self) -> str:
        return os.path.join(self._temporary, "build_exit_code")

    def _response_file(self) -> str:
        return os.path.join(self._temporary, "response.json")

    def _environment(self) -> dict[str, str]:
        environment = {
            **SERVICE_ENVIRONMENT,
            **self.behaviour.environment,
            "TMPDIR": self._temporary,
            "BUILD_FAILURE_EXIT_CODE": str(self.behaviour.build_failure_exit_code),
            "SYSTEM_FAILURE_EXIT_CODE": str(self.behaviour.system_failure_exit_code),
        }
        if self.behaviour.job_response_file:
            environment["JOB_RESPONSE_FILE"] = self._response_file()
        if self.behaviour.build_exit_code_file:
            environment["BUILD_EXIT_CODE_FILE"] = self._exit_code_file()
        environment |= (self.answer or {}).get("job_env") or {}
        return environment | {f"CUSTOM_ENV_{name}": value for name, value in self._variables(files=True).items()}

    def _folder(self, name: str) -> str:
        return (self.answer or {}).get(name) or str(getattr(self.behaviour, name))

    def _variables(self, *, files: bool = False) -> dict[str, str]:
        """All variables of the job; `files` adds the contents of those that are files."""
        builds = self._folder("builds_dir") if self._configured else ""
        shared = f"{self.behaviour.runner_token[:9]}/{self.behaviour.slot}/"
        project = f"{builds}/{shared if (self.answer or {}).get('builds_dir_is_shared') else ''}{self.job.project_path}"
        predefined = predefined_variables(self.job, self.behaviour) | {
            "CI_BUILDS_DIR": builds,
            "CI_PROJECT_DIR": project if builds else "",
            "RUNNER_TEMP_PROJECT_DIR": f"{project if builds else ''}.tmp",
            "CI_JOB_STATUS": self._job_status,
        }
        return predefined | self.job.variables | (self.job.file_variables if files else {})

    def _write_payload(self) -> None:
        if self.behaviour.job_response_file:
            content = json.dumps(payload(self.job, self.behaviour)).encode() + b"\n"
            write_file(self._response_file(), content, 0o600)

    def _await_event(self, event: Event) -> None:
        wanted = event.output.encode()

        def seen() -> bool:
            calls = [call for call in self.calls if call.stage == event.stage][event.occurrence - 1 :]
            return bool(calls and wanted in calls[0].stdout + b"\n" + calls[0].stderr)

        with self._changed:
            self._changed.wait_for(seen)
        time.sleep(event.after_seconds)
        self.act(event.action)


def signal_group(leader: int, number: int) -> None:
    """Send a signal to a process group, if there is one."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)


def is_alive(group: int) -> bool:
    """Tell whether a process group has a living process; kill(2) would count the dead that nobody has waited for."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                state, _, its_group = file.read().rpartition(b") ")[2].split()[:3]
                if int(its_group) == group and state not in b"ZX":
                    return True
    return False


def write_file(path: str, content: bytes, mode: int) -> None:
    """Make a new file with exactly this mode."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def parse_answer(text: bytes) -> dict[str, Any] | None:
    """The answer of config: pure JSON of the known types, or None for no answer; raises ValueError."""
    if not text:
        return None
    answer = json.loads(text.decode(), parse_constant=_refuse)
    if answer is None:
        return None
    if not isinstance(answer, dict):
        raise ValueError(f"not an object: {text[:60]!r}")
    for name, kind in ANSWER_TYPES.items():
        value: Any = answer.get(name)
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{name} is no {kind.__name__}")
        if isinstance(value, dict) and any(not isinstance(inner, str) for inner in value.values()):
            raise ValueError(f"{name} has a value that is no text")
    return answer


def user_stages(scripts: Iterable[str]) -> list[str]:
    """The stages with the user's own text, apart from after_script, in order: build_script, then the steps."""
    names = list(scripts)
    return [name for name in names if name == "build_script"] + [name for name in names if name.startswith("step_")]


def predefined_variables(job: Job, behaviour: Behaviour) -> dict[str, str]:
    """The variables that GitLab and the runner define, apart from those that change during a job."""
    image = {"CI_JOB_IMAGE": job.image} if job.image else {}
    return {
        "CI": "true",
        "GITLAB_CI": "true",
        "CI_SERVER": "yes",
        "CI_SERVER_URL": behaviour.server_url,
        "CI_SERVER_HOST": behaviour.server_url.split("://")[-1],
        "CI_API_V4_URL": f"{behaviour.server_url}/api/v4",
        "CI_PIPELINE_ID": "501",
        "CI_JOB_ID": str(job.id),
        "CI_JOB_NAME": "job",
        "CI_JOB_STAGE": "test",
        "CI_JOB_TOKEN": f"secret-of-job-{job.id}",
        "CI_JOB_URL": f"{behaviour.server_url}/{job.project_path}/-/jobs/{job.id}",
        "CI_JOB_TIMEOUT": str(int(job.timeout_seconds)),
        "CI_PROJECT_ID": str(job.project_id),
        "CI_PROJECT_PATH": job.project_path,
        "CI_PROJECT_NAME": job.project_path.rpartition("/")[2],
        "CI_COMMIT_REF_NAME": job.ref,
        "CI_COMMIT_REF_PROTECTED": str(job.protected).lower(),
        "CI_COMMIT_SHA": "6f781c0de6f781c0de6f781c0de6f781c0de6f78",
        "CI_REGISTRY_PASSWORD": f"secret-of-job-{job.id}",
        "CI_RUNNER_ID": "42",
        "CI_RUNNER_SHORT_TOKEN": behaviour.runner_token[:9],
        "CI_CONCURRENT_ID": str(behaviour.slot),
        "CI_CONCURRENT_PROJECT_ID": str(behaviour.slot),
        "CI_SHARED_ENVIRONMENT": "true",
        "CI_JOB_SERVICES": services_variable(job.services),
        "FF_NETWORK_PER_BUILD": "false",
        "FF_USE_FASTZIP": "false",
        **image,
    }


def services_variable(services: list[dict[str, Any]]) -> str:
    """The job's services as the environment has them: JSON with the first alias only, or nothing."""
    shown = [
        {
            "name": service["name"],
            "alias": (service.get("alias") or "").split(" ")[0],
            "entrypoint": service.get("entrypoint"),
            "command": service.get("command"),
        }
        for service in services
    ]
    return json.dumps(shown, separators=(",", ":")) if shown else ""


def payload(job: Job, behaviour: Behaviour) -> dict[str, Any]:
    """The content of JOB_RESPONSE_FILE. What is not set is left out or null; a missing image is one without a name."""
    variables = [
        {"key": name, "value": value, "public": public, "file": file, "masked": False, "raw": False}
        for mapping, public, file in (
            (predefined_variables(job, behaviour), True, False),
            (job.variables, False, False),
            (job.file_variables, False, True),
        )
        for name, value in mapping.items()
    ]
    steps = [
        {
            "name": name,
            "script": job.scripts[stage].splitlines(),
            "timeout": int(job.timeout_seconds),
            "when": "always" if name == "after_script" else "on_success",
            "allow_failure": name == "after_script",
        }
        for stage in (*user_stages(job.scripts), "after_script")
        if job.scripts.get(stage)
        for name in ["script" if stage == "build_script" else stage.removeprefix("step_")]
    ]
    content: dict[str, Any] = {
        "id": job.id,
        "token": f"secret-of-job-{job.id}",
        "allow_git_fetch": True,
        "job_info": {
            "name": "job",
            "stage": "test",
            "pipeline_id": 501,
            "project_id": job.project_id,
            "project_name": job.project_path.rpartition("/")[2],
            "project_full_path": job.project_path,
            "namespace_id": 3,
            "root_namespace_id": 3,
            "organization_id": 1,
            "instance_id": "instance",
            "instance_uuid": "2e1b3b34-6d0a-4c9f-9e3b-0f6f1c7f0d11",
            "user_id": 5,
            "time_in_queue_seconds": 1,
        },
        "git_info": {
            "repo_url": f"{behaviour.server_url}/{job.project_path}.git",
            "ref": job.ref,
            "sha": "6f781c0de6f781c0de6f781c0de6f781c0de6f78",
            "before_sha": "0" * 40,
            "ref_type": "branch",
            "refspecs": [f"+refs/heads/{job.ref}:refs/remotes/origin/{job.ref}"],
            "depth": 20,
            "protected": job.protected,
        },
        "runner_info": {"uuid": "", "timeout": int(job.timeout_seconds)},
        "variables": variables,
        "steps": steps,
        "image": image_payload({"name": job.image or ""}),
        "services": [image_payload(service) for service in job.services],
        "artifacts": None,
        "cache": None,
        "credentials": [],
        "dependencies": [],
        "features": {"trace_sections": True, "failure_reasons": ["script_failure"]},
        "policy_options": {"execution_policy_job": False, "policy_name": ""},
        "run": "",
    }
    return merged(content, job.payload)


def image_payload(image: Mapping[str, Any]) -> dict[str, Any]:
    """An image or a service as the runner writes it: with its name and options, even empty, and what else is set."""
    options = {"docker": {"platform": "", "user": ""}, "kubernetes": {"user": ""}}
    return {"name": "", "executor_opts": options, **image}


def merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merged in depth; anything else of `over` replaces what `base` has."""
    result = dict(base)
    for name, value in over.items():
        old = result.get(name)
        result[name] = merged(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return result


def ansi_quoted(text: str) -> str:
    """Text as one word of bash in the form $'…', in plain ASCII."""
    special = {0x0A: r"\n", 0x09: r"\t", 0x27: r"\'", 0x5C: r"\\"}
    octets = text.encode(errors="surrogateescape")
    shown = (chr(octet) if 32 <= octet < 127 else f"\\x{octet:02x}" for octet in octets)
    return "$'" + "".join(special.get(octet, char) for octet, char in zip(octets, shown, strict=True)) + "'"


def script_body(text: str, variables: Mapping[str, str], file_variables: Mapping[str, str], *, user: bool) -> str:
    """Shell text that exports the variables, goes to the project folder for the user's own text, and does it."""
    legal = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
    lines = [f"export {name}={ansi_quoted(value)}" for name, value in variables.items() if legal.fullmatch(name)]
    for name, content in file_variables.items():
        lines.append('mkdir -p "$RUNNER_TEMP_PROJECT_DIR"')
        lines.append(f'printf %s {ansi_quoted(content)} > "$RUNNER_TEMP_PROJECT_DIR/{name}"')
        lines.append(f'export {name}="$RUNNER_TEMP_PROJECT_DIR/{name}"')
    if user:
        lines.append('cd "$CI_PROJECT_DIR"')
    return "\n".join([*lines, text, ""])


def shell_script(body: str, form: Literal["subshell", "trap", "plain"]) -> bytes:
    """The script file in one of the forms that runners have had; the trap came with 17.4, the subshell with 19.1.

    The first trap exits with the status of the last command: a script that SIGTERM ends may well say 0.
    """
    evaluation = f"eval {ansi_quoted(body)}"
    lines = ["#!/usr/bin/env bash", "set -eo pipefail"]
    if form == "subshell":
        lines += ["trap 'exit 1' TERM", f"(trap 'exit 1' TERM; {evaluation}) < /dev/null"]
    else:
        lines += ["trap exit HUP TERM"] if form == "trap" else []
        lines.append(f": | {evaluation}")
    return "\n".join([*lines, "exit 0", ""]).encode()


def encoded(result: JobResult) -> str:
    """The result as JSON; bytes become base64."""
    return json.dumps(asdict(result), default=lambda octets: base64.b64encode(octets).decode())


def decoded(text: str | bytes) -> JobResult:
    """The result that `encoded` was given."""
    fields = json.loads(text)
    calls = [
        Call(**{**call, "stdout": base64.b64decode(call["stdout"]), "stderr": base64.b64decode(call["stderr"])})
        for call in fields.pop("calls")
    ]
    return JobResult(**{**fields, "trace": base64.b64decode(fields["trace"]), "calls": calls})


def main(folder: str) -> None:
    """Do the job described in `folder`/job.json, obey words on standard input, write the trace and the result there."""
    with open(os.path.join(folder, "job.json"), "rb") as file:
        description = json.load(file)
    events = [Event(**event) for event in description["job"].pop("events")]
    job = Job(**description["job"], events=events)
    with open(os.path.join(folder, "trace"), "wb", buffering=0) as trace:
        program = Program(Driver(**description["driver"]), job, Behaviour(**description["behaviour"]), trace.write)

        def obey() -> None:
            for line in sys.stdin:
                program.act(line.strip())  # type: ignore[arg-type]

        threading.Thread(target=obey, daemon=True).start()
        result = program.do()
    draft = os.path.join(folder, "result.new")
    write_file(draft, encoded(result).encode(), 0o600)
    os.rename(draft, os.path.join(folder, "result.json"))
    # threads may still read from the pipes of calls that were abandoned
    sys.stdout.flush()
    os._exit(0)


# --- outside: for tests ---


class Host(Protocol):
    """Where the driver lives: starts commands there, and knows where its files are seen from here."""

    def popen(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = ...,
        stdin: int | IO[Any] | None = ...,
        stdout: int | IO[Any] | None = ...,
        stderr: int | IO[Any] | None = ...,
    ) -> subprocess.Popen[bytes]: ...

    def path(self, inside: str | Path) -> Path: ...


class RunningJob:
    """A job under way in the host; a context manager, which on leaving ends the stand-in if it still runs."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self._process, self._folder = process, folder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def trace(self) -> bytes:
        """The job's log so far."""
        file = self._folder / "trace"
        return file.read_bytes() if file.exists() else b""

    def await_output(self, wanted: bytes, timeout_seconds: float = 60.0) -> None:
        """Wait until `wanted` is in the job's log; raises TimeoutError, also when the job ends without it."""
        deadline = time.monotonic() + timeout_seconds
        while wanted not in self.trace:
            if time.monotonic() > deadline or (self._process.poll() is not None and wanted not in self.trace):
                raise TimeoutError(f"no {wanted!r} in {self.trace[-2000:]!r}")
            time.sleep(0.02)

    def act(self, action: Action) -> None:
        """Cancel the job, let its time be over, end the runner, or kill the driver that runs now."""
        assert self._process.stdin
        self._process.stdin.write(f"{action}\n".encode())
        self._process.stdin.flush()

    def wait(self, timeout_seconds: float = 300.0) -> JobResult:
        """Wait for the end of the job and return its result; raises RuntimeError when the stand-in itself failed."""
        _, words = self._process.communicate(timeout=timeout_seconds)
        try:
            return decoded((self._folder / "result.json").read_bytes())
        except FileNotFoundError:
            raise RuntimeError(f"the stand-in failed: {(words or b'').decode(errors='replace')}") from None


class RunnerStandIn:
    """A runner in a host, with a driver. `folder` is a folder inside the host for descriptions and results."""

    _numbers = itertools.count(1)

    def __init__(self, host: Host, driver: Driver, behaviour: Behaviour = NEW, *, folder: str = "/tmp") -> None:
        self.host, self.driver, self.behaviour = host, driver, behaviour
        self._folder = folder

    def start(self, job: Job, behaviour: Behaviour | None = None) -> RunningJob:
        """Start a job and return it under way."""
        inside = f"{self._folder}/stand-in-{os.getpid()}-{next(self._numbers)}"
        folder = self.host.path(inside)
        folder.mkdir(mode=0o700)
        (folder / "runner.py").write_bytes(Path(__file__).read_bytes())
        description = {
            "driver": asdict(self.driver),
            "job": asdict(job),
            "behaviour": asdict(behaviour or self.behaviour),
        }
        (folder / "job.json").write_text(json.dumps(description))
        process = self.host.popen(
            ["python3", f"{inside}/runner.py", inside],
            env={},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        return RunningJob(process, folder)

    def job(self, job: Job, behaviour: Behaviour | None = None, *, timeout_seconds: float = 300.0) -> JobResult:
        """Do a whole job and return its result."""
        with self.start(job, behaviour) as running:
            return running.wait(timeout_seconds)


if __name__ == "__main__":
    main(sys.argv[1])
