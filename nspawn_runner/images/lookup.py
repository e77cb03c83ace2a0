"""Find the local image that a job's image name refers to."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase

from ..errors import UsageError
from ..names import is_image_name


def local_name(asked: str, *, mapping: Mapping[str, str], there: Collection[str]) -> str | None:
    """Return the image in ``there`` that ``asked`` refers to, or None.

    ``asked`` may have the form for a registry (``host:port/group/name:tag@digest``). ``mapping`` comes first,
    exact names before shell patterns in their order; then ``asked`` itself, its tag, its name.
    """
    for candidate in _candidates(asked, mapping):
        if is_image_name(candidate) and candidate in there:
            return candidate
    return None


def _candidates(asked: str, mapping: Mapping[str, str]) -> Iterator[str]:
    if asked in mapping:
        yield mapping[asked]
    for pattern, image in mapping.items():
        if fnmatchcase(asked, pattern):
            yield image
    yield asked
    last = asked.partition("@")[0].rpartition("/")[2]
    name, _, tag = last.partition(":")
    yield tag
    yield name


def is_plausible(asked: str) -> bool:
    """Return whether ``asked`` could be an image's name in a registry: at most 255 characters, no path tricks."""
    plain = 0 < len(asked) <= 255 and asked.isascii() and all(char.isalnum() or char in "._-/:@" for char in asked)
    return plain and asked[0].isalnum() and not any(part in {"", ".", ".."} for part in asked.split("/"))


def new_image_name(name: str) -> str:
    """Return ``name`` if it is a valid image name, else raise UsageError."""
    if not is_image_name(name):
        raise UsageError(f"{name!r} cannot be an image's name", advice="use letters, digits and . _ - (not first)")
    return name
