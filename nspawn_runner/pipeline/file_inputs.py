"""``spec:inputs`` of a file, the values given to them, and ``$[[ inputs.name ]]`` in what follows.

Source: https://docs.gitlab.com/ci/inputs/ and lib/gitlab/ci/config/interpolation.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from . import expression
from . import variables as ci_variables
from .expression import ExpressionError
from .linear_regex import Regex
from .regex_syntax import RegexError
from .values import Budget, Node, Reference, Value, kind, wrong

MAX_BLOCK_LENGTH = 1024
MAX_FUNCTIONS = 3
MAX_TEXT = 1_000_000  # GitLab's limit for a text with inputs in it
_CHARACTERS_OF_A_VALUE = 100  # a longer text counts as several values

_BLOCK = re.compile(r"\$\[\[(.{1,1024}?)\]\]", re.DOTALL)
_TRUNCATE = re.compile(r"truncate\(\s*(\d{1,9})\s*,\s*(\d{1,9})\s*\)")
_KEYS = frozenset({"default", "description", "options", "regex", "type", "rules"})
_TYPES = ("string", "number", "boolean", "array")


def values(header: Node, given: Mapping[str, Node], where: Node, *, from_text: bool) -> dict[str, Node]:
    """Return the value of each input of the file with ``header``; ``where`` gives them.

    With ``from_text`` they come from a command line: numbers, true, false and JSON lists are read from text. Raises
    JobError for a value that is missing, unknown, or not of its input's type.
    """
    declared = _declared(header)
    for name, node in given.items():
        if name not in declared:
            raise wrong(node, f'there is no input "{name}"', facts=f"inputs: {', '.join(declared) or 'none'}")
    found: dict[str, Node] = {}
    for name, entry in declared.items():
        found[name] = _value(name, entry, given.get(name), found, where, from_text=from_text)
    return found


def _declared(header: Node) -> dict[str, dict[str, Node]]:
    spec = header.value.get("spec") if isinstance(header.value, dict) else None
    parts = spec.value if spec is not None else None
    if spec is None or parts is None:
        return {}
    if not isinstance(parts, dict):
        raise wrong(spec, f'"spec" is {kind(spec)}; it must be a mapping')
    listed = parts.get("inputs")
    if listed is None or listed.value is None:
        return {}
    if not isinstance(listed.value, dict):
        raise wrong(listed, f'"spec: inputs" is {kind(listed)}; it must be a mapping')
    found = {}
    for name, node in listed.value.items():
        if node.value is not None and not isinstance(node.value, dict):
            raise wrong(node, f'the input "{name}" is {kind(node)}; it must be a mapping')
        entry = dict(node.value or {})
        for key, part in entry.items():
            if key not in _KEYS:
                raise wrong(part, f'the input "{name}" has an unknown keyword "{key}"')
        found[name] = entry
    return found


def _value(
    name: str, entry: dict[str, Node], given: Node | None, others: Mapping[str, Node], where: Node, *, from_text: bool
) -> Node:
    wanted = str(entry["type"].value) if "type" in entry else "string"
    if wanted not in _TYPES:
        raise wrong(entry["type"], f'the input "{name}" has an unknown type; use {", ".join(_TYPES)}')
    entry = {**entry, **_by_rule(name, entry, others)}
    value = given if given is not None else entry.get("default")
    if value is None or (given is None and value.value is None):
        raise wrong(where, f'the input "{name}" has no value', advice=f"on the command line: --input {name}=…")
    if given is not None and from_text:
        value = value._replace(value=_from_text(str(value.value), wanted, value))
    fits = {
        "string": isinstance(value.value, str),
        "number": isinstance(value.value, (int, float)) and not isinstance(value.value, bool),
        "boolean": isinstance(value.value, bool),
        "array": isinstance(value.value, list),
    }
    if not fits[wanted]:
        raise wrong(value, f'the input "{name}" is {kind(value)}; its type is {wanted}')
    options = entry.get("options")
    listed = options.value if options is not None and isinstance(options.value, list) else None
    if listed is not None and not any(plain(option) == plain(value) for option in listed):
        raise wrong(value, f'the input "{name}" must be one of: {", ".join(_text(each) for each in listed)}')
    regex = entry.get("regex")
    if regex is not None and isinstance(value.value, str) and not _matches(regex, value.value):
        raise wrong(value, f'the input "{name}" does not match {regex.value}')
    return value


def _by_rule(name: str, entry: dict[str, Node], others: Mapping[str, Node]) -> dict[str, Node]:
    """Return the options and default of the first of the input's ``rules`` that applies to the inputs before it."""
    rules = entry.get("rules")
    for rule in rules.value if rules is not None and isinstance(rules.value, list) else []:
        if not isinstance(rule.value, dict):
            raise wrong(rule, f'a rule of the input "{name}" is {kind(rule)}; it must be a mapping')
        condition = rule.value.get("if")
        known = {each: node.value if isinstance(node.value, bool) else _text(node) for each, node in others.items()}
        if condition is None or _holds(condition, known):
            return {key: node for key, node in rule.value.items() if key in {"options", "default"}}
    return {}


