"""Variables of .gitlab-ci.yml: which values are allowed, and how they refer to each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import JobError
from .values import Date, Node, kind, wrong

# The limit of execve(2) for one environment string, MAX_ARG_STRLEN: 32 pages, with "NAME=" and the final NUL.
MAX_VALUE_BYTES = 128 * 1024
# bash(1), "Shell Variables": setting one of these is an error, which would end the job before its first command.
READ_ONLY = frozenset({"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"})

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# A reference as the runner's language (Go, os.Expand) reads it: a name in braces, a special character of the shell, or
# a name. An unclosed brace is dropped, a dollar before anything else stays.
_REFERENCE = re.compile(r"\$(?:\{([^}]*)\}|(\{)|([*#$@!?\-0-9])|([A-Za-z_][A-Za-z0-9_]*))")


class Variable(NamedTuple):
    """A variable's text; with ``raw`` its references are not expanded."""

    value: str
    raw: bool = False
    node: Node | None = None


def parse(node: Node) -> dict[str, Variable]:
    """Return the variables in the mapping ``node``; raises JobError for a name or value that GitLab or bash refuses.

    A value is a string or a whole number, or a mapping of value, description, options and expand.
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


def expanded(variables: Mapping[str, Variable]) -> dict[str, str]:
    """Return the values of ``variables`` with their references to each other expanded, in the same order.

    Raises JobError for circular references, and for a value longer than an environment can hold.
    """
    done: dict[str, str] = {}
    for first in variables:
        # A path of names, not recursion: a thousand variables may form one chain.
        path = [first]
        while path:
            name = path[-1]
            variable = variables[name]
            needed = next((other for other in _needs(variable) if other in variables and other not in done), None)
            if needed is None:
                done[name] = variable.value if variable.raw else expand(variable.value, done)
                _check_length(name, variable, done[name])
                path.pop()
            elif needed in path:
                circle = " → ".join((*path[path.index(needed) :], needed))
                raise _error(variable, f"variables refer to each other in a circle: {circle}")
            else:
                path.append(needed)
    return {name: done[name] for name in variables}


def _needs(variable: Variable) -> list[str]:
    return [] if variable.raw else [match[1] or match[4] or "" for match in _REFERENCE.finditer(variable.value)]


def _check_length(name: str, variable: Variable, value: str) -> None:
    if len(value.encode(errors="surrogateescape")) + len(name) + 2 > MAX_VALUE_BYTES:
        raise _error(variable, f"the variable {name} is longer than {MAX_VALUE_BYTES // 1024} KiB")


def _error(variable: Variable, what: str) -> JobError:
    return wrong(variable.node, what) if variable.node else JobError(what)
