"""Parse fields of tar headers and pax records: exactly, or not at all.

Sources as for tar_reader: POSIX.1-2017 (pax) and the GNU tar manual, "Tar Internals".
"""

from __future__ import annotations

BLOCK = 512


class DamagedError(Exception):
    """The archive is damaged or not acceptable; the text says why."""


def check_sum(block: bytes) -> None:
    """Raise DamagedError when the header ``block`` does not match its checksum (of unsigned bytes)."""
    said = number(block[148:156])
    if sum(block) - sum(block[148:156]) + 8 * 32 != said:
        raise DamagedError("not a tar archive, or a damaged one: a header's checksum is wrong")


def member_name(block: bytes, pax: dict[bytes, bytes]) -> bytes:
    """Return the raw name of the member with the header ``block``; ``pax`` may override it."""
    if b"GNU.sparse.name" in pax:
        return pax[b"GNU.sparse.name"]
    if b"path" in pax:
        return pax[b"path"]
    prefix = text(block[345:500]) if block[257:263] == b"ustar\0" else b""
    return b"/".join(filter(None, (prefix, text(block[:100]))))


def pax_records(content: bytes) -> dict[bytes, bytes]:
    """Return the records "length key=value\\n" of a pax header; pieces of a sparse file (0.0) become a map."""
    records: dict[bytes, bytes] = {}
    pieces = []
    at = 0
    while at < len(content):
        length_text, space, _ = content[at : at + 12].partition(b" ")
        length = decimal(length_text)
        record = content[at : at + length]
        if not space or length <= len(length_text) + 3 or len(record) < length or record[-1:] != b"\n":
            raise DamagedError("an extended header is damaged")
        key, equals, value = record[len(length_text) + 1 : -1].partition(b"=")
        if not equals:
            raise DamagedError("an extended header is damaged")
        if key in {b"GNU.sparse.offset", b"GNU.sparse.numbytes"}:
            pieces.append(value)
        records[key] = value
        at += length
    if pieces:
        records[b"GNU.sparse.map"] = b",".join(pieces)
    return records


def text(field: bytes) -> bytes:
    """Return a header field's content up to the first NUL."""
    return field.split(b"\0", 1)[0]


def number(field: bytes) -> int:
    """Return a header's number: octal digits, or base 256 if the first bit is set; never below 0."""
    if field[0] & 0x80:
        found = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        return found if found < 1 << 62 else _refuse_number(field)
    digits = text(field).strip(b" ")
    if digits.strip(b"01234567"):
        return _refuse_number(field)
    return int(digits or b"0", 8)


def seconds(field: bytes) -> int:
    """Return a header's time, which may be before 1970, clamped to what file systems can store."""
    if field[0] == 0xFF:
        return max(int.from_bytes(field, "big", signed=True), -(1 << 33))
    return min(number(field), 1 << 33)


def _refuse_number(field: bytes) -> int:
    raise DamagedError(f"not a tar archive, or a damaged one: {field!r} is not a number")


def decimal(digits: bytes) -> int:
    """Return the number of at most 19 decimal digits; raises DamagedError for anything else."""
    if not digits.isdigit() or len(digits) > 19:
        raise DamagedError(f"an extended header is damaged: {digits[:20]!r} is not a number")
    return int(digits)


def owner(pax: dict[bytes, bytes], key: bytes, field: bytes) -> int:
    """Return a user or group (0 to 2^32 - 2), from ``pax`` or the header; raises DamagedError."""
    found = decimal(pax[key]) if key in pax else number(field)
    if not 0 <= found < (1 << 32) - 1:
        raise DamagedError(f"{found} is not a user or group")
    return found


def nanoseconds(decimals: bytes) -> int:
    """Return the decimal seconds ``decimals`` as nanoseconds, clamped to what file systems can store (64 bits)."""
    sign, plain = (-1, decimals[1:]) if decimals[:1] == b"-" else (1, decimals)
    whole, _, fraction = plain.partition(b".")
    return sign * (min(decimal(whole), 1 << 33) * 10**9 + decimal((fraction or b"0")[:9].ljust(9, b"0")))


def padded(size: int) -> int:
    """Return ``size`` in bytes, rounded up to whole blocks."""
    return -(-size // BLOCK) * BLOCK
