"""What a container image says of how it is run: kept among the image's facts; jobs get its environment.

Source: OCI image specification 1.1, "Image Configuration"; docker writes the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import printable

FACT = "container"
_KEPT = ("Env", "Entrypoint", "Cmd", "WorkingDir", "User", "ExposedPorts", "Volumes", "StopSignal", "Labels")
# What jobs do not go by, as a Dockerfile calls it.
_TOLD = {"Entrypoint": "ENTRYPOINT", "Cmd": "CMD", "WorkingDir": "WORKDIR", "User": "USER", "Volumes": "VOLUME"}
_MOST_ENVIRONMENT_BYTES = 64 << 10


def kept(configuration: Any) -> dict[str, Any]:
    """Return what is kept of an image's configuration, as it stands there; nothing of one that says nothing."""
    given = configuration.get("config") if isinstance(configuration, dict) else None
    return {key: given[key] for key in _KEPT if given.get(key)} if isinstance(given, dict) else {}


def environment(facts: Mapping[str, Any]) -> str:
    """Return shell commands, one a variable, that set the environment which the image's ``facts`` name; or nothing.

    Left out is what no shell can set: other names than letters, digits and _, and more than 64 KiB in all.
    """
    container = facts.get(FACT)
    given = container.get("Env") if isinstance(container, dict) else None
    pairs = [word.partition("=") for word in given if isinstance(word, str)] if isinstance(given, list) else []
    lines = [f"export {name}={_quoted(value)}\n" for name, equals, value in pairs if equals and _is_name(name, value)]
    text = "".join(lines)
    return text if len(text.encode()) <= _MOST_ENVIRONMENT_BYTES else ""


def told(facts: Mapping[str, Any]) -> str:
    """Return in one line what the image says that jobs do not go by; nothing where it says nothing of that kind."""
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
