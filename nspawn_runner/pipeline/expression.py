"""The language of ``rules:if`` and ``only:variables``, as GitLab reads and evaluates it.

Source: lib/gitlab/ci/pipeline/expression and its statement_spec.rb. Only null and false are false inside; as a whole
an empty string is false too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from .linear_regex import Regex
from .regex_syntax import RegexError

MAX_TOKENS = 100  # GitLab's
MAX_LENGTH = 20_000

Result: TypeAlias = "str | bool | Regex | None"

_LEXEMES = (
    ("open", re.compile(r"\(")),
    ("close", re.compile(r"\)")),
    ("input", re.compile(r"\$\[\[\s*inputs\.([\w-]+)\s*\]\]")),
    ("variable", re.compile(r"\$(\w+)")),
    ("string", re.compile(r"\"(.*?)\"|'(.*?)'", re.DOTALL)),
    ("pattern", re.compile(r"/(?:[^/]|(?<=\\)/)+[^\\]/[ismU]*")),
    ("null", re.compile(r"null\b")),
    ("boolean", re.compile(r"(true|false)\b")),
    ("operator", re.compile(r"==|=~|!=|!~|&&|\|\|")),
)
# The higher binds first.
_PRECEDENCE = {"||": 1, "&&": 2, "==": 3, "!=": 3, "=~": 3, "!~": 3}
_PATTERN = re.compile(r"/(.*)/([ismU]*)", re.DOTALL)


class ExpressionError(Exception):
    """The text is no expression of the language."""


class _Token(NamedTuple):
    kind: str
    text: str


class _Leaf(NamedTuple):
    kind: str
    value: Result


class _Branch(NamedTuple):
    operator: str
    left: _Leaf | _Branch
    right: _Leaf | _Branch


Tree: TypeAlias = "_Leaf | _Branch"


def parse(text: str) -> Tree:
    """Return the expression in ``text``, ready for ``is_true``; raises ExpressionError."""
    tokens = _tokens(text)
    tree, rest = _operation(tokens, 0, 1)
    if rest < len(tokens):
        raise ExpressionError(f"{tokens[rest].text} is out of place")
    return tree


def is_true(tree: Tree, variables: Mapping[str, str | bool]) -> bool:
    """Return whether the expression holds with ``variables``; one that cannot be evaluated does not, as on GitLab."""
    try:
        return bool(value(tree, variables))
    except RegexError:
        return False


def value(tree: Tree, variables: Mapping[str, str | bool]) -> Result:
    """Return the value of the expression; raises RegexError for a variable's text that is no valid expression."""
    if isinstance(tree, _Leaf):
        return variables.get(str(tree.value)) if tree.kind == "variable" else tree.value
    left = value(tree.left, variables)
    if tree.operator in {"||", "&&"}:
        decided = _holds(left) == (tree.operator == "||")
        return left if decided else value(tree.right, variables)
    right = value(tree.right, variables)
    holds = _same(left, right) if tree.operator in {"==", "!="} else _matches(left, right)
    return holds if tree.operator in {"==", "=~"} else not holds


def names(tree: Tree) -> set[str]:
    """Return the names of the variables in the expression."""
    if isinstance(tree, _Leaf):
        return {str(tree.value)} if tree.kind == "variable" else set()
    return names(tree.left) | names(tree.right)


def _holds(result: Result) -> bool:
    return result is not None and result is not False


def _same(left: Result, right: Result) -> bool:
    return type(left) is type(right) and left == right


def _matches(text: Result, pattern: Result) -> bool:
    if pattern is None or pattern is False:
        return False
    searched = text if isinstance(text, str) else ""
    if isinstance(pattern, str):
        found = _PATTERN.fullmatch(pattern)
        if not found:
            return searched in pattern  # as GitLab does with a string that is no expression
        pattern = Regex(found[1].replace("\\/", "/"), found[2])
    return isinstance(pattern, Regex) and pattern.found_in(searched)


def _tokens(text: str) -> list[_Token]:
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"it is longer than {MAX_LENGTH} characters")
    found: list[_Token] = []
    position = 0
    while True:
        position += len(text[position:]) - len(text[position:].lstrip())
        if position >= len(text):
            return found
        if len(found) >= MAX_TOKENS:
            raise ExpressionError(f"it has more than {MAX_TOKENS} parts")
        for kind, lexeme in _LEXEMES:
            match = lexeme.match(text, position)
            if match:
                inner = next((group for group in match.groups() if group is not None), match[0])
                found.append(_Token(kind, inner))
                position = match.end()
                break
        else:
            raise ExpressionError(f"nothing known begins at {text[position : position + 20]}")


def _operation(tokens: list[_Token], position: int, level: int) -> tuple[Tree, int]:
    """Return what the operators of ``level`` and above make of the tokens from ``position``, and where it ends."""
    if level > max(_PRECEDENCE.values()):
        return _operand(tokens, position)
    left, position = _operation(tokens, position, level + 1)
    while position < len(tokens) and tokens[position].kind == "operator":
        operator = tokens[position].text
        if _PRECEDENCE[operator] != level:
            break
        right, position = _operation(tokens, position + 1, level + 1)
        left = _Branch(operator, left, right)
    return left, position


def _operand(tokens: list[_Token], position: int) -> tuple[Tree, int]:
    if position >= len(tokens):
        raise ExpressionError("it ends where a value must be")
    kind, text = tokens[position]
    if kind == "open":
        inner, end = _operation(tokens, position + 1, 1)
        if end >= len(tokens) or tokens[end].kind != "close":
            raise ExpressionError("a parenthesis is not closed")
        return inner, end + 1
    values: dict[str, Result] = {"variable": text, "string": text, "null": None, "boolean": text == "true"}
    if kind == "pattern":
        values[kind] = _pattern(text)
    if kind == "input":
        return _Leaf("variable", f"inputs.{text}"), position + 1
    if kind not in values:
        raise ExpressionError(f"{text} is out of place")
    return _Leaf(kind, values[kind]), position + 1


def _pattern(text: str) -> Regex:
    parts = _PATTERN.fullmatch(text)
    try:
        return Regex(parts[1].replace("\\/", "/"), parts[2]) if parts else Regex(text)
    except RegexError as error:
        raise ExpressionError(f"invalid regular expression {text}: {error}") from None
