"""Variables of .gitlab-ci.yml: which values are allowed, and how they refer to each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import JobError
from .values import Date, Node, kind, wrong

# The limit of execve(2) for one environment string, MAX_ARG_STRLEN: 32 pages, with "NAME=" and the final NUL.
MAX_VALUE_BYTES = 128 * 1024
# All together: of more, execve(2) leaves no room for arguments (a quarter of the usual stack).
MAX_TOTAL_BYTES = 2 * 1024 * 1024
# bash(1), "Shell Variables": setting one of these is an error, which would end the job before its first command.
READ_ONLY = frozenset({"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"})

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# A reference as the runner's language (Go, os.Expand) reads it: a name in braces, a special character of the shell, or
# a name. An unclosed brace is dropped, a dollar before anything else stays.
_REFERENCE = re.compile(r"\$(?:\{([^}]*)\}|(\{)|([*#$@!?\-0-9])|([A-Za-z_][A-Za-z0-9_]*))")


# A reference as GitLab's server reads it before the runner does (Variables::Collection::Item::VARIABLES_REGEXP); $$ and
# %% stay for the runner.
_WORD = r"([A-Za-z_][A-Za-z0-9_]*)"
_SERVER_REFERENCE = re.compile(rf"\$\$|%%|\${_WORD}|\${{{_WORD}}}|%{_WORD}%")


class Variable(NamedTuple):
    """A variable's text; with ``raw`` its references are not expanded."""

    value: str
    raw: bool = False
    node: Node | None = None


def literal(text: str) -> Variable:
    """Return a variable that has exactly this text."""
    return Variable(text, raw="$" in text or "%" in text)


def parse(node: Node) -> dict[str, Variable]:
    """Return the variables in the mapping ``node``; raises JobError for a name or value that GitLab or bash refuses.

    A value is a string or a whole number, or a mapping of value, description, options and expand. Nothing and false are
    an empty text, as on GitLab (its ComposableHash).
    """
    if node.value is None:
        return {}
    if not isinstance(node.value, dict):
        raise wrong(node, f'"variables" is {kind(node)}, it must be a mapping')
    return {name: _variable(name, item) for name, item in node.value.items()}


def _variable(name: str, node: Node) -> Variable:
    problem = name_problem(name)
    if problem:
        raise wrong(node, problem)
    if node.value is None or node.value is False:
        return Variable("", node=node)
    if not isinstance(node.value, dict):
        return Variable(_text(name, node), node=node)
    parts = node.value
    for key in parts:
        if key not in {"value", "description", "expand", "options"}:
            raise wrong(parts[key], f'the variable {name} has an unknown key "{key}"')
    expand = parts.get("expand")
    if expand and not isinstance(expand.value, bool):
        raise wrong(expand, f'"expand" of the variable {name} must be true or false')
    value = parts.get("value")
    text = "" if value is None or value.value is None else _text(name, value)
    return Variable(text, raw=expand is not None and not expand.value, node=node)


def name_problem(name: str) -> str:
    """Return what is wrong with ``name`` as a variable in a bash script, or an empty string."""
    if not _NAME.fullmatch(name):
        return f'"{name}" cannot be the name of a variable: use letters, digits and _'
    return f"the variable {name} is read-only in bash" if name in READ_ONLY else ""


def _text(name: str, node: Node) -> str:
    value = node.value
    if isinstance(value, str):
        if "\0" in value:
            raise wrong(node, f"the variable {name} has a NUL character, which no variable can hold")
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    quotes = isinstance(value, (bool, float, Date))
    raise wrong(
        node,
        f"the variable {name} is {kind(node)}; GitLab takes only strings and whole numbers",
        advice="put it in quotes" if quotes else "",
    )


