"""One entry of ``include``: which files it names, here or elsewhere, with variables in their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from . import variables as ci_variables
from .include_map import Elsewhere
from .values import Node, kind, wrong

KINDS = ("local", "remote", "project", "template", "component", "artifact")
_BESIDE = frozenset({"rules", "inputs", "with", "integrity", "cache", "file", "ref", "job"})


class Included(NamedTuple):
    """A file to include: ``local`` is its path from the project's top, or it is ``elsewhere``.

    ``unset`` are the variables in its name that are not known here.
    """

    node: Node
    local: str = ""
    elsewhere: Elsewhere | None = None
    rules: Node | None = None
    inputs: Node | None = None
    unset: tuple[str, ...] = ()


def entries(include: Node, variables: Mapping[str, str]) -> Iterator[Included]:
    """Yield each file that ``include`` names; raises JobError for an entry that names none."""
    for entry in include.value if isinstance(include.value, list) else [include]:
        if isinstance(entry.value, list):
            yield from entries(entry, variables)
        elif isinstance(entry.value, str):
            yield _short(entry, variables)
        elif isinstance(entry.value, dict):
            yield from _long(entry, entry.value, variables)
        else:
            raise wrong(entry, f"an include is {kind(entry)}; it must be a string or a mapping")


def _short(entry: Node, variables: Mapping[str, str]) -> Included:
    location, unset = _expanded(entry, "an include", variables)
    if "://" in location:
        return Included(entry, elsewhere=_remote(location), unset=unset)
    return Included(entry, local=_path(entry, location, unset), unset=unset)


def _long(entry: Node, parts: Mapping[str, Node], variables: Mapping[str, str]) -> Iterator[Included]:
    kinds = [key for key in parts if key in KINDS]
    for key, node in parts.items():
        if key not in KINDS and key not in _BESIDE:
            raise wrong(node, f'an include has an unknown keyword "{key}"')
    if len(kinds) != 1:
        raise wrong(entry, "an include names no file" if not kinds else f"an include has both {' and '.join(kinds)}")
    what = kinds[0]
    node = parts[what]
    location, unset = _expanded(node, f'"include: {what}"', variables)
    made = Included(node, rules=parts.get("rules"), inputs=parts.get("inputs") or parts.get("with"), unset=unset)
    match what:
        case "local":
            yield made._replace(local=_path(node, location, unset))
        case "project":
            for file, path in _files(entry, parts):
                inner, more = _expanded(file, '"include: file"', variables)
                shown = f"{inner or path} of the project {location}"
                place = f"{location}/{inner.lstrip('/')}"
                yield made._replace(node=file, elsewhere=Elsewhere(shown, (place,), location), unset=(*unset, *more))
        case "remote":
            yield made._replace(elsewhere=_remote(location))
        case "template":
            yield made._replace(elsewhere=Elsewhere(f"the template {location}", (f"template/{location}",), "template"))
        case "component":
            yield made._replace(elsewhere=_component(location))
        case _:
            raise wrong(node, '"include: artifact" is only for child pipelines')


def _files(entry: Node, parts: Mapping[str, Node]) -> list[tuple[Node, str]]:
    if "file" not in parts:
        raise wrong(entry, '"include: project" needs "file"')
    listed = parts["file"].value if isinstance(parts["file"].value, list) else [parts["file"]]
    return [(file, str(file.value)) for file in listed]


def _expanded(node: Node, what: str, variables: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    if not isinstance(node.value, str):
        raise wrong(node, f"{what} is {kind(node)}; it must be a string")
    unset = tuple(name for name in ci_variables.references(node.value) if name not in variables)
    return ci_variables.expand(node.value, variables), unset


def _remote(location: str) -> Elsewhere:
    return Elsewhere(location, (location.partition("?")[0],))


def _component(location: str) -> Elsewhere:
    """Return a component's places in its project: https://docs.gitlab.com/ci/components/#directory-structure."""
    address = location.rpartition("@")[0] or location
    project, _, name = address.rpartition("/")
    files = (f"{project}/templates/{name}.yml", f"{project}/templates/{name}/template.yml")
    return Elsewhere(f"the component {location}", files, project)


def _path(node: Node, location: str, unset: tuple[str, ...]) -> str:
    """Return ``location`` as a path from the top of the project; raises JobError for an invalid one."""
    path = location.lstrip("/")
    if ".." in path.split("/") or "\0" in path:
        raise wrong(node, f'the include "{location}" leads out of the repository')
    if not path.endswith((".yml", ".yaml")) and not (unset and not path):
        raise wrong(node, f'the include "{location}" must end in .yml or .yaml')
    return path
