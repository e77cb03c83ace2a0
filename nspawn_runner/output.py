"""What people read: our lines on stderr, tables, sizes and ages."""

from __future__ import annotations

import sys

from .light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def say(*lines: str) -> None:
    """Write ``lines`` to stderr, each after our name unless a leading space says that it continues the one above."""
    for line in lines:
        print(line if line.startswith(" ") else f"nspawn-runner: {line}", file=sys.stderr)
    sys.stderr.flush()


def note(*lines: str) -> None:
    """Write ``lines`` to stderr as they are: messages for a person, apart from a command's output."""
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Write a warning to stderr."""
    say(f"WARNING: {text}")


def human_size(size_bytes: int | None) -> str:
    """Return a size for people, in MiB or GiB; a dash if unknown."""
    if size_bytes is None:
        return "-"
    return f"{size_bytes / 2**30:.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f} MiB"


def human_age(seconds: float) -> str:
    """Return an age in the largest unit that fits at least twice, such as "3 days" or "90 min"."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table of ``rows``, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
