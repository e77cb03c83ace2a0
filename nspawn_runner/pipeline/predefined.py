"""The predefined variables whose values a local run knows."""

from __future__ import annotations

import os
import re

from .checkout import Checkout


def project_name(folder: str) -> str:
    """Return the name of the project in ``folder``, valid as the last part of a path and of a GitLab project."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", os.path.basename(os.path.realpath(folder))).lstrip("-.")
    return name[:64] or "project"


def variables(checkout: Checkout, *, job_id: str, builds_dir: str, name: str, file: str) -> dict[str, str]:
    """Return the predefined variables that are known without a server, with GitLab's names and meanings.

    Meanings: https://docs.gitlab.com/ci/variables/predefined_variables/. The job's own (name, stage, image) are
    added where the job is read.
    """
    project_dir = f"{builds_dir}/{name}"
    known = {
        "CI": "true",
        "GITLAB_CI": "true",
        "CI_SERVER": "yes",
        "CI_BUILDS_DIR": builds_dir,
        "CI_CONFIG_PATH": file,
        "CI_DISPOSABLE_ENVIRONMENT": "true",
        "CI_JOB_ID": job_id,
        # Of GitLab's sources, a push of the branch is closest to a local run.
        "CI_PIPELINE_SOURCE": "push",
        "CI_PROJECT_DIR": project_dir,
        "CI_PROJECT_NAME": name,
        "CI_COMMIT_SHA": checkout.sha,
        "CI_COMMIT_SHORT_SHA": checkout.sha[:8],
        "CI_COMMIT_REF_NAME": checkout.ref,
        "CI_COMMIT_REF_SLUG": _slug(checkout.ref),
    }
    if checkout.branch is not None:
        known["CI_COMMIT_BRANCH"] = checkout.branch
    if checkout.tag is not None:
        known["CI_COMMIT_TAG"] = checkout.tag
    return known


def _slug(ref: str) -> str:
    return re.sub(r"[^a-z0-9]", "-", ref.lower())[:63].strip("-")
