"""The parts of a job that say what runs: its image, its services, its commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import variables as ci_variables
from .values import Node, kind, wrong
from .variables import Variable

MAX_SCRIPT_LEVELS = 10
MAX_SCRIPT_CHARACTERS = 4 * 1024 * 1024  # more than a file can have, unless aliases repeat it


def text(node: Node, keyword: str) -> str:
    if not isinstance(node.value, str) or not node.value:
        raise wrong(node, f'"{keyword}" is {kind(node)}; use a string' if node.value else f'"{keyword}" is empty')
    if "\0" in node.value:
        raise wrong(node, f'"{keyword}" has a NUL character')
    return node.value


def image(node: Node | None) -> tuple[Node | None, tuple[str, ...]]:
    """Return the node of the image's name, unexpanded, and which of its keywords are ignored."""
    if node is None:
        return None, ()
    if not isinstance(node.value, dict):
        text(node, "image")
        return node, ()
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
    text(parts["name"], "image: name")
    return parts["name"], ignored


def image_name(node: Node, values: Mapping[str, str]) -> str:
    """Return the image's name with its variables; raises JobError if one is not set, or if nothing is left."""
    given = text(node, "image")
    unset = [name for name in ci_variables.references(given) if name not in values]
    if unset:
        raise wrong(
            node, f'the image "{given}" needs {unset[0]}, which is not set', advice=f"set it: --variable {unset[0]}=…"
        )
    # A variable may hold another's name: GitLab expands an image's name after its variables.
    name = ci_variables.expand(given, values)
    if not name:
        raise wrong(node, f'the image "{given}" stands for nothing: its variables are empty')
    return name


def services(node: Node | None, values: Mapping[str, str]) -> tuple[Mapping[str, Any], ...]:
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
    found: dict[str, Any] = {"name": ci_variables.expand(text(table["name"], "services: name"), values)}
    if "alias" in table:
        found["alias"] = ci_variables.expand(text(table["alias"], "services: alias"), values)
    for key in ("entrypoint", "command"):
        if key in table:
            found[key] = list(commands(table[key], f"services: {key}"))
    if "variables" in table:
        known = {name: Variable(value, raw=True) for name, value in values.items()}
        own = ci_variables.expanded(known, ci_variables.parse(table["variables"]))
        given = table["variables"].value
        found["variables"] = [
            {"key": name, "value": own[name], "raw": True} for name in (given if isinstance(given, dict) else {})
        ]
    return found


def commands(node: Node | None, keyword: str) -> tuple[str, ...]:
    """Return the commands of a script keyword: a string, or nested lists of strings."""
    if node is None or node.value is None:
        return ()
    found = tuple(_flat(node, keyword, 0))
    if sum(map(len, found)) > MAX_SCRIPT_CHARACTERS:
        raise wrong(node, f'"{keyword}" is longer than {MAX_SCRIPT_CHARACTERS >> 20} MiB')
    for command in found:
        if "\0" in command:
            raise wrong(node, f'"{keyword}" has a NUL character, which no shell can read')
    return found


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
