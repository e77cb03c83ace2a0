"""Read .gitlab-ci.yml and its local includes, and merge them as GitLab does; never leaves the repository.

When root calls this, files are opened as the folder's owner: no message quotes what that user cannot read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from ..errors import JobError
from ..host import owners
from .values import Budget, Node, kind, wrong
from .yaml_reader import MAX_BYTES, parse

# GitLab's default for includes; the other limits bound the walk over a large tree and the parsing of many files.
MAX_FILES = 150
MAX_TOTAL_BYTES = 2 * MAX_BYTES
MAX_WALKED = 200_000


def read(repository: str, file: str) -> dict[str, Node]:
    """Return the top level of ``file`` in the folder ``repository``, merged over what it includes.

    Later files override earlier ones, and the including file overrides the included: mappings merge at any depth,
    anything else is replaced. Raises JobError with file and line for what cannot be included.
    """
    return _Reader(os.path.realpath(repository)).read(file, ())


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
    """Reads files of one repository and counts files and bytes."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.owner = owners.of(root)
        self.budget = Budget()
        self.files = 0
        self.bytes = 0

    def read(self, file: str, chain: tuple[str, ...]) -> dict[str, Node]:
        """Return the top level of ``file`` over what it includes; ``chain`` holds the files that led here."""
        top = parse(self.content(file), file, self.budget)
        if top.value is None:
            raise wrong(top, "the file is empty")
        if not isinstance(top.value, dict):
            raise wrong(top, f"the file is {kind(top)}; it must be a mapping of jobs and keywords")
        include = top.value.pop("include", None)
        below = top._replace(value={})
        for node, path in self.included(include) if include else ():
            below = merged(below, self.read_included(node, path, (*chain, file)), self.budget)
        result = merged(below, top, self.budget).value
        assert isinstance(result, dict)  # noqa: S101  (both are mappings)
        return result

    def read_included(self, node: Node, path: str, chain: tuple[str, ...]) -> Node:
        if path in chain:
            raise wrong(node, "files include each other in a circle", facts=" → ".join((*chain, path)))
        self.files += 1
        if self.files > MAX_FILES:
            raise wrong(node, f"more than {MAX_FILES} files are included")
        try:
            return Node(self.read(path, chain), path, 1)
        except FileNotFoundError:
            raise wrong(node, f'the included file "{path}" does not exist') from None
        except OSError as error:
            raise wrong(node, f'cannot include "{path}": {error.strerror}') from None

    def content(self, file: str) -> bytes:
        """Return the bytes of ``file`` below the root; raises OSError, and JobError for a file outside the root."""
        # Open first, then look up the path: a link that changes in between leads nowhere else.
        with owners.acting_as(self.owner):
            fd = os.open(os.path.join(self.root, file), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            path = os.readlink(f"/proc/self/fd/{fd}")
            if not path.startswith(os.path.join(self.root, "")):
                raise JobError(f'"{file}" is a link that leads out of the repository', facts=f"to {path}")
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise JobError(f'"{file}" is not a regular file')
            with open(fd, "rb", closefd=False) as opened:
                content = opened.read(MAX_BYTES + 1)
        finally:
            os.close(fd)
        self.bytes += len(content)
        if self.bytes > MAX_TOTAL_BYTES:
            raise JobError(f"{file}: the included files are larger than {MAX_TOTAL_BYTES // 1024 // 1024} MiB together")
        return content

    def included(self, include: Node) -> Iterator[tuple[Node, str]]:
        """Yield each file that ``include`` names, with the node that names it."""
        for entry in include.value if isinstance(include.value, list) else [include]:
            for node, location in _locations(entry):
                pattern = _pattern(node, location)
                if "*" not in pattern:
                    yield node, pattern
                    continue
                found = [(node, path) for path in self.matching(node, pattern)]
                if not found:
                    raise wrong(node, f'no file matches the include "{location}"')
                yield from found

    def matching(self, node: Node, pattern: str) -> list[str]:
        """Return the files whose path matches ``pattern``, sorted."""
        with owners.acting_as(self.owner):
            return sorted(self.walk(node, pattern))

    def walk(self, node: Node, pattern: str) -> Iterator[str]:
        """Yield the files whose path matches ``pattern``."""
        start = os.path.dirname(pattern[: pattern.index("*")])
        walked = 0
        for folder, folders, files in os.walk(os.path.join(self.root, start)):
            if ".git" in folders:
                folders.remove(".git")
            walked += len(files) + len(folders)
            if walked > MAX_WALKED:
                raise wrong(node, f"an include with * has more than {MAX_WALKED} files to search")
            for name in files:
                path = os.path.relpath(os.path.join(folder, name), self.root)
                if matches(pattern, path):
                    yield path


def _locations(entry: Node) -> Iterator[tuple[Node, str]]:
    """Yield the local files that one entry of ``include`` names, before globs; raises JobError for any other kind."""
    if isinstance(entry.value, str):
        yield entry, entry.value
        return
    if not isinstance(entry.value, dict):
        raise wrong(entry, f"an include is {kind(entry)}; it must be a string or a mapping")
    for key, node in entry.value.items():
        if key != "local":
            raise wrong(
                node,
                f'"include: {key}" is not supported',
                facts="only files of the same repository can be included, unconditionally: include: {local: path}",
                advice="try it on GitLab, or include a local copy",
            )
    if "local" not in entry.value:
        raise wrong(entry, "an include names no file")
    local = entry.value["local"]
    if not isinstance(local.value, str):
        raise wrong(local, f'"include: local" is {kind(local)}; it must be a string')
    yield local, local.value


def _pattern(node: Node, location: str) -> str:
    """Return ``location`` as a path from the root of the repository; raises JobError for an invalid one."""
    if "://" in location:
        raise wrong(node, "an include from elsewhere is not supported", advice="include a local copy")
    if "$" in location:
        raise wrong(node, f'the include "{location}" has a variable: not supported', advice="write out the path")
    path = location.lstrip("/")
    if ".." in path.split("/") or "\0" in path:
        raise wrong(node, f'the include "{location}" leads out of the repository')
    if not path.endswith((".yml", ".yaml")):
        raise wrong(node, f'the include "{location}" must end in .yml or .yaml')
    return path


def matches(pattern: str, path: str) -> bool:
    """Return whether ``path`` matches ``pattern``, where ``*`` is any text without a slash and ``**`` is any text.

    All positions in the pattern are tracked at once: a regular expression with many stars could take forever.
    """
    tokens: list[str] = []
    for char in pattern:
        if char == "*" and tokens and tokens[-1] == "*":
            tokens[-1] = "**"
        elif char != "*" or not tokens or tokens[-1] != "**":
            tokens.append(char)

    def with_skipped_stars(positions: set[int]) -> set[int]:
        for position in sorted(positions):
            after = position
            while after < len(tokens) and tokens[after].startswith("*"):
                after += 1
                positions.add(after)
        return positions

    positions = with_skipped_stars({0})
    for char in path:
        stepped = set()
        for position in positions - {len(tokens)}:
            part = tokens[position]
            if part == "**" or (part == "*" and char != "/"):
                stepped.add(position)
            elif part == char:
                stepped.add(position + 1)
        positions = with_skipped_stars(stepped)
    return len(tokens) in positions
