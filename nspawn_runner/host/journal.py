"""Write entries with our own fields to the host's journal (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

from __future__ import annotations

# The module socket turns its constants into enums, which would cost each stage several milliseconds.
import _socket
from collections.abc import Mapping
from contextlib import suppress

SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "nspawn-runner"
# Of syslog(3).
ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6
MAX_BYTES = 1000  # of a value: all fields of an entry together fit a datagram


def send(message: str, *, priority: int, fields: Mapping[str, str]) -> None:
    """Write an entry with ``message`` and ``fields`` (names of capitals, digits and _); those that are empty stay out.

    Never waits and never fails: where the journal does not exist or its queue is full, there is no entry.
    """
    known = {"MESSAGE": message, "PRIORITY": str(priority), "SYSLOG_IDENTIFIER": IDENTIFIER, **fields}
    with suppress(OSError):
        sender = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        try:
            sender.setblocking(False)
            sender.sendto(datagram(known), SOCKET)
        finally:
            sender.close()


def datagram(fields: Mapping[str, str]) -> bytes:
    """Return ``fields`` as the journal's socket takes them, values cut to ``MAX_BYTES``; empty ones are left out."""
    return b"".join(_field(name.encode(), value) for name, value in fields.items() if value)


def _field(name: bytes, text: str) -> bytes:
    # Half a character at the cut, or half of a surrogate pair from JSON, becomes a question mark or goes.
    value = text.encode(errors="replace")[:MAX_BYTES].decode(errors="ignore").encode()
    if b"\n" in value:
        return name + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return name + b"=" + value + b"\n"
