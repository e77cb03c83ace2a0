"""A container image's configuration: stored in the image's facts; jobs get its environment.

Source: OCI image specification 1.1, "Image Configuration"; docker writes the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import printable

FACT = "container"
_KEPT = ("Env", "Entrypoint", "Cmd", "WorkingDir", "User", "ExposedPorts", "Volumes", "StopSignal", "Labels")
# Settings that jobs ignore → their names in a Dockerfile.
_TOLD = {"Entrypoint": "ENTRYPOINT", "Cmd": "CMD", "WorkingDir": "WORKDIR", "User": "USER", "Volumes": "VOLUME"}
_MOST_ENVIRONMENT_BYTES = 64 << 10


def kept(configuration: Any) -> dict[str, Any]:
    """Return the parts of an image's configuration that we keep, unchanged; empty if there are none."""
    given = configuration.get("config") if isinstance(configuration, dict) else None
    return {key: given[key] for key in _KEPT if given.get(key)} if isinstance(given, dict) else {}


def variables(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment in the image's ``facts``, without what a shell could not set."""
    return {name: value for name, value in _variables(facts) if _is_name(name, value)}


def command(facts: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the image's entrypoint and command; empty for what is no list of texts."""
    container = facts.get(FACT)
    given = container if isinstance(container, dict) else {}
    lists = [given.get(key) for key in ("Entrypoint", "Cmd")]
    found = [[w for w in each if isinstance(w, str)] if isinstance(each, list) else [] for each in lists]
    return found[0], found[1]


def environment(facts: Mapping[str, Any]) -> str:
    """Return shell commands, one per variable, that set the environment in the image's ``facts``; may be empty."""
    return "".join(_exports(facts).values())


def exports(given: Mapping[str, str]) -> str:
    """Return shell commands that set the variables ``given``, which a shell can set."""
    return "".join(f"export {name}={_quoted(value)}\n" for name, value in given.items())


def left_out(facts: Mapping[str, Any]) -> list[str]:
    """Return the names of the variables that ``environment`` leaves out.

    A shell can only set names of letters, digits and _; together the variables may take 64 KiB.
    """
    exports = _exports(facts)
    return [name for name, _ in _variables(facts) if name not in exports]


def _exports(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the commands that set variables, by name: in order, as many as fit."""
    found, room = {}, _MOST_ENVIRONMENT_BYTES
    for name, value in _variables(facts):
        if _is_name(name, value) and (size := len((line := f"export {name}={_quoted(value)}\n").encode())) <= room:
            found[name] = line
            room -= size
    return found


def _variables(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    container = facts.get(FACT)
    given = container.get("Env") if isinstance(container, dict) else None
    words = [word.partition("=") for word in given if isinstance(word, str)] if isinstance(given, list) else []
    return [(name, value) for name, equals, value in words if equals]


def told(facts: Mapping[str, Any]) -> str:
    """Return one line with the settings of the image that jobs ignore; empty if there are none."""
    container = facts.get(FACT)
    given = container if isinstance(container, dict) else {}
    return ", ".join(f"{word} {printable(_shown(given[key]), 80)}" for key, word in _TOLD.items() if key in given)


def _shown(value: Any) -> str:
    words = list(value) if isinstance(value, (list, dict)) else [value]
    return " ".join(map(str, words))


def _is_name(name: str, value: str) -> bool:
    plain = name.isascii() and name.replace("_", "a").isalnum() and not name[0].isdigit()
    return plain and "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"
