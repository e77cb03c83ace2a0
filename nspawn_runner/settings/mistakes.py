"""Mistakes in the settings file and on the command line: where they are, and what was probably meant."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

# A single value over more lines than this is not looked into.
_MOST_LINES = 200


def told(content: str, problems: Iterable[tuple[str, str]]) -> str:
    """Return all ``problems`` (dotted key, what is wrong) of the TOML text ``content`` in one line, in its order."""
    found = lines_of_keys(content)
    placed = [(found.get(key, 0), f"{key}: {text}") for key, text in problems]
    placed.sort(key=lambda problem: problem[0] or len(content))
    return "; ".join(f"line {line}: {text}" if line else text for line, text in placed)


def no_such(key: str, known: Collection[str], elsewhere: Sequence[str] = ()) -> str:
    """Say that there is no setting ``key``, and which of ``known`` or, in full, of ``elsewhere`` may be meant."""
    from difflib import get_close_matches

    lost = [name for name in elsewhere if name.rpartition(".")[2] == key]
    if lost:
        table = lost[0].rpartition(".")[0]
        return f"no such setting here ({key} stands {f'under [{table}]' if table else 'above the first [table]'})"
    close = get_close_matches(key, known, n=1)
    return f"no such setting ({f'did you mean {close[0]}?' if close else 'there are ' + ', '.join(known)})"


def meant(words: Iterable[str], known: Collection[str]) -> str:
    """Return a question for the first of ``words`` that is not ``known`` but close to one that is, or nothing."""
    from difflib import get_close_matches

    for word in words:
        name = word.partition("=")[0]
        if name not in known and (close := get_close_matches(name, known, n=1)):
            return f"did you mean {close[0]}? "
    return ""


def lines_of_keys(content: str) -> dict[str, int]:
    """Return dotted key → line of valid TOML text; keys that are not to be told apart have line 0.

    The tables of an array are numbered from 1, as in ``policy.2.images``. tomllib tells no lines. But a statement is
    valid TOML by itself as soon as it is whole, and not before: so each is read alone.
    """
    found: dict[str, int] = {}
    arrays: dict[str, int] = {}
    table = ""
    statement: list[str] = []
    for number, line in enumerate(content.split("\n"), 1):
        statement.append(line + "\n")
        begun = number - len(statement) + 1
        try:
            data = tomllib.loads("".join(statement))
        except tomllib.TOMLDecodeError:
            if len(statement) > _MOST_LINES:
                break
            continue
        if statement[0].lstrip().startswith("["):
            table = _header(data, arrays)
            found.setdefault(table, begun)
        else:
            _note(data, table, begun, found)
        statement = []
    return found


def _header(data: Mapping[str, Any], arrays: dict[str, int]) -> str:
    """Return the dotted key of the table that a header opens, counting the tables of arrays."""
    path = ""
    node: Any = data
    while node:
        (key, node), *_ = node.items()
        path = f"{path}.{key}" if path else key
        if isinstance(node, list):
            arrays[path] = arrays.get(path, 0) + 1
            node = node[0]
        if path in arrays:
            path = f"{path}.{arrays[path]}"
    return path


def _note(node: Any, path: str, line: int, found: dict[str, int]) -> None:
    """Note the line of each key in ``node``, in tables and lists of tables too."""
    if isinstance(node, list):
        items = [(str(number), item) for number, item in enumerate(node, 1) if isinstance(item, dict)]
    else:
        items = list(node.items()) if isinstance(node, dict) else []
    for key, value in items:
        name = f"{path}.{key}" if path else key
        found[name] = line if name not in found or isinstance(value, dict) else 0
        _note(value, name, line, found)
