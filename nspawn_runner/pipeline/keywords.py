"""Which keywords of .gitlab-ci.yml a local run uses, ignores, or refuses."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from .values import Node, wrong

# What `default` or the top level gives to every job, and a job may set itself.
INHERITED = ("image", "services", "before_script", "after_script")

# These say when and where a job runs in a pipeline, and what GitLab keeps of it. A local run is one job, called by
# name, in a fresh machine, and keeps nothing.
IGNORED = frozenset({
    "allow_failure", "artifacts", "cache", "coverage", "dast_configuration", "dependencies", "environment", "except",
    "id_tokens", "identity", "interruptible", "manual_confirmation", "needs", "only", "pages", "publish", "release",
    "resource_group", "retry", "rules", "start_in", "tags", "timeout", "type", "when",
})  # fmt: skip

# These change what runs in the machine: ignoring them would give another result than on GitLab.
REFUSED: Mapping[str, str] = {
    "hooks": "commands before the sources are fetched",
    "inputs": "values that GitLab asks for",
    "parallel": "several jobs with different variables",
    "run": "steps instead of a script",
    "secrets": "variables from a secret store",
    "trigger": "another pipeline instead of a script",
}

_JOB = frozenset({*INHERITED, *IGNORED, *REFUSED, "extends", "inherit", "script", "stage", "variables"})
_DEFAULT = frozenset({
    *INHERITED, "artifacts", "cache", "hooks", "id_tokens", "identity", "interruptible", "retry", "tags", "timeout",
})  # fmt: skip
GLOBAL = frozenset({*INHERITED, "cache", "default", "include", "spec", "stages", "types", "variables",
                    "workflow"})  # fmt: skip


def check_job(name: str, job: Mapping[str, Node]) -> tuple[str, ...]:
    """Return the keywords of ``job`` that a local run ignores; raises JobError for a refused or unknown one."""
    _check(f'the job "{name}"', job, _JOB)
    return tuple(key for key in job if key in IGNORED)


def check_default(default: Mapping[str, Node], wanted: Collection[str]) -> tuple[str, ...]:
    """Return the ignored keywords of ``default``; raises JobError for a refused one if the job has it (``wanted``)."""
    _check('"default"', {key: node for key, node in default.items() if key in wanted or key not in _DEFAULT}, _DEFAULT)
    return tuple(key for key in default if key in IGNORED and key in wanted)


def _check(owner: str, keywords: Mapping[str, Node], known: Collection[str]) -> None:
    for key, node in keywords.items():
        if key not in known:
            raise wrong(node, f'{owner} has an unknown keyword "{key}"')
        if key in REFUSED and node.value not in (None, [], {}):
            raise wrong(
                node,
                f'{owner} has "{key}" ({REFUSED[key]}), which a local run does not support',
                advice="push the branch to run this job on GitLab",
            )


def check_rules(owner: str, rules: Node, given: Collection[str]) -> None:
    """Raise JobError when a rule sets variables that are not all ``given`` on the command line.

    Only GitLab knows whether a rule applies: it may depend on a merge request or on what a push changed.
    """
    for rule in _mappings(rules):
        variables = rule.value.get("variables") if isinstance(rule.value, dict) else None
        names = list(variables.value) if variables and isinstance(variables.value, dict) else []
        missing = [name for name in names if name not in given]
        if variables and missing:
            raise wrong(
                variables,
                f"a rule of {owner} sets {', '.join(missing)}, and a local run does not evaluate rules",
                advice=f"set the values: {' '.join(f'--variable {name}=…' for name in missing)}",
            )


def _mappings(node: Node, level: int = 0) -> Iterator[Node]:
    if isinstance(node.value, list) and level <= 10:
        for item in node.value:
            yield from _mappings(item, level + 1)
    elif isinstance(node.value, dict):
        yield node
