"""The firewall of private networks, in our own nftables tables: the way out, and what machines cannot reach.

Others flush rules, so whoever comes by looks: each stage, gc and doctor. What was loaded is written to a file in /run,
with a digest of how nft(8) lists it and the kernel's number of its ruleset then: while that is the same there is
nothing to be looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress

from ..host import files, nftables
from ..light_typing import Any, NamedTuple
from ..settings.paths import RUN_FOLDER
from ..settings.tables import Network

TABLE = "nspawn_runner"
TABLES = (f"inet {TABLE}", f"bridge {TABLE}")
# systemd-nspawn's name for the host's end of the link to a machine run-ID; told by name, since a match on the bridge
# needs a module that some kernels lack.
PORTS = "vb-run-*"
_KEPT = f"{RUN_FOLDER}/firewall"
# What the settings may name in place of networks: what is not the internet (RFC 1918, 6598, 3927, 6890), and where
# clouds tell their machines secrets. Nearly all have that in the link-local network, most at 169.254.169.254, AWS's
# containers at .170.2 and .170.23, Scaleway at .42.42, Tencent at .0.23; besides there are Alibaba's 100.100.100.200,
# Azure's 168.63.129.16 and Oracle's 192.0.0.192. Where one of these is a name server too, it can be asked as that.
_WORDS = {
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "192.0.0.0/24"),
    "metadata": ("169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"),
}


class Kept(NamedTuple):
    """What was loaded last: the ``rules``, a ``digest`` of their listing, the ruleset's ``generation`` (0: unknown)."""

    rules: str
    digest: int
    generation: int


def keep(wanted: str) -> None:
    """Put the rules ``wanted`` in force, in the place of any earlier ones, unless they are; raises HostError."""
    kept = _kept()
    if kept is None or kept.rules != wanted or not _are_whole(kept):
        _load(wanted)


def look() -> bool:
    """Put back the rules that were in force last if any part of them was lost, and tell whether; raises HostError."""
    kept = _kept()
    if kept is None or _are_whole(kept):
        return False
    _load(kept.rules)
    return True


def kept_rules() -> str:
    """Return the rules that were loaded last, or nothing where none were."""
    kept = _kept()
    return kept.rules if kept else ""


def _are_whole(kept: Kept) -> bool:
    generation = nftables.generation()
    if generation and generation == kept.generation:
        return True
    if _digest(nftables.listing(TABLES)) != kept.digest:
        return False
    _write(kept._replace(generation=generation))
    return True


def _load(wanted: str) -> None:
    """Load the rules and write down what is to be seen of them.

    The number is taken before and after: where others change something meanwhile, the next look lists the rules.
    """
    before = nftables.generation()
    nftables.load(replacing(wanted))
    digest = _digest(nftables.listing(TABLES))
    after = nftables.generation()
    _write(Kept(wanted, digest, after if after == before + 1 else 0))


def replacing(wanted: str) -> str:
    """Return the text that puts the rules ``wanted`` in the place of any earlier ones, in one step."""
    # Only what is there can be deleted, so it is made first.
    return "".join(f"table {each}\ndelete table {each}\n" for each in TABLES) + wanted


def _kept() -> Kept | None:
    try:
        return Kept(*json.loads(files.read_head(_KEPT, 1 << 20)))
    except (OSError, ValueError, TypeError):
        return None


def _write(kept: Kept) -> None:
    with suppress(OSError):  # a full /run: then the next look has more to do
        files.write_atomically(_KEPT, json.dumps(kept).encode())


def _digest(listing: list[Any]) -> int:
    from zlib import crc32

    return crc32(json.dumps(listing).encode())


def rules(network: Network, name_servers: Sequence[str]) -> str:
    """Return our tables in the words of nft(8).

    They masquerade what leaves, and keep machines from each other, from the host's listeners and from closed networks.
    A packet whose source is not the address of its machine goes nowhere, nor does any IPv6: no machine has such an
    address. And no machine has more connections than its share of what the kernel can keep track of.
    """
    bridge, subnet = network.bridge, network.subnet
    indent = "\n        "
    return f"""
table inet {TABLE} {{
    set connections {{
        type ipv4_addr
        size 65535
        flags dynamic
    }}
    chain prerouting {{
        type filter hook prerouting priority mangle
        iifname "{bridge}" meta nfproto ipv6 drop
        iifname "{bridge}" ip saddr != {subnet} drop
        iifname "{bridge}" ct state new add @connections {{ ip saddr ct count over {network.connections_max} }} drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat
        ip saddr {subnet} oifname != "{bridge}" masquerade
    }}
    chain input {{
        type filter hook input priority filter
        iifname "{bridge}" ct state established,related accept
        iifname "{bridge}" meta l4proto icmp accept
        iifname "{bridge}" meta l4proto {{ tcp, udp }} th dport 53 accept
        {indent.join(_opened(network))}
        iifname "{bridge}" drop
    }}
    chain forward {{
        type filter hook forward priority filter
        iifname "{bridge}" oifname "{bridge}" drop
        oifname "{bridge}" ct state established,related accept
        oifname "{bridge}" drop
        {indent.join(_closed(network, name_servers))}
    }}
}}
table bridge {TABLE} {{
    chain prerouting {{
        type filter hook prerouting priority filter
        iifname "{PORTS}" ether type != {{ ip, arp }} drop
        {indent.join(_own_source(subnet))}
    }}
    chain forward {{
        type filter hook forward priority filter
        iifname "{PORTS}" oifname "{PORTS}" drop
    }}
}}
"""


def _own_source(subnet: str) -> Iterator[str]:
    """Yield the rules that drop what does not come from the address which belongs to the port's hardware address.

    The last two bytes of both are the same (machines.network.hardware_address), the others are so for all machines.
    A port lets through its own hardware address alone. Where IP has its source and ARP its sender: RFC 791, 826.
    """
    third = int(subnet.split(".")[2])
    for kind, field, start in ("ip", "ip saddr", 96), ("arp", "arp saddr ip", 112):
        yield f'iifname "{PORTS}" ether type {kind} {field} != {subnet} drop'
        for place, values in (2, range(third, third + 16)), (3, range(256)):
            pairs = ", ".join(f"{value} . {value}" for value in values)
            fields = f"@ll,{64 + 8 * place},8 . @nh,{start + 8 * place},8"
            yield f'iifname "{PORTS}" ether type {kind} {fields} != {{ {pairs} }} drop'


def _opened(network: Network) -> Iterator[str]:
    """Yield the rules for what machines may reach of the host."""
    for port in network.host_ports:
        protocol, _, number = port.partition("/")
        yield f'iifname "{network.bridge}" {protocol} dport {number} accept'


def closed_networks(network: Network) -> list[str]:
    """Return the networks that machines may not reach, in CIDR notation, each once."""
    return list(dict.fromkeys(each for word in network.closed for each in _WORDS.get(word, (word,))))


def _closed(network: Network, name_servers: Sequence[str]) -> Iterator[str]:
    """Yield the rules for networks that machines may not reach, name servers in them left out."""
    closed = closed_networks(network)
    if not closed:
        return
    for server in name_servers:
        if ":" not in server:
            yield f'iifname "{network.bridge}" ip daddr {server} meta l4proto {{ tcp, udp }} th dport 53 accept'
    for each in closed:
        yield f'iifname "{network.bridge}" ip daddr {each} drop'
