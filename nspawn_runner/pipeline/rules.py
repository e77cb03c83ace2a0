"""Evaluate ``rules`` of a job, of ``workflow`` and of ``include``: the first rule that applies decides.

Source: https://docs.gitlab.com/ci/yaml/#rules and lib/gitlab/ci/build/rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from . import expression
from . import variables as ci_variables
from .event import Event
from .path_patterns import PathPattern, any_matches
from .regex_syntax import RegexError
from .values import Node, kind, wrong
from .variables import Variable

# GitLab's limits: its Entry::Processable, Clause::Changes and Clause::Exists.
MAX_LEVELS = 10
MAX_CHANGES_COMPARED = 50_000
MAX_FILES_COMPARED = 10_000
MAX_PATTERNS = 50

OF_JOB = frozenset({
    "if", "changes", "exists", "when", "allow_failure", "variables", "needs", "start_in", "interruptible",
})  # fmt: skip
OF_WORKFLOW = frozenset({"if", "changes", "exists", "when", "variables", "auto_cancel"})
OF_INCLUDE = frozenset({"if", "changes", "exists", "when"})
WHEN = frozenset({"on_success", "on_failure", "always", "never", "manual", "delayed"})


class RulesOutcome(NamedTuple):
    """What the first rule that applies says; ``when`` is never if none does, empty if that rule does not say."""

    when: str
    allow_failure: bool | None = None
    variables: Mapping[str, Variable] = {}
    needs: Node | None = None
    rule: Node | None = None


def evaluate(
    owner: str, rules: Node, event: Event, variables: Mapping[str, str], known: frozenset[str] = OF_JOB
) -> RulesOutcome:
    """Return what ``rules`` of ``owner`` decide with these ``variables``; raises JobError for a mistake in any of them.

    ``known`` are the keywords that its rules may have.
    """
    listed = list(_each(owner, rules, 0))
    for rule in listed:
        check(owner, rule, known)
    for rule in listed:
        if _applies(rule, event, variables):
            return _outcome(rule)
    return RulesOutcome("never")


def check(owner: str, rule: Node, known: frozenset[str] = OF_JOB) -> None:
    """Raise JobError if ``rule`` has an unknown keyword or a value that its keyword cannot have."""
    table = _table(rule)
    if not table:
        raise wrong(rule, f"a rule of {owner} is empty")
    for key, node in table.items():
        if key not in known:
            raise wrong(node, f'a rule of {owner} has an unknown keyword "{key}"')
    if "if" in table and table["if"].value is not None:
        _expression(table["if"])
    when = table.get("when")
    if when is not None and when.value not in (WHEN if known is OF_JOB else {"always", "never"}):
        raise wrong(when, f'"when" of a rule of {owner} cannot be {when.value if _is_text(when) else kind(when)}')
    allow = table.get("allow_failure")
    if allow is not None and not isinstance(allow.value, bool):
        raise wrong(allow, f'"allow_failure" of a rule of {owner} must be true or false')
    for key in ("changes", "exists"):
        if key in table:
            _patterns(key, table[key])


def used_variables(rules: Node) -> set[str]:
    """Return the names of the variables in the conditions of ``rules``; of what is no rule none."""
    found: set[str] = set()
    for rule in _each("", rules, 0):
        condition = _table(rule).get("if")
        if condition is not None and isinstance(condition.value, str):
            found |= expression.names(_expression(condition))
    return found


def _each(owner: str, node: Node, level: int) -> Iterator[Node]:
    """Yield the rules; ``!reference`` may have put lists into the list."""
    if isinstance(node.value, list) and level <= MAX_LEVELS:
        for item in node.value:
            yield from _each(owner, item, level + 1)
    elif isinstance(node.value, dict):
        yield node
    elif node.value is not None or level:
        raise wrong(node, f"a rule of {owner} is {kind(node)}; it must be a mapping")


def _table(rule: Node) -> dict[str, Node]:
    return rule.value if isinstance(rule.value, dict) else {}


def _is_text(node: Node) -> bool:
    return isinstance(node.value, str)


def _expression(node: Node) -> expression.Tree:
    if not isinstance(node.value, str):
        raise wrong(node, f'"if" of a rule is {kind(node)}; it must be an expression')
    try:
        return expression.parse(node.value)
    except expression.ExpressionError as error:
        raise wrong(node, f'"if" of a rule is no expression: {error}', facts=node.value) from None


def _applies(rule: Node, event: Event, variables: Mapping[str, str]) -> bool:
    table = _table(rule)
    condition = table.get("if")
    tree = _expression(condition) if condition is not None and condition.value is not None else None
    if tree is not None and not expression.is_true(tree, variables):
        return False
    if "changes" in table and not _changed(table["changes"], event, variables):
        return False
    return "exists" not in table or _exists(table["exists"], event, variables)


def _outcome(rule: Node) -> RulesOutcome:
    table = _table(rule)
    when, allow = table.get("when"), table.get("allow_failure")
    return RulesOutcome(
        str(when.value) if when else "",
        bool(allow.value) if allow else None,
        ci_variables.parse(table["variables"]) if "variables" in table else {},
        table.get("needs"),
        rule,
    )


def _patterns(key: str, node: Node) -> tuple[list[Node], dict[str, Node]]:
    """Return the patterns of ``changes`` or ``exists`` and what stands beside them."""
    beside = dict(node.value) if isinstance(node.value, dict) else {}
    listed = beside.pop("paths", None) if isinstance(node.value, dict) else node
    if listed is None:
        raise wrong(node, f'"{key}" of a rule has no paths')
    if not isinstance(listed.value, list) or not all(_is_text(item) for item in _flat(listed)):
        raise wrong(listed, f'"{key}" of a rule is {kind(listed)}; it must be a list of paths')
    known = {"compare_to"} if key == "changes" else {"project", "ref"}
    for name, other in beside.items():
        if name not in known:
            raise wrong(other, f'"{key}" of a rule has an unknown keyword "{name}"')
    found = _flat(listed)
    if len(found) > MAX_PATTERNS:
        raise wrong(listed, f'"{key}" of a rule has more than {MAX_PATTERNS} paths')
    return found, beside


def _flat(node: Node, level: int = 0) -> list[Node]:
    if isinstance(node.value, list) and level <= MAX_LEVELS:
        return [item for each in node.value for item in _flat(each, level + 1)]
    return [node]


def _compiled(nodes: list[Node], variables: Mapping[str, str]) -> list[PathPattern]:
    found = []
    for node in nodes:
        try:
            found.append(PathPattern(ci_variables.expand_existing(str(node.value), variables)))
        except RegexError as error:
            raise wrong(node, f"the pattern {node.value} cannot be read: {error}") from None
    return found


def _changed(node: Node, event: Event, variables: Mapping[str, str]) -> bool:
    nodes, beside = _patterns("changes", node)
    ref = beside.get("compare_to")
    if ref is not None and not _is_text(ref):
        raise wrong(ref, f'"compare_to" is {kind(ref)}; it must be a branch, a tag or a commit')
    paths = event.changed(ci_variables.expand_existing(str(ref.value), variables) if ref else "")
    if paths is None:
        return True
    return _any(nodes, variables, paths, MAX_CHANGES_COMPARED, node)


def _exists(node: Node, event: Event, variables: Mapping[str, str]) -> bool:
    nodes, beside = _patterns("exists", node)
    if "project" in beside:
        raise wrong(beside["project"], '"exists" asks for files of another project, which are not known here')
    return _any(nodes, variables, event.files(), MAX_FILES_COMPARED, node)


def _any(nodes: list[Node], variables: Mapping[str, str], paths: object, most: int, where: Node) -> bool:
    patterns = _compiled(nodes, variables)
    listed = list(paths) if isinstance(paths, (list, tuple)) else []
    plain = {pattern.plain for pattern in patterns if pattern.plain is not None}
    if any(path in plain for path in listed):
        return True
    try:
        return any_matches([pattern for pattern in patterns if pattern.plain is None], listed, most)
    except RegexError as error:
        raise wrong(where, f"a pattern of a rule cannot be compared: {error}") from None
