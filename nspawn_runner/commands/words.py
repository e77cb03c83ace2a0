"""Words that users say and are told: figures, names."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UsageError
from ..names import is_image_name


def new_image_name(name: str) -> str:
    """Return ``name`` where an image can be called so; raises UsageError."""
    if not is_image_name(name):
        raise UsageError(f"{name!r} cannot be an image's name", advice="use letters, digits and . _ - (not first)")
    return name


def human_size(size_bytes: int | None) -> str:
    """Return a size as people say it, in MiB or GiB; a dash where it is not known."""
    if size_bytes is None:
        return "-"
    return f"{size_bytes / 2**30:.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f} MiB"


def human_age(seconds: float) -> str:
    """Return an age in the greatest unit of which there are two, as in "3 days" and "90 min"."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table of ``rows``, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
