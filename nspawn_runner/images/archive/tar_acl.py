"""Convert POSIX ACLs from their text form in archives to the kernel's format (acl(5)).

Source: star(5) and bsdtar write ``user:lisa:r-x:502``; GNU tar omits the number or replaces the name with it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

# include/uapi/linux/posix_acl.h and posix_acl_xattr.h of the kernel.
_VERSION, _NO_ID = 2, 0xFFFFFFFF
_OWNER, _USER, _OWNING_GROUP, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32
_TAGS = {(b"user", False): _OWNER, (b"user", True): _USER, (b"group", False): _OWNING_GROUP, (b"group", True): _GROUP,
         (b"mask", False): _MASK, (b"other", False): _OTHER}  # fmt: skip
_SHORT = {b"u": b"user", b"g": b"group", b"m": b"mask", b"o": b"other"}
_MOST_ENTRIES = 1024
# Returns the number of the user (True) or group with a name; raises ValueError when there is none.
Numbers = Callable[[bool, bytes], int]


def binary(text: bytes, numbers: Numbers) -> bytes:
    """Return the list ``text`` as the value of an extended attribute; raises ValueError when it is malformed."""
    packed = b"".join(struct.pack("<HHI", *entry) for entry in sorted(_entries(text, numbers)))
    return struct.pack("<I", _VERSION) + packed


def group_mode(text: bytes) -> int | None:
    """Return the owning group's permissions (0 to 7) in the list ``text``; the file's mode has the mask there."""

    def any_number(_is_user: bool, _name: bytes) -> int:
        return 0

    try:
        return next((mode for tag, mode, _ in _entries(text, any_number) if tag == _OWNING_GROUP), None)
    except ValueError:
        return None


def _entries(text: bytes, numbers: Numbers) -> list[tuple[int, int, int]]:
    words = [word.strip() for line in text.splitlines() for word in line.partition(b"#")[0].split(b",") if word.strip()]
    if not 0 < len(words) <= _MOST_ENTRIES:
        raise ValueError("an access control list without entries, or with too many")
    return [_entry(word, numbers) for word in words]


def _entry(word: bytes, numbers: Numbers) -> tuple[int, int, int]:
    kind, name, rights, *more = word.split(b":")  # ValueError when there are fewer
    tag = _TAGS.get((_SHORT.get(kind, kind), bool(name)))
    if tag is None or len(more) > 1 or rights.strip(b"rwx-"):
        raise ValueError(f"not an entry of an access control list: {word[:60]!r}")
    mode = sum(bit for letter, bit in ((b"r", 4), (b"w", 2), (b"x", 1)) if letter in rights)
    if not name:
        return tag, mode, _NO_ID
    number = more[0] if more else name
    return tag, mode, int(number) if number.isdigit() and len(number) < 10 else numbers(tag == _USER, name)
