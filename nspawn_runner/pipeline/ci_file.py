"""The pipeline in a .gitlab-ci.yml, as far as needed to run one of its jobs locally."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import JobError, UsageError
from . import include
from . import keywords as ci_keywords
from . import variables as ci_variables
from .extends import Resolver
from .values import Node, kind, wrong
from .variables import Variable

MAX_SCRIPT_LEVELS = 10
DEFAULT_STAGE = "test"


class Wanted(NamedTuple):
    """Tells which keys are inherited: those in ``names``, or all if it is None."""

    names: frozenset[str] | None

    def __call__(self, key: str) -> bool:
        return self.names is None or key in self.names


class CiJob(NamedTuple):
    """A job ready to run: everything inherited, merged and expanded.

    ``services`` are tables as in the payload of a job. ``variables`` are all that the scripts see, in order;
    ``ignored`` are keywords that mean nothing locally.
    """

    name: str
    stage: str
    image: str | None
    services: tuple[Mapping[str, Any], ...]
    variables: tuple[tuple[str, str], ...]
    before_script: tuple[str, ...]
    script: tuple[str, ...]
    after_script: tuple[str, ...]
    ignored: tuple[str, ...]


class Pipeline:
    """The merged top level of a .gitlab-ci.yml; ``jobs`` are the names of the jobs that can run, in file order."""

    def __init__(self, file: str, root: Mapping[str, Node]) -> None:
        self.file = file
        self.root = root
        self.jobs = tuple(name for name, node in root.items() if _is_job(name, node))

    def job(
        self,
        name: str,
        overrides: Mapping[str, str] | None = None,
        *,
        predefined: Mapping[str, str] | None = None,
        image: str | None = None,
    ) -> CiJob:
        """Return the job ``name``, ready to run; raises JobError with file and line for a mistake.

        Variables: ``predefined`` < global < the job's < ``overrides``. Overrides are taken literally, as is ``image``,
        which replaces the file's. Only what this job uses is checked. Raises UsageError for an invalid override.
        """
        given = dict(overrides or {})
        _check_overrides(given)
        resolver = Resolver(self.root)
        job = self._keywords(resolver, name)
        ignored = ci_keywords.check_job(name, job)
        inherited = self._inherited(resolver, job)
        ignored += tuple(key for key in ci_keywords.check_default(inherited, inherited) if key not in job)
        self._check_rules(resolver, name, job, given)

        stage = _text(job["stage"], "stage") if _is_set(job, "stage") else DEFAULT_STAGE
        asked, details = _image(_chosen(job, inherited, "image"))
        variables = {key: Variable(value, raw=True) for key, value in (predefined or {}).items()}
        variables |= {"CI_JOB_NAME": Variable(name, raw=True), "CI_JOB_STAGE": Variable(stage, raw=True)}
        variables |= self._variables(resolver, job)
        variables |= {key: Variable(value, raw=True) for key, value in given.items()}
        values = ci_variables.expanded(variables)
        image = image if image is not None else (ci_variables.expand(asked, values) if asked is not None else None)
        if image is not None:
            values = {"CI_JOB_IMAGE": image, **values}
        script = _commands(job.get("script"), "script")
        if not any(script):
            where = job["script"] if "script" in job else self.root[name]
            raise wrong(where, f'the job "{name}" has no script')
        return CiJob(
            name=name,
            stage=stage,
            image=image,
            services=_services(_chosen(job, inherited, "services"), values),
            variables=tuple(values.items()),
            before_script=_commands(_chosen(job, inherited, "before_script"), "before_script"),
            script=script,
            after_script=_commands(_chosen(job, inherited, "after_script"), "after_script"),
            ignored=(*ignored, *details),
        )

    def _keywords(self, resolver: Resolver, name: str) -> dict[str, Node]:
        if name in self.jobs:
            job = resolver.job(name)
            assert isinstance(job.value, dict)  # noqa: S101  (_is_job looked at it)
            return job.value
        if name.startswith(".") and name in self.root:
            raise JobError(f'"{name}" is a hidden job, which can only be extended', advice=self._advice())
        raise JobError(f'{self.file} has no job "{name}"', advice=self._advice())

    def _advice(self) -> str:
        return f"jobs: {', '.join(self.jobs)}" if self.jobs else ""

    def _inherited(self, resolver: Resolver, job: Mapping[str, Node]) -> dict[str, Node]:
        """Return what the job inherits from ``default`` and from the top-level keywords that act like it."""
        node = resolver.entry("default") if "default" in self.root else None
        if node and node.value is not None and not isinstance(node.value, dict):
            raise wrong(node, f'"default" is {kind(node)}; it must be a mapping')
        default = dict(node.value) if node and isinstance(node.value, dict) else {}
        ci_keywords.check_default(default, ())
        for key in (*ci_keywords.INHERITED, "cache"):
            if _is_set(self.root, key):
                if _is_set(default, key):
                    raise wrong(self.root[key], f'"{key}" is both at the top level and in "default"', advice="keep one")
                default[key] = resolver.entry(key)
        wanted = _inherit(job, "default")
        return {key: node for key, node in default.items() if wanted(key) and not _is_set(job, key)}

    def _variables(self, resolver: Resolver, job: Mapping[str, Node]) -> dict[str, Variable]:
        everywhere = ci_variables.parse(resolver.entry("variables")) if "variables" in self.root else {}
        own = ci_variables.parse(job["variables"]) if "variables" in job else {}
        wanted = _inherit(job, "variables")
        return {name: variable for name, variable in everywhere.items() if wanted(name)} | own

    def _check_rules(self, resolver: Resolver, name: str, job: Mapping[str, Node], given: Mapping[str, str]) -> None:
        if "rules" in job:
            ci_keywords.check_rules(f'the job "{name}"', job["rules"], given)
        if "workflow" in self.root:
            workflow = resolver.entry("workflow")
            rules = workflow.value.get("rules") if isinstance(workflow.value, dict) else None
            if rules:
                ci_keywords.check_rules('"workflow"', rules, given)


def load(repository: str, file: str = ".gitlab-ci.yml") -> Pipeline:
    """Return the pipeline of ``file`` in the folder ``repository``, with the local files it includes.

    Reads the files as they are in the folder. Raises JobError with file and line for a mistake in any of them.
    """
    try:
        root = include.read(repository, file)
    except FileNotFoundError:
        raise JobError(
            f"there is no {file} in {repository}", advice="change to a project's folder, or name the file: --file FILE"
        ) from None
    except OSError as error:
        raise JobError(f"cannot read {file}: {error.strerror}") from None
    if "spec" in root:
        raise wrong(root["spec"], '"spec" (inputs) is not supported in a local run')
    for name, node in root.items():
        if not isinstance(node.value, dict) and name not in ci_keywords.GLOBAL and not name.startswith("."):
            raise wrong(node, f'"{name}" is not a top-level keyword, and a job must be a mapping')
    return Pipeline(file, root)


def _is_job(name: str, node: Node) -> bool:
    return isinstance(node.value, dict) and name not in ci_keywords.GLOBAL and not name.startswith(".")


def _is_set(keywords: Mapping[str, Node], key: str) -> bool:
    # As on GitLab, an empty value counts as unset: the inherited one applies.
    return key in keywords and keywords[key].value is not None


def _chosen(job: Mapping[str, Node], inherited: Mapping[str, Node], key: str) -> Node | None:
    return job[key] if _is_set(job, key) else inherited.get(key)


def _inherit(job: Mapping[str, Node], what: str) -> Wanted:
    """Return which keys of ``what`` (default or variables) the job inherits, by its keyword ``inherit``."""
    node = job.get("inherit")
    if node is None or node.value is None:
        return Wanted(None)
    if not isinstance(node.value, dict):
        raise wrong(node, f'"inherit" is {kind(node)}; it must be a mapping')
    for key in node.value:
        if key not in {"default", "variables"}:
            raise wrong(node.value[key], f'"inherit" has an unknown keyword "{key}"')
    choice = node.value.get(what)
    if choice is None or choice.value is True:
        return Wanted(None)
    names = [] if choice.value is False else choice.value
    if not isinstance(names, list) or not all(isinstance(item.value, str) for item in names):
        raise wrong(choice, f'"inherit: {what}" must be true, false or a list of names')
    return Wanted(frozenset(str(item.value) for item in names))


def _text(node: Node, keyword: str) -> str:
    if not isinstance(node.value, str) or not node.value:
        raise wrong(node, f'"{keyword}" is {kind(node)}; use a string' if node.value else f'"{keyword}" is empty')
    if "\0" in node.value:
        raise wrong(node, f'"{keyword}" has a NUL character')
    return node.value


def _image(node: Node | None) -> tuple[str | None, tuple[str, ...]]:
    """Return the image's name, unexpanded, and which of its keywords are ignored."""
    if node is None:
        return None, ()
    if not isinstance(node.value, dict):
        return _text(node, "image"), ()
    parts = node.value
    for key, part in parts.items():
        if key not in {"name", "entrypoint", "pull_policy", "docker", "kubernetes"}:
            raise wrong(part, f'"image" has an unknown keyword "{key}"')
    entrypoint = parts.get("entrypoint")
    words = entrypoint.value if entrypoint else None
    # An empty entrypoint switches off the image's own, and a machine has none.
    if entrypoint and words and not (isinstance(words, list) and all(word.value == "" for word in words)):
        raise wrong(entrypoint, '"image: entrypoint" is not supported: a machine boots its own init')
    if "name" not in parts:
        raise wrong(node, '"image" has no name')
    ignored = tuple(f"image:{key}" for key in parts if key not in {"name", "entrypoint"})
    return _text(parts["name"], "image: name"), ignored


