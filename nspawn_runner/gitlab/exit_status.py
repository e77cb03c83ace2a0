"""Exit statuses as gitlab-runner reads them: who is to blame, and the script's own number."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import Error, JobError
from ..host import files


def build_failure(environ: Mapping[str, str]) -> int:
    """Return the exit status for: the job failed, do not retry (BUILD_FAILURE_EXIT_CODE; 1 when called by hand)."""
    return _number(environ.get("BUILD_FAILURE_EXIT_CODE", ""), 1)


def system_failure(environ: Mapping[str, str]) -> int:
    """Return the exit status for: the host failed, retry (SYSTEM_FAILURE_EXIT_CODE; 2 when called by hand)."""
    return _number(environ.get("SYSTEM_FAILURE_EXIT_CODE", ""), 2)


def of_error(error: Error, environ: Mapping[str, str]) -> int:
    """Return the exit status that blames whoever ``error`` blames."""
    return build_failure(environ) if isinstance(error, JobError) else system_failure(environ)


def forget_script_status(environ: Mapping[str, str]) -> None:
    """Remove what an earlier stage wrote to BUILD_EXIT_CODE_FILE: the runner would believe it."""
    if path := environ.get("BUILD_EXIT_CODE_FILE", ""):
        files.remove_file(path)


def tell_script_status(environ: Mapping[str, str], status: int) -> int:
    """Pass the script's status on: 0 as 0, any other in BUILD_EXIT_CODE_FILE (runner >= 17.9) and as build failure."""
    if status == 0:
        return 0
    if path := environ.get("BUILD_EXIT_CODE_FILE", ""):
        files.write_atomically(path, f"{status}\n".encode())
    return build_failure(environ)


def _number(text: str, default: int) -> int:
    ok = text.isascii() and text.isdigit() and 0 < int(text[:4]) < 256 and len(text) < 4
    return int(text) if ok else default
