"""Read files of one folder and never of anything else, as the folder's owner."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from ..errors import JobError
from ..host import owners
from .values import Node, wrong
from .yaml_reader import MAX_BYTES

# They bound the walk over a large tree and the parsing of many files.
MAX_TOTAL_BYTES = 2 * MAX_BYTES
MAX_WALKED = 200_000


class ProjectFiles:
    """The files below a folder; when root reads them, as the folder's owner.

    So no message quotes what that user cannot read. Raises JobError if links lead ``root`` out of the real path
    ``within``: its owner would be another.
    """

    def __init__(self, root: str, within: str = "") -> None:
        self.root = os.path.realpath(root)
        if within and self.root != within and not self.root.startswith(os.path.join(within, "")):
            raise JobError(f"{root} is a link that leads out of {within}", facts=f"to {self.root}")
        self.owner = owners.of(self.root)

    def content(self, file: str) -> bytes:
        """Return a file's bytes, at most one more than allowed; raises OSError, and JobError for one elsewhere."""
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
                return opened.read(MAX_BYTES + 1)
        finally:
            os.close(fd)

    def matching(self, node: Node, pattern: str) -> list[str]:
        """Return the files whose path matches ``pattern``, sorted; raises JobError for a tree that is too large."""
        with owners.acting_as(self.owner):
            return sorted(self._walk(node, pattern))

    def _walk(self, node: Node, pattern: str) -> Iterator[str]:
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