def _services(node: Node | None, values: Mapping[str, str]) -> tuple[Mapping[str, Any], ...]:
    """Return the services with the variables in their names expanded, as GitLab's payload has them."""
    if node is None or node.value is None:
        return ()
    if not isinstance(node.value, list):
        raise wrong(node, f'"services" is {kind(node)}, it must be a list')
    return tuple(_service(item, values) for item in node.value)


def _service(node: Node, values: Mapping[str, str]) -> Mapping[str, Any]:
    table = node.value if isinstance(node.value, dict) else {"name": node}
    for key, part in table.items():
        if key not in {"name", "alias", "entrypoint", "command", "variables", "pull_policy", "docker", "kubernetes"}:
            raise wrong(part, f'a service has an unknown keyword "{key}"')
    if "name" not in table:
        raise wrong(node, "a service has no name")
    found: dict[str, Any] = {"name": ci_variables.expand(_text(table["name"], "services: name"), values)}
    if "alias" in table:
        found["alias"] = ci_variables.expand(_text(table["alias"], "services: alias"), values)
    for key in ("entrypoint", "command"):
        if key in table:
            found[key] = list(_commands(table[key], f"services: {key}"))
    if "variables" in table:
        own = ci_variables.expanded(
            {**{name: Variable(text, raw=True) for name, text in values.items()},
             **ci_variables.parse(table["variables"])}
        )  # fmt: skip
        given = table["variables"].value
        found["variables"] = [
            {"key": name, "value": own[name], "raw": True} for name in (given if isinstance(given, dict) else {})
        ]
    return found


