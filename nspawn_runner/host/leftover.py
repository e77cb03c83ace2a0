"""A leftover: something of ours that nobody needs, found without touching it, removed once that is certain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..errors import HostError
from . import trees


class Leftover(NamedTuple):
    """What was found; ``paths`` are what of it takes room on disk.

    ``remove`` looks again under the locks that its users take: it returns False where the thing is in use or gone
    meanwhile, raises locks.Busy where somebody works on it, HostError where something of it stays.
    """

    kind: str
    name: str
    why: str
    paths: Sequence[str]
    remove: Callable[[], bool]


def size_bytes(paths: Sequence[str], *, seconds: float) -> int | None:
    """Return what ``paths`` take on disk beyond what snapshots share; None where that takes over ``seconds``."""
    try:
        return sum(_size_of(path, seconds) for path in paths)
    except (HostError, OSError, ValueError, IndexError):
        return None  # not in time, or it went meanwhile


def _size_of(path: str, seconds: float) -> int:
    count = trees.exclusive_bytes if trees.is_subvolume(path) else trees.size_bytes
    return count(path, seconds=seconds)
