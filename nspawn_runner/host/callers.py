"""Who called us, told apart from a later process with the same pid."""

from __future__ import annotations

import os

from . import files

_GITLAB_RUNNER = b"gitlab-runner"


def gitlab_runner() -> str:
    """Return the gitlab-runner that called this process as "pid start", or nothing where it was called otherwise."""
    pid = os.getppid()
    name, state_and_more = _stat(pid)
    return f"{pid} {state_and_more[19]}" if name == _GITLAB_RUNNER else ""


def is_gone(caller: str) -> bool:
    """Tell for sure that the process ``caller``, as ``gitlab_runner`` returned it, has ended."""
    pid, _, start = caller.partition(" ")
    if not pid.isdigit():
        return False
    _, now = _stat(int(pid))
    return not now or now[19] != start or now[0] in {"Z", "X"}


def _stat(pid: int) -> tuple[bytes, list[str]]:
    """Return a process's name, and its state and what follows; the 20th is its start (proc_pid_stat(5))."""
    try:
        before, _, after = files.read_head(f"/proc/{pid}/stat", 4096).rpartition(b")")
    except (FileNotFoundError, ProcessLookupError):
        return b"", []
    return before.partition(b"(")[2], after.decode().split()
