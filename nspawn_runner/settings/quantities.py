"""Sizes, times, shares and counts as the settings write them."""

from __future__ import annotations

from ..light_typing import Any

AUTO, INFINITY = "auto", "infinity"
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SECONDS = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}


def size_bytes(text: Any) -> int | None:
    """Return the number of bytes that a size such as ``512M`` or ``16G`` means; None for anything else."""
    if not isinstance(text, str):
        return None
    number, unit = (text[:-1], _UNITS[text[-1]]) if text[-1:] in _UNITS else (text, 1)
    return int(number) * unit if is_number(number, 19) else None


def seconds(text: Any) -> int | None:
    """Return the seconds that a time such as ``90``, ``30s``, ``10min``, ``2h``, ``1d`` or ``4w`` means, else None."""
    if not isinstance(text, str):
        return None
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    factor = _SECONDS.get(text[len(number) :])
    return int(number) * factor if factor and is_number(number, 9) else None


def is_share(text: str) -> bool:
    """Return whether ``text`` is a share of something, 1% to 100%."""
    return text.endswith("%") and is_number(text[:-1], 3) and 0 < int(text[:-1]) <= 100


def is_number(text: str, digits: int) -> bool:
    """Return whether ``text`` is 1 to ``digits`` ASCII digits."""
    return 0 < len(text) <= digits and text.isascii() and text.isdigit()


def shown_bytes(value: float) -> str:
    """Return a number of bytes in the greatest unit that it fills: 300 MiB, 1.5 GiB."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= size:
            return f"{float(f'{value / size:.1f}'):g} {unit}"
    return f"{int(value)} bytes"
