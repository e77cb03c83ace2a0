"""Predefined variables that only a server can set: a script that uses one should not fail in silence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# A name in a shell's text; one with a default, ${NAME:-…}, is cared for.
_USED = re.compile(r"\$(?:\{((?:CI|GITLAB)_[A-Z0-9_]+)\}|((?:CI|GITLAB)_[A-Z0-9_]+))")
# Set only in some pipelines on GitLab too: scripts ask whether they are.
_OPTIONAL = re.compile(
    r"CI_(?:COMMIT_(?:TAG|TAG_MESSAGE|BRANCH)|MERGE_REQUEST_.*|EXTERNAL_PULL_REQUEST_.*|ENVIRONMENT_.*|DEBUG_.*"
    r"|OPEN_MERGE_REQUESTS|DEPLOY_FREEZE|KUBERNETES_ACTIVE|NODE_INDEX|JOB_MANUAL|JOB_STATUS|GITLAB_FIPS_MODE"
    r"|PIPELINE_NAME|PIPELINE_TRIGGERED|JOB_IMAGE|CLUSTER_.*|TRIGGER_.*|RELEASE_.*)"
)
_MOST = 10


def unset(commands: Iterable[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """Return a warning that names the predefined variables that ``commands`` use and ``values`` lack, if any."""
    used = {match[1] or match[2]: None for command in commands for match in _USED.finditer(command)}
    missing = [name for name in used if name not in values and not _OPTIONAL.fullmatch(name)]
    if not missing:
        return ()
    shown = ", ".join(missing[:_MOST]) + (" …" if len(missing) > _MOST else "")
    return (f"not set here, as only a GitLab server knows them: {shown} (give values with --variable)",)
