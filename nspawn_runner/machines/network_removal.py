"""Remove the machines' network from the host: rules, routing rule, bridges."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

from ..errors import HostError
from ..host import nftables, process
from ..settings.tables import Network
from . import firewall, network, subnets


def there_is(wanted: Network) -> list[str]:
    """Return what there is of the machines' network: names of tables, rules and links."""
    listed = json.loads(process.run(["nft", "--json", "list", "tables"]).stdout)["nftables"]
    tables = {f"{each['table']['family']} {each['table']['name']}" for each in listed if "table" in each}
    links = [name for name in (*_bridges(wanted), network.WAITING) if os.path.exists(f"/sys/class/net/{name}")]
    return [
        *(f"table {name}" for name in firewall.TABLES if name in tables),
        *(f"routing rule {network.RULE} of {bridge}" for bridge in _ruled()),
        *(f"link {name}" for name in links),
    ]


def take_down(wanted: Network) -> None:
    """Take it all away; a bridge that others made only loses the address. Raises HostError where it has their ports."""
    for bridge in _bridges(wanted):
        if ports := _ports(bridge):
            raise HostError(
                f"the bridge {bridge} has ports that are no machine's: {', '.join(ports)}",
                advice="take them off (ip link set PORT nomaster) and try again",
            )
    nftables.load(firewall.replacing(""))
    bridges = list(_bridges(wanted))
    for bridge in _ruled():
        process.run(["ip", "rule", "delete", "priority", str(network.RULE), "iif", bridge])
    for bridge in bridges:
        if not os.path.exists(f"/sys/class/net/{bridge}"):
            continue
        subnet = subnets.of_bridge(bridge)
        if not subnet or _is_ours(bridge, wanted._replace(subnet=subnet)):
            process.run(["ip", "link", "delete", bridge])
        else:
            process.run(["ip", "address", "delete", network.gateway(wanted._replace(subnet=subnet)), "dev", bridge])
    process.run(["ip", "link", "delete", network.WAITING], check=False)  # it may not be there


def _bridges(wanted: Network) -> Iterator[str]:
    """Yield the bridge of the settings where machines have been on it, and those that other settings have named."""
    ruled = list(_ruled())
    if wanted.bridge not in ruled and subnets.of_bridge(wanted.bridge):
        yield wanted.bridge
    yield from ruled


def _ruled() -> list[str]:
    """Return the bridges that have our routing rule."""
    listed = json.loads(process.run(["ip", "-json", "rule", "show"]).stdout)
    return [each["iif"] for each in listed if each.get("priority") == network.RULE and each.get("iif")]


def _ports(bridge: str) -> list[str]:
    folder = f"/sys/class/net/{bridge}/brif"
    return os.listdir(folder) if os.path.isdir(folder) else []


def _is_ours(bridge: str, wanted: Network) -> bool:
    """Return whether the tool made the bridge: then it has the hardware address that goes with its address."""
    with open(f"/sys/class/net/{bridge}/address") as file:
        return file.read().strip() == network.hardware_address(wanted, 1)
