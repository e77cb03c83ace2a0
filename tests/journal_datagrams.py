"""Datagrams to the journal, read back (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""


def fields_of(datagram: bytes) -> dict[str, str]:
    """Read a datagram as journald does."""
    found: dict[str, str] = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        assert name.decode() not in found
        found[name.decode()] = value.decode()
        datagram = rest
    return found
