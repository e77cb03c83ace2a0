"""Identify the process that called us, even after its pid is reused."""

from __future__ import annotations

import os

from . import files

_GITLAB_RUNNER = "gitlab-runner"


def gitlab_runner() -> str:
    """Return the gitlab-runner that called this process as "pid start"; empty if none did.

    Searches all ancestors, as sudo or an administrator's script may come in between.
    """
    pid = os.getppid()
    while pid > 1:
        name, state_and_more = _stat(pid)
        if _is_gitlab_runner(pid, name):
            return f"{pid} {state_and_more[19]}"
        pid = int(state_and_more[1]) if state_and_more else 0
    return ""


def this_process() -> str:
    """Return this process as "pid start"."""
    return f"{os.getpid()} {_stat(os.getpid())[1][19]}"


def _is_gitlab_runner(pid: int, name: bytes) -> bool:
    """Check the names of the process and its program: either may carry a version, as in gitlab-runner-17.0."""
    if name.startswith(_GITLAB_RUNNER.encode()):
        return True
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith(_GITLAB_RUNNER)
    except OSError:
        return False


def is_gone(caller: str) -> bool:
    """Return whether the process ``caller``, "pid start", has certainly ended."""
    pid, _, start = caller.partition(" ")
    if not pid.isdigit():
        return False
    _, now = _stat(int(pid))
    return not now or now[19] != start or now[0] in {"Z", "X"}


def _stat(pid: int) -> tuple[bytes, list[str]]:
    """Return a process's name, and the fields from its state on; the 20th is its start time (proc_pid_stat(5))."""
    try:
        before, _, after = files.read_head(f"/proc/{pid}/stat", 4096).rpartition(b")")
    except (FileNotFoundError, ProcessLookupError):
        return b"", []
    return before.partition(b"(")[2], after.decode().split()
