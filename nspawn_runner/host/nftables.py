"""nftables: the ruleset's generation number, and our tables as nft(8) lists them."""

from __future__ import annotations

# Importing socket would cost each stage several milliseconds.
import _socket
import json
from collections.abc import Sequence

from ..light_typing import Any
from . import process

# Leaves out what changes by itself, such as counters and set elements.
LIST = ("--json", "--stateless", "--terse", "list", "table")
_NETLINK_NETFILTER, _GET_GENERATION, _ANSWER_SECONDS = 12, 0x0A10, 5


def generation() -> int:
    """Return the number that the kernel raises with each change to any table of this network; 0 if it does not say.

    Asks the kernel directly, in less than a millisecond: NFT_MSG_GETGEN of linux/netfilter/nf_tables.h.
    """
    header = (20).to_bytes(4, "little") + _GET_GENERATION.to_bytes(2, "little") + b"\1\0" + bytes(8)
    try:
        asked = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, _NETLINK_NETFILTER)
        try:
            asked.settimeout(_ANSWER_SECONDS)
            asked.send(header + bytes(4))
            answer = asked.recv(4096)
        finally:
            asked.close()
    except OSError:
        return 0
    # Two headers precede the first attribute: four bytes of length and type (here 1), then the number.
    return int.from_bytes(answer[24:28], "big") if answer[20:24] == b"\x08\0\1\0" else 0


def load(text: str) -> None:
    """Apply the nft(8) commands in ``text`` in one step, all or none; raises HostError."""
    process.run(["nft", "--file", "-"], stdin=text.encode())


def listing(tables: Sequence[str]) -> list[Any]:
    """Return the existing ``tables``, each named "family name", as libnftables-json(5) objects without handles."""
    commands = [["nft", *LIST, *table.split()] for table in tables]
    asked = [process.spawn(argv, stdout=process.PIPE, stderr=process.DEVNULL) for argv in commands]
    return [part for child in asked for part in parts(child.communicate()[0])]


def parts(listed: bytes) -> list[Any]:
    """Return the tables, chains, sets and rules in nft's JSON output ``listed``, without their handles."""
    found = [part for part in json.loads(listed or b"{}").get("nftables", ()) if "metainfo" not in part]
    for part in found:
        for known in part.values():
            known.pop("handle", None)
    return found
