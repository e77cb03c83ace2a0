"""Choose the /20 of the machines' addresses: the settings', the one in use, or a free one."""

from __future__ import annotations

# The module socket would cost each stage several milliseconds.
import _socket
import fcntl
import json
from collections.abc import Iterator

from ..errors import HostError
from ..host import process
from ..light_typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ipaddress import IPv4Network

PREFIX_LENGTH = 20
_SIOCGIFADDR = 0x8915  # netdevice(7)
# The one that most hosts have, and RFC 1918 for the others.
_FIRST, _RANGES = "10.213.0.0", ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")


class Claim(NamedTuple):
    """Addresses that the host knows the way to; ``attached`` where they are on a link of its own."""

    network: IPv4Network
    attached: bool
    text: str


def of_bridge(bridge: str) -> str:
    """Return the subnet whose first address ``bridge`` has, in CIDR notation, or nothing where it has no such."""
    probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, bridge.encode().ljust(40, b"\0"))
    except OSError:  # there is none, or it has no address
        return ""
    finally:
        probe.close()
    first, second, third, fourth = answer[20:24]
    return f"{first}.{second}.{third}.0/{PREFIX_LENGTH}" if (third % 16, fourth) == (0, 1) else ""


def choose(bridge: str) -> str:
    """Return a free subnet for ``bridge``, the same each time while the host's addresses and routes are the same.

    One that a route leads into, such as that of a VPN to all of 10.0.0.0/8, is taken only when there is no other.
    Halves of the internet, by which VPNs take over the default route, are in nobody's way. Raises HostError where none
    is free.
    """
    claims = list(_claims(bridge))
    routed = [each.network for each in claims if each.network.prefixlen > 1]
    in_the_way = [each.network for each in claims if each.attached]
    for taken in routed, in_the_way:
        for network in _candidates():
            if not any(network.overlaps(each) for each in taken):
                return str(network)
    raise HostError(
        "no /20 of private addresses is free for the machines' network",
        facts="; ".join(each.text for each in claims if each.attached)[:300],
        advice='free one, or let machines do without: mode = "none" under [network] in the settings',
    )


def check(subnet: str, bridge: str) -> None:
    """Raise HostError where ``subnet`` has addresses of the host's own links: they would vanish behind ``bridge``.

    A wider route does no harm, since the bridge's own is the narrower one.
    """
    from ipaddress import IPv4Network

    ours = IPv4Network(subnet)
    for claim in _claims(bridge):
        if claim.attached and ours.overlaps(claim.network):
            raise HostError(
                f"the machines' network {subnet} overlaps what the host has: {claim.network}",
                facts=claim.text,
                advice="take subnet under [network] out of the settings, and a free one is chosen; or set another /20",
            )


def _candidates() -> Iterator[IPv4Network]:
    """Yield the subnets that may be chosen, the higher half of each range first, which people use less."""
    from ipaddress import IPv4Network

    yield IPv4Network(f"{_FIRST}/{PREFIX_LENGTH}")
    for each in _RANGES:
        for half in reversed([*IPv4Network(each).subnets()]):
            yield from half.subnets(new_prefix=PREFIX_LENGTH)


def _claims(bridge: str) -> Iterator[Claim]:
    """Yield what the host's addresses and routes claim, but for those of ``bridge``."""
    from ipaddress import IPv4Network

    for link in _ip("address"):
        for known in link.get("addr_info", ()) if link.get("ifname") != bridge else ():
            # A link with two ends has the other's address, too.
            for address in {known["local"], known.get("address", known["local"])}:
                network = IPv4Network(f"{address}/{known['prefixlen']}", strict=False)
                yield Claim(network, attached=True, text=f"{address}/{known['prefixlen']} on {link['ifname']}")
    for route in _ip("route", "table", "all"):
        if route.get("dev") == bridge or route["dst"] == "default" or route.get("table") == "local":
            continue
        network = IPv4Network(route["dst"], strict=False)
        # One that is no wider than any subnet of ours stands over it, wherever it leads, or does not lead.
        attached = network.prefixlen >= PREFIX_LENGTH and "table" not in route
        words = [route.get("type"), route["dst"], route.get("gateway"), route.get("dev")]
        yield Claim(network, attached=attached, text=f"route {' '.join(word for word in words if word)}")


def _ip(*what: str) -> list[dict[str, Any]]:
    """Return what ip(8) shows of IPv4."""
    found: list[dict[str, Any]] = json.loads(process.run(["ip", "-json", "-4", what[0], "show", *what[1:]]).stdout)
    return [each for each in found if each]  # for links without an address some versions have an empty object
