"""Evaluate ``only`` and ``except``, which say when a job without rules is in a pipeline.

Source: https://docs.gitlab.com/ci/yaml/deprecated_keywords/#only--except and lib/gitlab/ci/build/policy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from . import expression
from .event import Event
from .expression import ExpressionError
from .linear_regex import Regex
from .path_patterns import PathPattern, any_matches
from .regex_syntax import RegexError
from .rules import MAX_CHANGES_COMPARED
from .values import Node, kind, wrong

_KEYS = frozenset({"refs", "variables", "changes", "kubernetes"})
_BY_DEFAULT = ("branches", "tags")
# Words that stand for a pipeline's source: its name without _event, and the plural.
_WORDS = {
    "push": {"push", "pushes"},
    "schedule": {"schedule", "schedules"},
    "web": {"web", "webs"},
    "merge_request_event": {"merge_request", "merge_requests"},
}


def included(job: Mapping[str, Node], event: Event, variables: Mapping[str, str], *, by_default: bool) -> bool:
    """Return whether ``only`` and ``except`` let the job in; raises JobError for a mistake in them.

    ``by_default`` tells whether a job without ``only`` runs for branches and tags alone.
    """
    only, without = _policy("only", job.get("only")), _policy("except", job.get("except"))
    if only is None and by_default:
        only = {}
    if only is not None:
        if not _refs_match(only.get("refs"), _BY_DEFAULT, event):
            return False
        if "kubernetes" in only:
            return False  # there is no cluster
        if not all(_condition(key, only[key], event, variables) for key in ("variables", "changes") if key in only):
            return False
    if without is None:
        return True
    if "refs" in without and _refs_match(without["refs"], (), event):
        return False
    conditions = [key for key in ("variables", "changes") if key in without]
    return not any(_condition(key, without[key], event, variables) for key in conditions)


def _policy(keyword: str, node: Node | None) -> dict[str, Node] | None:
    if node is None or node.value is None:
        return None
    if isinstance(node.value, list):
        return {"refs": node}
    if not isinstance(node.value, dict):
        raise wrong(node, f'"{keyword}" is {kind(node)}; it must be a list or a mapping')
    for key, part in node.value.items():
        if key not in _KEYS:
            raise wrong(part, f'"{keyword}" has an unknown keyword "{key}"')
    return {key: part for key, part in node.value.items() if part.value is not None}


def _texts(node: Node) -> list[tuple[Node, str]]:
    items = node.value if isinstance(node.value, list) else [node]
    found = []
    for item in items:
        if isinstance(item.value, list):
            found += _texts(item)
        elif isinstance(item.value, str):
            found.append((item, item.value))
        else:
            raise wrong(item, f'an entry of "only" or "except" is {kind(item)}; it must be a string')
    return found


def _refs_match(node: Node | None, default: tuple[str, ...], event: Event) -> bool:
    texts = _texts(node) if node is not None else [(Node(None, "", 0), word) for word in default]
    return any(_ref_matches(item, text, event) for item, text in texts)


def _ref_matches(node: Node, text: str, event: Event) -> bool:
    pattern, at, path = text.partition("@") if not text.startswith("/") else (text, "", "")
    if text.startswith("/") and "/@" in text:
        pattern, at, path = text.rpartition("@")
    if at and path != event.project_path:
        return False
    is_branch = not event.is_tag and event.name != "merge_request"
    words = {"tags"} if event.is_tag else {"branches"} if is_branch else set()
    if pattern in words | _WORDS.get(event.source, set()):
        return True
    if not event.is_tag and not is_branch:
        return False  # GitLab compares names of merge requests' branches with nothing
    slashed = re.fullmatch(r"/(.*)/([imsU]*)", pattern, re.DOTALL)
    if not slashed:
        return pattern == event.ref
    try:
        return Regex(slashed[1], slashed[2]).found_in(event.ref)
    except RegexError as error:
        raise wrong(node, f"invalid regular expression {pattern}: {error}") from None


def _condition(key: str, node: Node, event: Event, variables: Mapping[str, str]) -> bool:
    if key == "variables":
        return any(_holds(item, text, variables) for item, text in _texts(node))
    paths = event.changed("")
    if paths is None:
        return True
    try:
        return any_matches([PathPattern(text) for _, text in _texts(node)], paths, MAX_CHANGES_COMPARED)
    except RegexError as error:
        raise wrong(node, f'a pattern of "changes" cannot be read: {error}') from None


def _holds(node: Node, text: str, variables: Mapping[str, str]) -> bool:
    try:
        return expression.is_true(expression.parse(text), variables)
    except ExpressionError as error:
        raise wrong(node, f'"variables" of "only" or "except" has no expression: {error}', facts=text) from None