def _commands(node: Node | None, keyword: str) -> tuple[str, ...]:
    """Return the commands of a script keyword: a string, or nested lists of strings."""
    if node is None or node.value is None:
        return ()
    commands = tuple(_flat(node, keyword, 0))
    for command in commands:
        if "\0" in command:
            raise wrong(node, f'"{keyword}" has a NUL character, which no shell can read')
    return commands


def _flat(node: Node, keyword: str, level: int) -> list[str]:
    if isinstance(node.value, str):
        return [node.value]
    if not isinstance(node.value, list):
        raise wrong(
            node,
            f'a command of "{keyword}" is {kind(node)}; it must be a string',
            advice="put the whole command in quotes (a colon and a space make it a mapping)"
            if isinstance(node.value, dict)
            else "put it in quotes",
        )
    if level >= MAX_SCRIPT_LEVELS:
        raise wrong(node, f'"{keyword}" is nested more than {MAX_SCRIPT_LEVELS} levels deep')
    return [command for item in node.value for command in _flat(item, keyword, level + 1)]


def _check_overrides(overrides: Mapping[str, str]) -> None:
    for name, value in overrides.items():
        problem = ci_variables.name_problem(name)
        if problem or "\0" in value:
            raise UsageError(f"--variable: {problem or f'{name} has a NUL character'}")
