"""A leftover: something of ours that nobody needs; finding it changes nothing, and removal checks again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..errors import HostError
from . import trees


class Leftover(NamedTuple):
    """A leftover; ``paths`` are the parts that take disk space.

    ``remove`` checks again under the locks of its users: it returns False if the thing is now in use or gone, raises
    locks.Busy while somebody works on it and HostError if anything of it remains.
    """

    kind: str
    name: str
    why: str
    paths: Sequence[str]
    remove: Callable[[], bool]


def size_bytes(paths: Sequence[str], *, seconds: float) -> int | None:
    """Return the bytes that ``paths`` take on disk, without shared snapshots; None if that takes over ``seconds``."""
    try:
        return sum(_size_of(path, seconds) for path in paths)
    except (HostError, OSError, ValueError, IndexError):
        return None  # too slow, or removed meanwhile


def _size_of(path: str, seconds: float) -> int:
    count = trees.exclusive_bytes if trees.is_subvolume(path) else trees.size_bytes
    return count(path, seconds=seconds)
