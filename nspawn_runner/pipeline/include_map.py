"""Folders that stand in for what files include from elsewhere: other projects, URLs, templates, components."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import UsageError, printable
from ..host import owners

FILE = ".config/nspawn-runner/exec.toml"
MAX_FILE_BYTES = 256 * 1024


class MappedFolder(NamedTuple):
    """What begins with ``prefix`` is looked for in ``folder``."""

    prefix: str
    folder: str


class Elsewhere(NamedTuple):
    """What a file includes from elsewhere: as shown to people, and as the places where it can be.

    ``project`` is the part of each place that names its project: includes in it that are local start there.
    """

    shown: str
    places: tuple[str, ...]
    project: str = ""


class Place(NamedTuple):
    """A file of a mapped folder ``within``: the folder where its project starts, and its path in that."""

    root: str
    path: str
    within: str


def parse(given: Sequence[str]) -> tuple[MappedFolder, ...]:
    """Return the folders given as PREFIX=FOLDER; raises UsageError for one without = or that does not exist."""
    found = []
    for text in given:
        prefix, equals, folder = text.partition("=")
        if not equals or not prefix.strip("/") or not folder:
            raise UsageError(f"--include-map takes PREFIX=FOLDER, not '{printable(text, 60)}'")
        found.append(_mapped(prefix, os.path.abspath(folder)))
    return tuple(found)


def of_user(home: str) -> tuple[MappedFolder, ...]:
    """Return the folders that the section [include_map] of the user's own file names; raises UsageError."""
    path = os.path.join(home, FILE)
    try:
        with owners.acting_as(owners.of(os.path.realpath(home))), open(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES)
    except OSError:
        return ()
    try:
        table = tomllib.loads(content.decode()).get("include_map", {})
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        raise UsageError(f"{path}: [include_map] must give each PREFIX a folder, as a string")
    return tuple(_mapped(prefix, os.path.join(home, os.path.expanduser(value))) for prefix, value in table.items())


def _mapped(prefix: str, folder: str) -> MappedFolder:
    if not os.path.isdir(folder):
        raise UsageError(f"there is no folder {folder}", facts=f"for what begins with {printable(prefix, 100)}")
    return MappedFolder(prefix.strip("/"), os.path.realpath(folder))


def places(wanted: Elsewhere, mapped: Sequence[MappedFolder]) -> list[Place]:
    """Return where ``wanted`` may be, the longest prefix first."""
    found = []
    for prefix, folder in sorted(mapped, key=lambda each: -len(each.prefix)):
        for place in wanted.places:
            if place == prefix or place.startswith(f"{prefix}/"):
                rest = place[len(prefix) :].strip("/")
                top = wanted.project[len(prefix) :].strip("/") if wanted.project.startswith(prefix) else ""
                inside = rest[len(top) :].strip("/") if top and rest.startswith(top) else rest
                if inside and ".." not in rest.split("/") and "\0" not in rest:
                    found.append(Place(os.path.join(folder, top) if inside != rest else folder, inside, folder))
    return found
