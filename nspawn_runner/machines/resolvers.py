"""Choose the name servers of machines: the settings', else those of the host that machines can reach.

A server on a loopback address is the machine itself in a machine, and a machine has no IPv6. Where the host has put a
program of its own there, that program's list of servers is taken.
"""

from __future__ import annotations

import os

from ..host import files
from ..light_typing import NamedTuple
from ..settings.tables import Network

HOSTS = "/etc/resolv.conf"
RESOLVED = "/run/systemd/resolve/resolv.conf"
# What systemd-resolved asks, what NetworkManager has its dnsmasq or unbound ask, what resolvconf has dnsmasq ask.
_BEHIND = (RESOLVED, "/run/NetworkManager/no-stub-resolv.conf", "/run/dnsmasq/resolv.conf")


class Choice(NamedTuple):
    """The ``servers`` of the file ``source``, or of the settings where that is empty; not all can be reached."""

    source: str
    servers: tuple[str, ...]


def choose(network: Network) -> Choice:
    """Return the servers that machines are given: the host's own where none can be reached."""
    if network.dns:
        return Choice("", network.dns)
    found = [Choice(path, _servers(path)) for path in (HOSTS, *_BEHIND)]
    return next((each for each in found if any(map(_is_reachable, each.servers))), found[0])


def lack(network: Network) -> str:
    """Say why no name server that machines are given can be reached; nothing where one can."""
    source, servers = choose(network)
    if any(map(_is_reachable, servers)):
        return ""
    where = source or "[network] dns"
    if not servers:
        return f"{where} names no server" if os.path.exists(where) else f"there is no {where}"
    if not any(map(_is_loopback, servers)):
        return f"{where} names servers by IPv6 alone, which machines do not have: {', '.join(servers)[:100]}"
    return f"{where} names only the host itself, which machines cannot ask: {', '.join(servers)[:100]}"


def _is_reachable(server: str) -> bool:
    return ":" not in server and not _is_loopback(server)


def _is_loopback(server: str) -> bool:
    return server.startswith(("127.", "0.")) or server == "::1"


def _servers(path: str) -> tuple[str, ...]:
    try:
        content = files.read_head(path, 65536)
    except OSError:
        return ()
    lines = content.decode(errors="replace").splitlines()
    return tuple(words[1] for line in lines if len(words := line.split()) > 1 and words[0] == "nameserver")
