"""The firewall of private networks, in nftables tables of our own: the way out, and what machines cannot reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ..host import process
from ..settings import Network

TABLE = "nspawn_runner"
# What the settings may name in place of networks: what is not the internet (RFC 1918, 6598, 3927), and where clouds
# tell their machines secrets.
_WORDS = {
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16"),
    "metadata": ("169.254.169.254/32", "100.100.100.200/32"),
}


def set_up(network: Network, name_servers: Sequence[str]) -> Callable[[], None]:
    """Look whether the rules for ``network`` are loaded; what is returned is to be called to load them if not.

    They are looked for while the machine boots. Whoever flushed them, or changed the settings, they are there again
    with the next machine. Raises HostError from what is returned.
    """
    wanted = rules(network, name_servers)
    version = f"version_{_digest(wanted)}"
    there = process.spawn(
        ["nft", "list", "chain", "inet", TABLE, version], stdout=process.DEVNULL, stderr=process.DEVNULL
    )

    def complete() -> None:
        if there.wait() != 0:
            process.run(["nft", "--file", "-"], stdin=_replacing(wanted, version).encode())

    return complete


def _replacing(rules: str, version: str) -> str:
    """Return the text that puts ``rules`` in the place of any earlier ones, in one step; an empty chain tells which."""
    families = ("inet", "bridge")
    # Only what is there can be deleted, so it is made first.
    fresh = "".join(f"table {each} {TABLE}\ndelete table {each} {TABLE}\n" for each in families)
    return f"{fresh}{rules}table inet {TABLE} {{\n    chain {version} {{ }}\n}}\n"


def _digest(rules: str) -> str:
    from zlib import crc32

    return f"{crc32(rules.encode()):08x}"


def rules(network: Network, name_servers: Sequence[str]) -> str:
    """Return our tables in the words of nft(8).

    They masquerade what leaves, and keep machines from each other, from the host's listeners and from closed networks.
    What claims to come from elsewhere goes nowhere: it would leave as it is.
    """
    bridge, subnet = network.bridge, network.subnet
    # systemd-nspawn's name for the host's end of the link to a machine run-ID; told by name, since a machine's port
    # must be cut off from its first moment, and a match on the bridge needs a module that some kernels lack.
    ports = "vb-run-*"
    indent = "\n        "
    return f"""
table inet {TABLE} {{
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
        iifname "{bridge}" ip saddr != {subnet} drop
        oifname "{bridge}" ct state established,related accept
        oifname "{bridge}" drop
        {indent.join(_closed(network, name_servers))}
    }}
}}
table bridge {TABLE} {{
    chain forward {{
        type filter hook forward priority filter
        iifname "{ports}" oifname "{ports}" drop
    }}
}}
"""


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
