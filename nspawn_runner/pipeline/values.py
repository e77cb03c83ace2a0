"""Values of .gitlab-ci.yml with their position in the file, errors that name it, and a limit on their number."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from ..errors import JobError

# GitLab's own limit for the depth is 100 levels. Values of an alias count again at each use: a few lines of aliases to
# aliases multiply them.
MAX_DEPTH = 100
MAX_VALUES = 200_000


class UnknownName(JobError):
    """The file refers to something that is in none of its files; an include that was left out may have it."""


class NotHere(JobError):
    """GitLab could run the job, but a local run cannot."""


class Reference(NamedTuple):
    """``!reference [job, key, ...]``, to be resolved once all files are merged."""

    path: tuple[str, ...]


class Date(NamedTuple):
    """An unquoted date or time, which GitLab refuses to load."""

    text: str


class Merge(NamedTuple):
    """The key ``<<``."""


Value: TypeAlias = "str | int | float | bool | Reference | Date | Merge | list[Node] | dict[str, Node] | None"


class Node(NamedTuple):
    """A value, its position (for a mapping's value the line of its key), how many values it holds, and its depth."""

    value: Value
    file: str
    line: int
    size: int = 1
    depth: int = 1


def wrong(node: Node, what: str, *, facts: str = "", advice: str = "") -> JobError:
    """Return the JobError that says ``what`` is wrong at the file and line of ``node``."""
    return JobError(f"{node.file}:{node.line}: {what}", facts=facts, advice=advice)


def kind(node: Node) -> str:
    """Return what kind of value ``node`` has, worded for an error message."""
    # In Python a bool is an int: it comes first.
    for types, words in _KINDS:
        if isinstance(node.value, types):
            return words
    return "empty"


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "a boolean"),
    ((int, float), "a number"),
    (str, "a string"),
    (list, "a list"),
    (dict, "a mapping"),
    (Date, "a date"),
    (Reference, "a !reference"),
    (Merge, "a merge key"),
)


class Budget:
    """Counts processed values, so that values that multiply end in an error instead of filling memory."""

    def __init__(self, limit: int = MAX_VALUES) -> None:
        self.limit = limit
        self.spent = 0

    def spend(self, amount: int, node: Node) -> None:
        """Count ``amount`` values; raises JobError at ``node`` when the total exceeds the limit."""
        self.spent += amount
        if self.spent > self.limit:
            raise wrong(node, f"aliases, references and inheritance expand to more than {self.limit} values")
