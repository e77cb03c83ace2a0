"""gitlab-runner's rules for a job's run calls: which ones decide its result, and which may be last.

Sources: ``common/build.go`` and ``shells/abstract.go`` of gitlab-runner.
"""

from __future__ import annotations

from collections.abc import Mapping

AFTER_SCRIPT = "after_script"
LAST = "cleanup_file_variables"
# The stages that the runner may retry, and the variable that says how often.
_ATTEMPTS = {
    "get_sources": "GET_SOURCES_ATTEMPTS",
    "restore_cache": "RESTORE_CACHE_ATTEMPTS",
    "download_artifacts": "ARTIFACT_DOWNLOAD_ATTEMPTS",
}


def decides(stage: str, environ: Mapping[str, str]) -> bool:
    """Return whether the job fails if ``stage`` fails."""
    if stage == AFTER_SCRIPT:
        return environ.get("CUSTOM_ENV_AFTER_SCRIPT_IGNORE_ERRORS", "").lower() in {"false", "0", "f"}
    return stage != LAST


def may_be_last(stage: str, steps: tuple[str, ...], environ: Mapping[str, str], *, failed: bool, stopped: bool) -> bool:
    """Return whether ``stage``, which may have ``failed`` or been ``stopped`` by a signal, may be the last one.

    ``steps`` are the payload's. Runners before 17.9 skip the last stage if it has nothing to do.
    """
    if stage == LAST or stopped or (failed and stage == "prepare_script"):
        return True
    if environ.get("BUILD_EXIT_CODE_FILE"):  # new in 17.9
        return False
    if stage in _ATTEMPTS:
        return failed and environ.get(f"CUSTOM_ENV_{_ATTEMPTS[stage]}", "") in {"", "0", "1"}
    if stage == "build_script" or stage.startswith("step_"):
        own = [f"step_{step.lower()}" for step in steps if step != AFTER_SCRIPT]
        name = "step_script" if stage == "build_script" else stage
        return AFTER_SCRIPT not in steps and (failed or own[-1:] in ([], [name]))
    return stage == AFTER_SCRIPT or stage.startswith(("archive_cache", "upload_artifacts"))
