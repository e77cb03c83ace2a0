"""Make a job of the merged file ready to run: what it inherits, what its rules say, its variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..errors import JobError
from . import environments, job_options, job_parts, matrix, only_except, predefined_names, rules
from . import keywords as ci_keywords
from . import variables as ci_variables
from .ci_job import CiJob
from .event import Event
from .extends import Resolver
from .matrix import Instance
from .rules import RulesOutcome
from .values import Node, UnknownName, kind, wrong
from .variables import Variable

DEFAULT_STAGE = "test"


class Wanted(NamedTuple):
    """Tells which keys are inherited: those in ``names``, or all if it is None."""

    names: frozenset[str] | None

    def __call__(self, key: str) -> bool:
        return self.names is None or key in self.names


class Surroundings(NamedTuple):
    """What a job meets in its run: the event, and variables from around the file.

    ``predefined`` are below those of the file, ``given`` above them; ``workflow`` are those of workflow:rules.
    ``handed_on`` are variables of other jobs, above the file's; before those ran, ``is_early``, an image may still lack
    one. ``image`` replaces the file's. Without ``event`` no rule is evaluated.
    """

    event: Event | None = None
    predefined: Mapping[str, str] = {}
    given: Mapping[str, str] = {}
    workflow: Mapping[str, Variable] = {}
    has_workflow_rules: bool = False
    image: str | None = None
    handed_on: Mapping[str, str] = {}
    is_early: bool = False


def read(resolver: Resolver, instance: Instance, around: Surroundings) -> CiJob:
    """Return the job ``instance``, ready to run; raises JobError with file and line for a mistake.

    Only what this job uses is checked.
    """
    job = _with_matrix(keywords_of(resolver, instance.base), instance)
    ignored = ci_keywords.check_job(instance.base, job)
    inherited = _inherited(resolver, job)
    ignored += tuple(key for key in ci_keywords.check_default(inherited, inherited) if key not in job)
    full = _over(inherited, job)

    stage = stage_of(job)
    layers = _layers(resolver, job, instance, stage, around)
    outcome = _outcome(instance.base, job, layers, around)
    # A rule's variables are above the job's own; what other jobs hand on is not known when rules are evaluated.
    predefined, own, given = layers
    given = {**{key: ci_variables.literal(text) for key, text in around.handed_on.items()}, **given}
    values = ci_variables.expanded(predefined, {**own, **outcome.variables}, given)
    for_environment = environments.variables(full.get("environment"), values)
    values = ci_variables.expanded(
        {**predefined, **{key: ci_variables.literal(text) for key, text in for_environment.items()}},
        {**own, **outcome.variables},
        given,
    )
    asked, details = job_parts.image(full.get("image"))
    image = around.image
    problem = ""
    if image is None and asked is not None:
        try:
            image = job_parts.image_name(asked, values)
        except JobError as error:
            if not around.is_early:
                raise
            problem = error.what
    if image is not None:
        values = {"CI_JOB_IMAGE": image, **values}
    script = job_parts.commands(job.get("script"), "script")
    if not any(script):
        where = job["script"] if "script" in job else resolver.root[instance.base]
        raise UnknownName(wrong(where, f'the job "{instance.base}" has no script').what)
    before = job_parts.commands(full.get("before_script"), "before_script")
    after = job_parts.commands(full.get("after_script"), "after_script")
    unset = predefined_names.unset((*before, *script, *after), values)
    needs, missing = job_options.needs(outcome.needs or job.get("needs"))
    allowed = job_options.allow_failure(job) or job_options.AllowedFailure(job_options.when(job) == "manual")
    retry = job_options.retry(full.get("retry"))
    return CiJob(
        name=instance.name,
        stage=stage,
        image=image,
        services=job_parts.services(full.get("services"), values),
        variables=tuple(values.items()),
        before_script=before,
        script=script,
        after_script=after,
        ignored=(*ignored, *details),
        warnings=(*(text for key, text in ci_keywords.TOLD.items() if full.get(key)), *missing, *unset),
        when=outcome.when or job_options.when(job),
        allow_failure=allowed.any if outcome.allow_failure is None else outcome.allow_failure,
        allowed_codes=allowed.codes if outcome.allow_failure is None else frozenset(),
        needs=needs,
        dependencies=job_options.dependencies(job.get("dependencies")),
        artifacts=job_options.artifacts(full.get("artifacts")),
        retry=retry.most,
        retry_when=retry.when,
        timeout_seconds=job_options.timeout(full.get("timeout")),
        problem=problem,
    )


def _with_matrix(job: dict[str, Node], instance: Instance) -> dict[str, Node]:
    """Return the keywords with ``$[[ matrix.NAME ]]`` in ``needs`` replaced by the values of this job of a matrix."""
    if not instance.variables or "needs" not in job:
        return job
    return {**job, "needs": matrix.filled(job["needs"], instance.variables)}


def keywords_of(resolver: Resolver, name: str) -> dict[str, Node]:
    """Return the keywords of the job ``name``, with all that it extends and refers to."""
    job = resolver.job(name)
    if not isinstance(job.value, dict):
        raise wrong(job, f'the job "{name}" is {kind(job)}; it must be a mapping')
    return job.value


def whole(resolver: Resolver, name: str) -> dict[str, Node]:
    """Return the keywords of the job ``name`` with those that it inherits from ``default``."""
    job = keywords_of(resolver, name)
    return _over(_inherited(resolver, job), job)


def _over(inherited: Mapping[str, Node], job: Mapping[str, Node]) -> dict[str, Node]:
    return {**inherited, **{key: node for key, node in job.items() if node.value is not None}}


def stage_of(job: Mapping[str, Node]) -> str:
    """Return the stage of the job; ``type`` is its old name."""
    for key in ("stage", "type"):
        if _is_set(job, key):
            return job_parts.text(job[key], key)
    return DEFAULT_STAGE


def root_variables(resolver: Resolver) -> dict[str, Variable]:
    """Return the variables at the top level; raises JobError."""
    return ci_variables.parse(resolver.entry("variables")) if "variables" in resolver.root else {}


def texts(*layers: Mapping[str, Variable]) -> dict[str, str]:
    """Return the variables in ``layers`` as conditions see them: not expanded, as on GitLab."""
    return {name: variable.value for layer in layers for name, variable in layer.items()}


def _layers(
    resolver: Resolver, job: Mapping[str, Node], instance: Instance, stage: str, around: Surroundings
) -> tuple[dict[str, Variable], dict[str, Variable], dict[str, Variable]]:
    """Return the predefined variables, those of the file, and the given ones."""
    of_job = environments.of_job(instance.name, stage, instance.number, instance.total)
    predefined = {key: ci_variables.literal(text) for key, text in {**around.predefined, **of_job}.items()}
    wanted = _inherit(job, "variables")
    everywhere = {**root_variables(resolver), **around.workflow}
    own = {name: variable for name, variable in everywhere.items() if wanted(name)}
    own |= ci_variables.parse(job["variables"]) if "variables" in job else {}
    for name, text in instance.variables.items():
        problem = ci_variables.name_problem(name)
        if problem:
            raise wrong(job["parallel"], problem)
        own[name] = Variable(text)
    return predefined, own, {key: ci_variables.literal(text) for key, text in around.given.items()}


def _outcome(
    name: str, job: Mapping[str, Node], layers: tuple[Mapping[str, Variable], ...], around: Surroundings
) -> RulesOutcome:
    """Return what the job's rules, or its ``only`` and ``except``, decide about it."""
    if around.event is None:
        return RulesOutcome("")
    known = texts(*layers)
    if _is_set(job, "rules"):
        return rules.evaluate(f'the job "{name}"', job["rules"], around.event, known)
    by_default = not around.has_workflow_rules
    is_in = only_except.included(job, around.event, known, by_default=by_default)
    return RulesOutcome("" if is_in else "never")


def _inherited(resolver: Resolver, job: Mapping[str, Node]) -> dict[str, Node]:
    """Return what the job inherits from ``default`` and from the top-level keywords that act like it."""
    node = resolver.entry("default") if "default" in resolver.root else None
    if node and node.value is not None and not isinstance(node.value, dict):
        raise wrong(node, f'"default" is {kind(node)}; it must be a mapping')
    default = dict(node.value) if node and isinstance(node.value, dict) else {}
    if any(key in default for key in ("script", "trigger")):
        default = {}  # a job of that name
    ci_keywords.check_default(default, ())
    for key in (*ci_keywords.INHERITED, "cache"):
        if _is_set(resolver.root, key):
            if _is_set(default, key):
                raise wrong(
                    resolver.root[key], f'"{key}" is both at the top level and in "default"', advice="keep one"
                )
            default[key] = resolver.entry(key)
    wanted = _inherit(job, "default")
    # As on GitLab, an empty value counts as unset: the inherited one applies.
    return {
        key: node for key, node in default.items() if wanted(key) and not _is_set(job, key) and node.value is not None
    }


def _is_set(keywords: Mapping[str, Node], key: str) -> bool:
    return key in keywords and keywords[key].value is not None


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