def _holds(condition: Node, known: Mapping[str, str | bool]) -> bool:
    if not isinstance(condition.value, str):
        raise wrong(condition, f'"if" of an input is {kind(condition)}; it must be an expression')
    try:
        tree = expression.parse(condition.value)
    except ExpressionError as error:
        raise wrong(condition, f'"if" of an input is no expression: {error}') from None
    return expression.is_true(tree, {f"inputs.{name}": value for name, value in known.items()})


def _matches(regex: Node, text: str) -> bool:
    pattern = str(regex.value)
    slashed = re.fullmatch(r"/(.*)/([imsU]*)", pattern, re.DOTALL)
    try:
        return Regex(*((slashed[1], slashed[2]) if slashed else (pattern, ""))).found_in(text)
    except RegexError as error:
        raise wrong(regex, f"the regular expression of an input cannot be used: {error}") from None


def _from_text(text: str, wanted: str, node: Node) -> Value:
    if wanted == "boolean" and text in {"true", "false"}:
        return text == "true"
    if wanted == "number" and re.fullmatch(r"-?\d{1,15}(\.\d{1,15})?", text):
        return float(text) if "." in text else int(text)
    if wanted == "array":
        try:
            return as_node(json.loads(text), node).value
        except (ValueError, RecursionError):
            raise wrong(node, "a list is given as JSON", advice='such as --input names=["a","b"]') from None
    return text


def as_node(value: Any, at: Node, level: int = 0) -> Node:
    """Return ``value``, as JSON has it, as a node at the place of ``at``; raises JobError if it is nested too deep."""
    if level > 20:
        raise wrong(at, "a value is nested more than 20 levels deep")
    if isinstance(value, dict):
        return at._replace(value={str(key): as_node(item, at, level + 1) for key, item in value.items()})
    if isinstance(value, list):
        return at._replace(value=[as_node(item, at, level + 1) for item in value])
    return at._replace(value=value)


def plain(node: Node) -> Any:
    """Return the value of ``node`` as JSON has it."""
    if isinstance(node.value, list):
        return [plain(item) for item in node.value]
    if isinstance(node.value, dict):
        return {key: plain(item) for key, item in node.value.items()}
    if isinstance(node.value, tuple):
        return " ".join(str(part) for part in node.value)
    return node.value


def _text(node: Node) -> str:
    return node.value if isinstance(node.value, str) else json.dumps(plain(node))


def interpolated(node: Node, known: Mapping[str, Node], variables: Mapping[str, str], budget: Budget) -> Node:
    """Return ``node`` with every ``$[[ … ]]`` in its texts and keys replaced; raises JobError for an unknown one.

    A text that is nothing but one block becomes the input's value, of whatever type.
    """
    budget.spend(1, node)
    value = node.value
    if isinstance(value, list):
        return node._replace(value=[interpolated(item, known, variables, budget) for item in value])
    if isinstance(value, dict):
        return node._replace(
            value={
                _filled(key, item, known, variables, budget): interpolated(item, known, variables, budget)
                for key, item in value.items()
            }
        )
    if isinstance(value, Reference):
        path = tuple(_filled(part, node, known, variables, budget) for part in value.path)
        return node._replace(value=Reference(path))
    if not isinstance(value, str) or "$[[" not in value:
        return node
    whole = _BLOCK.fullmatch(value.strip())
    if whole and "]]" not in whole[1]:
        found = _block(whole[1], node, known, variables)
        budget.spend(found.size, node)
        return found._replace(file=node.file, line=node.line)
    return node._replace(value=_filled(value, node, known, variables, budget))


def _filled(text: str, node: Node, known: Mapping[str, Node], variables: Mapping[str, str], budget: Budget) -> str:
    if "$[[" not in text:
        return text
    if len(text) > MAX_TEXT:
        raise wrong(node, "a text with inputs in it is longer than 1 MB")
    filled = _BLOCK.sub(lambda block: _text(_block(block[1], node, known, variables)), text)
    if len(filled) > MAX_TEXT:
        raise wrong(node, "a text with inputs in it becomes longer than 1 MB")
    budget.spend(len(filled) // _CHARACTERS_OF_A_VALUE, node)
    return filled


def _block(inside: str, node: Node, known: Mapping[str, Node], variables: Mapping[str, str]) -> Node:
    access, *functions = (part.strip() for part in inside.split("|"))
    name = access.removeprefix("inputs.")
    if name == access or name not in known:
        raise wrong(node, f"$[[ {access} ]] stands for nothing", facts=f"inputs: {', '.join(known) or 'none'}")
    if len(functions) > MAX_FUNCTIONS:
        raise wrong(node, f"$[[ {access} ]] has more than {MAX_FUNCTIONS} functions")
    value = known[name]
    for function in functions:
        if not isinstance(value.value, str):
            raise wrong(node, f'the function "{function}" takes only a string')
        value = value._replace(value=_applied(function, value.value, node, variables))
    return value


def _applied(function: str, text: str, node: Node, variables: Mapping[str, str]) -> str:
    if function == "expand_vars":
        return ci_variables.expand_existing(text, variables)
    if function in {"posix_escape", "posix_quote"}:
        return shlex.quote(text)
    bounds = _TRUNCATE.fullmatch(function)
    if bounds is None:
        raise wrong(node, f'the function "{function}" is not known here')
    return text[int(bounds[1]) : int(bounds[1]) + int(bounds[2])]
