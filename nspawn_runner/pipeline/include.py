"""Read .gitlab-ci.yml and what it includes, and merge them as GitLab does; never reads outside the folders named.

Files of the project are read from its folder, those from elsewhere from the folders that the user maps. What is
nowhere is left out, with a notice: the jobs that need it say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..errors import JobError
from . import file_inputs, include_map, rules
from .event import Event
from .include_entries import Included, entries
from .include_map import MappedFolder
from .notices import Notices
from .project_files import MAX_TOTAL_BYTES, ProjectFiles
from .values import Budget, Node, kind, wrong
from .yaml_reader import documents

MAX_FILES = 150  # GitLab's default for includes


class SourceFiles(NamedTuple):
    """The merged top level of a file and what it includes; ``missing`` is what was left out, as shown to people."""

    root: dict[str, Node]
    missing: tuple[str, ...]


def read(
    repository: str,
    file: str,
    event: Event,
    notices: Notices,
    *,
    mapped: Sequence[MappedFolder] = (),
    given: Mapping[str, str] | None = None,
) -> SourceFiles:
    """Return the top level of ``file`` in the folder ``repository``, merged over what it includes.

    Later files override earlier ones, and the including file overrides the included: mappings merge at any depth,
    anything else is replaced. ``given`` are texts for the file's inputs. Raises JobError with file and line.
    """
    reader = _Reader(event, notices, mapped)
    here = Node(None, file, 1)
    values = {name: here._replace(value=text) for name, text in (given or {}).items()}
    root = reader.read(ProjectFiles(repository), file, (), values, here, from_text=True)
    return SourceFiles(root, tuple(reader.missing))


def merged(below: Node, above: Node, budget: Budget) -> Node:
    """Return ``above`` laid over ``below``: mappings merge at any depth, anything else is replaced."""
    if not isinstance(below.value, dict) or not isinstance(above.value, dict):
        return above
    budget.spend(1 + len(above.value) + len(below.value), above)
    value = dict(below.value)
    for key, node in above.value.items():
        value[key] = merged(value[key], node, budget) if key in value else node
    return above._replace(value=value)


class _Reader:
    """Reads files and counts them and their bytes."""

    def __init__(self, event: Event, notices: Notices, mapped: Sequence[MappedFolder]) -> None:
        self.event = event
        self.notices = notices
        self.mapped = mapped
        self.budget = Budget()
        self.files = 0
        self.bytes = 0
        self.missing: dict[str, None] = {}

    def read(
        self,
        project: ProjectFiles,
        file: str,
        chain: tuple[str, ...],
        given: Mapping[str, Node],
        where: Node,
        *,
        from_text: bool = False,
    ) -> dict[str, Node]:
        """Return the top level of ``file`` over what it includes; ``chain`` holds the files that led here."""
        top = self.content(project, file, given, where, from_text=from_text)
        if top.value is None:
            raise wrong(top, "the file is empty")
        if not isinstance(top.value, dict):
            raise wrong(top, f"the file is {kind(top)}; it must be a mapping of jobs and keywords")
        include = top.value.pop("include", None)
        below = top._replace(value={})
        here = (*chain, f"{project.root}/{file}")
        for entry in entries(include, self.event.variables) if include and include.value is not None else ():
            if entry.rules is None or self.wanted(entry):
                for part in self.included(project, entry, here):
                    below = merged(below, part, self.budget)
        result = merged(below, top, self.budget).value
        assert isinstance(result, dict)  # noqa: S101  (both are mappings)
        return result

    def content(
        self, project: ProjectFiles, file: str, given: Mapping[str, Node], where: Node, *, from_text: bool
    ) -> Node:
        """Return the file's pipeline with the values of its inputs put in."""
        raw = project.content(file)
        self.bytes += len(raw)
        if self.bytes > MAX_TOTAL_BYTES:
            raise JobError(f"{file}: the included files are larger than {MAX_TOTAL_BYTES // 1024 // 1024} MiB together")
        first, *more = documents(raw, file, self.budget, self.notices)
        if isinstance(first.value, dict) and "spec" in first.value and (more or len(first.value) == 1):
            known = file_inputs.values(first, given, where, from_text=from_text)
            content = more[0] if more else first._replace(value={})
            return file_inputs.interpolated(content, known, self.event.variables, self.budget)
        if more:
            self.notices.say(f"{file}:{more[0].line}: a second part (after ---) without spec: in the first is not read")
        if given:
            raise wrong(where, f"{file} takes no inputs")
        return first

    def wanted(self, entry: Included) -> bool:
        assert entry.rules is not None  # noqa: S101  (the caller asks)
        outcome = rules.evaluate("an include", entry.rules, self.event, self.event.variables, rules.OF_INCLUDE)
        return outcome.when != "never"

    def included(self, project: ProjectFiles, entry: Included, chain: tuple[str, ...]) -> list[Node]:
        """Return the top levels that ``entry`` stands for; of what cannot be had none, with a notice."""
        given = self.inputs_of(entry)
        if entry.elsewhere is not None:
            for root, path, within in include_map.places(entry.elsewhere, self.mapped):
                found = self.read_included(ProjectFiles(root, within), path, entry, chain, given)
                if found is not None:
                    return [found]
            self.leave_out(entry, entry.elsewhere.shown, "is not here")
            return []
        if "*" in entry.local:
            self.count(entry.node)  # each is a walk over the project
            paths = project.matching(entry.node, entry.local)
            if not paths:
                self.notices.say(f'{entry.node.file}:{entry.node.line}: no file matches the include "{entry.local}"')
            return [
                part for path in paths if (part := self.read_included(project, path, entry, chain, given)) is not None
            ]
        found = self.read_included(project, entry.local, entry, chain, given) if entry.local else None
        if found is not None:
            return [found]
        if entry.unset:
            self.leave_out(entry, f"{entry.node.value}", f"has variables that are not set ({', '.join(entry.unset)})")
            return []
        raise wrong(entry.node, f'the included file "{entry.local}" does not exist')

    def count(self, node: Node) -> None:
        self.files += 1
        if self.files > MAX_FILES:
            raise wrong(node, f"more than {MAX_FILES} files are included")

    def inputs_of(self, entry: Included) -> dict[str, Node]:
        if entry.inputs is None or entry.inputs.value is None:
            return {}
        if not isinstance(entry.inputs.value, dict):
            raise wrong(entry.inputs, f'"include: inputs" is {kind(entry.inputs)}; it must be a mapping')
        return dict(entry.inputs.value)

    def leave_out(self, entry: Included, what: str, why: str) -> None:
        self.missing[what] = None
        self.notices.say(f"{entry.node.file}:{entry.node.line}: left out: the include of {what}, which {why}")

    def read_included(
        self, project: ProjectFiles, path: str, entry: Included, chain: tuple[str, ...], given: Mapping[str, Node]
    ) -> Node | None:
        """Return the top level of a file, or None if it does not exist; raises JobError for any other obstacle."""
        node = entry.node
        if f"{project.root}/{path}" in chain:
            names = (*(each.removeprefix(f"{project.root}/") for each in chain), path)
            raise wrong(node, "files include each other in a circle", facts=" → ".join(names))
        self.count(node)
        try:
            return Node(self.read(project, path, chain, given, node), path, 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise wrong(node, f'cannot include "{path}": {error.strerror}') from None
