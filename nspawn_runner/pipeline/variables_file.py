"""Variables from a file that a person names: lines of KEY=VALUE (dotenv), or a YAML mapping."""

from __future__ import annotations

import os
import re

from ..errors import UsageError
from ..host import owners
from . import variables as ci_variables
from .values import Budget, Node
from .yaml_reader import MAX_BYTES, parse

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(.*)", re.ASCII)


def read(path: str) -> dict[str, str]:
    """Return the variables in the file ``path``, read as its folder's owner; raises UsageError and JobError.

    A name that ends in .yml or .yaml is read as YAML. In the other form a value may be in quotes, and # begins a
    comment where a line begins with it.
    """
    folder = os.path.dirname(os.path.abspath(path))
    try:
        with owners.acting_as(owners.of(os.path.realpath(folder))), open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise UsageError(f"{path} is larger than {MAX_BYTES >> 20} MiB")
    found = _from_yaml(content, path) if path.endswith((".yml", ".yaml")) else _from_lines(content, path)
    for name, value in found.items():
        problem = ci_variables.name_problem(name)
        if problem or "\0" in value:
            raise UsageError(f"{path}: {problem or f'{name} has a NUL character'}")
    return found


def _from_yaml(content: bytes, path: str) -> dict[str, str]:
    top: Node = parse(content, path, Budget())
    return {name: variable.value for name, variable in ci_variables.parse(top).items()}


def _from_lines(content: bytes, path: str) -> dict[str, str]:
    found = {}
    for number, line in enumerate(content.decode(errors="surrogateescape").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise UsageError(f"{path}:{number}: not KEY=VALUE")
        value = match[2]
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        found[match[1]] = value
    return found
