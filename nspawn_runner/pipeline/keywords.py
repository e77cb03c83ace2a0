"""Which keywords of .gitlab-ci.yml a local run uses, ignores, tells of, or refuses."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .values import Node, NotHere, wrong

# What `default` or the top level gives to every job, and a job may set itself.
INHERITED = ("image", "services", "before_script", "after_script")

# These say what a job is in its pipeline; the modules of this room read them.
FOLLOWED = frozenset({
    "allow_failure", "artifacts", "dependencies", "environment", "except", "extends", "inherit", "needs", "only",
    "parallel", "retry", "rules", "script", "stage", "start_in", "timeout", "type", "variables", "when",
})  # fmt: skip

# These mean something only to a server, or to the jobs of other pipelines.
IGNORED = frozenset({
    "cache", "coverage", "dast_configuration", "identity", "interruptible", "manual_confirmation", "pages", "publish",
    "resource_group", "tags",
})  # fmt: skip

# A job may do without these, but it should be known that they are not there.
TOLD: Mapping[str, str] = {
    "id_tokens": "its id_tokens are not set: only a GitLab server issues them",
    "release": "its release is not made: that takes a GitLab server",
    "secrets": "its secrets are not fetched: set them with --variable or --variables-file",
}

# These change what runs in the machine: ignoring them would give another result than on GitLab.
REFUSED: Mapping[str, str] = {
    "hooks": "commands before the sources are fetched",
    "inputs": "values that GitLab asks for",
    "run": "steps instead of a script",
    "trigger": "another pipeline instead of a script",
}

JOB = frozenset({*INHERITED, *FOLLOWED, *IGNORED, *TOLD, *REFUSED})
DEFAULT = frozenset({
    *INHERITED, "artifacts", "cache", "hooks", "id_tokens", "identity", "interruptible", "retry", "tags", "timeout",
})  # fmt: skip
# No job can have these names; one called default, workflow or types can be there, if it has a script.
RESERVED = frozenset({*INHERITED, "cache", "include", "stages", "variables"})
GLOBAL = frozenset({*RESERVED, "default", "types", "workflow"})
MAKES_JOB = ("script", "trigger", "run", "extends")


def check_job(name: str, job: Mapping[str, Node]) -> tuple[str, ...]:
    """Return the keywords of ``job`` that a local run ignores; raises JobError for a refused or unknown one."""
    _check(f'the job "{name}"', job, JOB)
    if job.get("rules") is not None and job["rules"].value is not None:
        for key in ("only", "except"):
            if key in job and job[key].value is not None:
                raise wrong(job[key], f'the job "{name}" has both "rules" and "{key}"', advice="use rules alone")
    return tuple(key for key in job if key in IGNORED)


def check_default(default: Mapping[str, Node], wanted: Collection[str]) -> tuple[str, ...]:
    """Return the ignored keywords of ``default``; raises JobError for a refused one if the job has it (``wanted``)."""
    _check('"default"', {key: node for key, node in default.items() if key in wanted or key not in DEFAULT}, DEFAULT)
    return tuple(key for key in default if key in IGNORED and key in wanted)


def _check(owner: str, keywords: Mapping[str, Node], known: Collection[str]) -> None:
    for key, node in keywords.items():
        if key not in known:
            raise wrong(node, f'{owner} has an unknown keyword "{key}"')
        if key in REFUSED and node.value not in (None, [], {}):
            what = wrong(node, f'{owner} has "{key}" ({REFUSED[key]}), which a local run does not support').what
            raise NotHere(what, advice="push the branch to run this job on GitLab")