def expand(text: str, values: Mapping[str, str]) -> str:
    """Return ``text`` with ``$NAME``, ``${NAME}`` and ``$$`` replaced; unknown variables become empty."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[3] or match[4] or ""
        return "$" if name == "$" else values.get(name, "")

    return _REFERENCE.sub(value, text)


def references(text: str) -> list[str]:
    """Return the names that ``text`` refers to."""
    found = (match[1] or match[2] or match[3] for match in _SERVER_REFERENCE.finditer(text))
    return [name for name in found if name]


def expand_existing(text: str, values: Mapping[str, str]) -> str:
    """Return ``text`` with references to ``values`` replaced, as GitLab's server does; all others stay."""

    def value(match: re.Match[str]) -> str:
        return values.get(match[1] or match[2] or match[3] or "", match[0])

    return _SERVER_REFERENCE.sub(value, text)


def expanded(*layers: Mapping[str, Variable]) -> dict[str, str]:
    """Return the values of the variables in ``layers``, of which later ones win, with their references expanded.

    A value may refer to the one of its own name in a lower layer. As on GitLab this is done twice: by the server in the
    order of dependencies, leaving what it does not know and what is raw; then once more by the runner. Source:
    lib/gitlab/ci/variables/collection.rb and sort.rb, and gitlab-runner's common/spec/variables.go. Raises JobError for
    circular references, and for a value longer than an environment can hold.
    """
    items = [(name, variable) for layer in layers for name, variable in layer.items()]
    places: dict[str, list[int]] = {}
    for number, (name, _) in enumerate(items):
        places.setdefault(name, []).append(number)
    raw = {name for name, numbers in places.items() if items[numbers[-1]][1].raw}
    by_server: dict[str, str] = {}
    known: dict[str, str] = {}  # without the raw ones, which only the runner puts in
    total = 0
    for number in _sorted(items, places):
        name, variable = items[number]
        by_server[name] = variable.value if variable.raw else expand_existing(variable.value, known)
        total = _checked_total(total, name, variable, by_server[name])
        if name not in raw:
            known[name] = by_server[name]
    done = {}
    total = 0
    for name, numbers in places.items():
        variable = items[numbers[-1]][1]
        done[name] = by_server[name] if variable.raw else expand(by_server[name], by_server)
        total = _checked_total(total, name, variable, done[name])
    return done


def _sorted(items: list[tuple[str, Variable]], places: Mapping[str, list[int]]) -> list[int]:
    """Return the numbers of ``items``, each after those that it refers to; raises JobError for a circle."""
    order: list[int] = []
    done: set[int] = set()
    for first in range(len(items)):
        # A path of numbers, not recursion: a thousand variables may form one chain.
        path = {first: iter(_needs(items[first][1], places))} if first not in done else {}
        while path:
            current = next(reversed(path))
            needed = next((each for each in path[current] if each != current and each not in done), None)
            if needed is None:
                done.add(current)
                order.append(current)
                del path[current]
            elif needed in path:
                numbers = list(path)
                circle = " → ".join(items[each][0] for each in (*numbers[numbers.index(needed) :], needed))
                raise _error(items[current][1], f"variables refer to each other in a circle: {circle}")
            else:
                path[needed] = iter(_needs(items[needed][1], places))
    return order


def _needs(variable: Variable, places: Mapping[str, list[int]]) -> list[int]:
    if variable.raw:
        return []
    return [number for name in references(variable.value) for number in places.get(name, ())]


def _checked_total(before: int, name: str, variable: Variable, value: str) -> int:
    """Return the bytes of the environment with this variable; raises JobError where it or all are too long."""
    length = len(value.encode(errors="surrogateescape")) + len(name) + 2
    if length > MAX_VALUE_BYTES:
        raise _error(variable, f"the variable {name} is longer than {MAX_VALUE_BYTES // 1024} KiB")
    if before + length > MAX_TOTAL_BYTES:
        raise _error(variable, f"with {name} the variables are longer than {MAX_TOTAL_BYTES >> 20} MiB together")
    return before + length


def _error(variable: Variable, what: str) -> JobError:
    return wrong(variable.node, what) if variable.node else JobError(what)
