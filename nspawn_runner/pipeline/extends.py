"""Resolve ``extends`` and ``!reference`` of a job, with GitLab's limits."""

from __future__ import annotations

from collections.abc import Mapping

from .include import merged
from .values import MAX_DEPTH, Budget, Node, Reference, UnknownName, kind, wrong

# GitLab's limits: https://docs.gitlab.com/ci/yaml/#extends and yaml_optimization, "Nest !reference tags".
MAX_EXTENDS = 11
MAX_REFERENCES = 10


class Resolver:
    """Resolves entries of the top level ``root``: first ``extends``, then references in the result, as GitLab does."""

    def __init__(self, root: Mapping[str, Node], extended: dict[str, Node] | None = None) -> None:
        self.root = root
        self.budget = Budget()
        self.extended: dict[str, Node] = {} if extended is None else extended  # what is known from earlier jobs

    def job(self, name: str) -> Node:
        """Return the mapping of the job ``name`` with ``extends`` and references resolved; raises JobError."""
        return self.resolved(self.extend(name, ()), ())

    def entry(self, name: str) -> Node:
        """Return the existing top-level entry ``name`` with its references resolved; raises JobError."""
        return self.resolved(self.root[name], ())

    def extend(self, name: str, chain: tuple[str, ...]) -> Node:
        """Return the entry ``name`` laid over all that it extends; ``chain`` holds the jobs that led here."""
        if name in self.extended:
            return self.extended[name]
        node = self.root[name]
        if not isinstance(node.value, dict) or "extends" not in node.value:
            return node
        keyword = node.value["extends"]
        chain = (*chain, name)
        result = node._replace(value={})
        for parent in _names(keyword):
            if parent in chain:
                raise wrong(keyword, "jobs extend each other in a circle", facts=" → ".join((*chain, parent)))
            if parent not in self.root:
                raise UnknownName(wrong(keyword, f'"{name}" extends "{parent}", which does not exist').what)
            if len(chain) > MAX_EXTENDS:
                raise wrong(keyword, f"extends is nested more than {MAX_EXTENDS} levels deep")
            below = self.extend(parent, chain)
            if not isinstance(below.value, dict):
                raise wrong(keyword, f'"{name}" extends "{parent}", which is {kind(below)}, not a job')
            result = merged(result, below, self.budget)
        own = {key: value for key, value in node.value.items() if key != "extends"}
        result = merged(result, node._replace(value=own), self.budget)
        self.extended[name] = result
        return result

    def resolved(self, node: Node, chain: tuple[tuple[str, ...], ...], level: int = 0) -> Node:
        """Return ``node`` with every reference replaced; ``chain`` holds the references that led here."""
        self.budget.spend(1, node)
        if level > MAX_DEPTH:
            raise wrong(node, f"references are nested more than {MAX_DEPTH} levels deep")
        if isinstance(node.value, list):
            return node._replace(value=[self.resolved(item, chain, level + 1) for item in node.value])
        if isinstance(node.value, dict):
            value = {key: self.resolved(item, chain, level + 1) for key, item in node.value.items()}
            return node._replace(value=value)
        if not isinstance(node.value, Reference):
            return node
        path = node.value.path
        if not path:
            raise wrong(node, "!reference needs a list of strings: [job, keyword, ...]")
        shown = f"!reference [{', '.join(path)}]"
        if path in chain:
            raise wrong(node, f"{shown} refers back to itself")
        if len(chain) >= MAX_REFERENCES:
            raise wrong(node, f"{shown} is nested more than {MAX_REFERENCES} levels deep")
        found = self.find(path)
        if found is None:
            raise UnknownName(wrong(node, f"{shown} refers to nothing").what)
        return self.resolved(found, (*chain, path), level + 1)._replace(file=node.file, line=node.line)

    def find(self, path: tuple[str, ...]) -> Node | None:
        """Return the value at ``path`` from the top level, or None."""
        if path[0] not in self.root:
            return None
        found = self.extend(path[0], ())
        for key in path[1:]:
            if not isinstance(found.value, dict) or key not in found.value:
                return None
            found = found.value[key]
        return found if found.value is not None else None


def _names(keyword: Node) -> list[str]:
    items = keyword.value if isinstance(keyword.value, list) else [keyword]
    names = [item.value for item in items if isinstance(item.value, str)]
    if len(names) < len(items) or not names:
        raise wrong(keyword, "extends must be the name of a job, or a list of names")
    return names
