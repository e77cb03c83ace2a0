"""Write entries with our own fields to the host's journal (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

from __future__ import annotations

# The socket module turns its constants into enums, which would cost each stage several milliseconds.
import _socket
from collections.abc import Mapping
from contextlib import suppress

SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "nspawn-runner"
# Priorities of syslog(3).
ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6
MAX_BYTES = 1000  # per value, so that all fields of an entry fit in a datagram


def send(message: str, *, priority: int, fields: Mapping[str, str]) -> None:
    """Write an entry with ``message`` and the non-empty ``fields`` (names of capitals, digits and _).

    Never waits or fails: if there is no journal or its queue is full, nothing is written.
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
    """Return the non-empty ``fields`` in the format of the journal's socket, with values cut to ``MAX_BYTES``."""
    return b"".join(_field(name.encode(), value) for name, value in fields.items() if value)


def _field(name: bytes, text: str) -> bytes:
    # Half a surrogate pair from JSON becomes a question mark; half a character at the cut is dropped.
    value = text.encode(errors="replace")[:MAX_BYTES].decode(errors="ignore").encode()
    if b"\n" in value:
        return name + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return name + b"=" + value + b"\n"
