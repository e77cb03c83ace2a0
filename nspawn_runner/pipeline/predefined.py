"""The predefined variables whose values a local run knows."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from . import project as ci_project
from .environments import slug
from .event import Event
from .project import Project

NO_COMMIT = "0" * 40
_LONG_TITLE = 100  # characters: from here on the description is the whole message


class RunFacts(NamedTuple):
    """What a run itself knows: ids, the time it began (seconds since 1970), where the machine has the sources.

    ``sha`` is the commit that the job gets, empty if it is not made yet.
    """

    pipeline_id: str
    job_id: str
    began: float
    builds_dir: str
    file: str
    sha: str = ""


def project_name(project: Project) -> str:
    """Return the project's name, valid as the last part of a path and of a GitLab project."""
    found = ci_project.origin(project.remote)
    name = os.path.basename(found.path if found else project.folder)
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).lstrip("-.")[:64] or "project"


def variables(project: Project, event: Event, run: RunFacts) -> dict[str, str]:
    """Return the predefined variables that are known without a server, with GitLab's names and meanings.

    Meanings: https://docs.gitlab.com/ci/variables/predefined_variables/. The job's own (name, stage, image) are
    added where the job is read.
    """
    name = project_name(project)
    return {
        "CI": "true",
        "GITLAB_CI": "true",
        "CI_SERVER": "yes",
        "CI_BUILDS_DIR": run.builds_dir,
        "CI_CONFIG_PATH": run.file,
        "CI_CONCURRENT_ID": "0",
        "CI_CONCURRENT_PROJECT_ID": "0",
        "CI_DISPOSABLE_ENVIRONMENT": "true",
        "CI_JOB_ID": run.job_id,
        "CI_JOB_STARTED_AT": ci_project.iso(run.began),
        "CI_PIPELINE_CREATED_AT": ci_project.iso(run.began),
        "CI_PIPELINE_ID": run.pipeline_id,
        "CI_PIPELINE_IID": "1",
        "CI_PIPELINE_SOURCE": event.source,
        "CI_PROJECT_DIR": f"{run.builds_dir}/{name}",
        "CI_PROJECT_NAME": name,
        "CI_PROJECT_TITLE": name,
        **_of_commit(project, event, run.sha or project.sha),
        **_of_origin(project),
        **_of_merge_request(project, event),
    }


def _of_commit(project: Project, event: Event, sha: str) -> dict[str, str]:
    title, _, rest = project.commit.message.partition("\n")
    known = {
        "CI_COMMIT_REF_NAME": event.ref,
        "CI_COMMIT_REF_SLUG": slug(event.ref),
        "CI_COMMIT_REF_PROTECTED": "false",
        "CI_COMMIT_BEFORE_SHA": NO_COMMIT,
    }
    if event.name == "push":
        known["CI_COMMIT_BEFORE_SHA"] = ci_project.before_sha(project) or NO_COMMIT
    if sha:
        known |= {"CI_COMMIT_SHA": sha, "CI_COMMIT_SHORT_SHA": sha[:8]}
    if project.sha:
        known |= {
            "CI_COMMIT_AUTHOR": project.commit.author,
            "CI_COMMIT_TITLE": title,
            "CI_COMMIT_MESSAGE": project.commit.message,
            "CI_COMMIT_DESCRIPTION": project.commit.message if len(title) >= _LONG_TITLE else rest.strip("\n"),
            "CI_COMMIT_TIMESTAMP": ci_project.iso(project.commit.timestamp),
        }
    if project.default_branch:
        known["CI_DEFAULT_BRANCH"] = project.default_branch
    if event.is_tag:
        known["CI_COMMIT_TAG"] = event.ref
    elif event.name != "merge_request" and project.branch:
        known["CI_COMMIT_BRANCH"] = project.branch
    return known


def _of_origin(project: Project) -> dict[str, str]:
    found = ci_project.origin(project.remote)
    if found is None:
        return {}
    usual = "443" if found.protocol == "https" else "80"
    fqdn = f"{found.host}:{found.port}" if found.port and found.port != usual else found.host
    server = f"{found.protocol}://{fqdn}"
    namespace = os.path.dirname(found.path)
    registry = f"registry.{found.host}"
    return {
        "CI_API_V4_URL": f"{server}/api/v4",
        "CI_API_GRAPHQL_URL": f"{server}/api/graphql",
        "CI_PROJECT_NAMESPACE": namespace,
        "CI_PROJECT_NAMESPACE_SLUG": slug(namespace),
        "CI_PROJECT_PATH": found.path,
        "CI_PROJECT_PATH_SLUG": slug(found.path),
        "CI_PROJECT_ROOT_NAMESPACE": namespace.partition("/")[0],
        "CI_PROJECT_URL": f"{server}/{found.path}",
        "CI_REGISTRY": registry,
        "CI_REGISTRY_IMAGE": f"{registry}/{found.path.lower()}",
        "CI_REPOSITORY_URL": project.remote,
        "CI_SERVER_FQDN": fqdn,
        "CI_SERVER_HOST": found.host,
        "CI_SERVER_NAME": "GitLab",
        "CI_SERVER_PORT": found.port or usual,
        "CI_SERVER_PROTOCOL": found.protocol,
        "CI_SERVER_URL": server,
        "CI_TEMPLATE_REGISTRY_HOST": "registry.gitlab.com",
    }


def _of_merge_request(project: Project, event: Event) -> dict[str, str]:
    if event.name != "merge_request":
        return {}
    found = ci_project.origin(project.remote)
    paths = {f"CI_MERGE_REQUEST_{side}_PROJECT_PATH": found.path for side in ("SOURCE", "PROJECT")} if found else {}
    return {
        # Rules ask whether there is a number, not which.
        "CI_MERGE_REQUEST_ID": "1",
        "CI_MERGE_REQUEST_IID": "1",
        "CI_MERGE_REQUEST_EVENT_TYPE": "detached",
        "CI_MERGE_REQUEST_REF_PATH": "refs/merge-requests/1/head",
        "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": event.ref,
        "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": event.target,
        "CI_MERGE_REQUEST_DIFF_BASE_SHA": project.git("merge-base", f"origin/{event.target}", "HEAD"),
        "CI_MERGE_REQUEST_TITLE": project.commit.message.partition("\n")[0],
        **paths,
    }
