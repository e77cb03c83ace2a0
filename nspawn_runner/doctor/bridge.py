"""The machines' network: what the kernel can do is tried in a temporary network namespace."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from ..host import files, nftables, process
from ..images import store
from ..jobs import job_image
from ..machines import firewall, network, resolvers, subnets
from . import Context, Finding, failed, ok, warning

_OWN_NETWORK = ["unshare", "--net", "--"]
# Loads our tables and lists them, as host.nftables does.
_TRY = "nft --file - && " + " && ".join(f"nft {' '.join(nftables.LIST)} {table}" for table in firewall.TABLES)
_CUT_OFF = {"isolated": True, "learning": False, "locked": True}


def is_wanted(context: Context) -> bool:
    """Return whether any machine is to have a network of its own, by the settings or by what its image says."""
    folder = context.settings.state_folder
    found = (store.find(folder, name) for name in store.names(folder))
    own = [job_image.own_values(image).get("network") for image in found if image]
    return network.PRIVATE in [context.own.network.mode, *own]


def bridge(context: Context) -> Iterator[Finding]:
    """The bridge of the machines is there with its address, or can be made."""
    if not is_wanted(context):
        yield ok("machines have no network of their own")
        return
    wanted = network.with_subnet(context.own.network._replace(mode=network.PRIVATE))
    name, gateway = wanted.bridge, network.gateway(wanted)
    if os.path.exists(f"/sys/class/net/{name}"):
        if not os.path.isdir(f"/sys/class/net/{name}/bridge"):
            yield failed(f"the interface {name} is no bridge", advice="another name in the settings: [network] bridge")
            return
        if network.is_up(name) and subnets.of_bridge(name) != wanted.subnet:
            yield failed(f"{name} is up, but has not the address {gateway}", f"ip address replace {gateway} dev {name}")
            return
        subnets.check(wanted.subnet, name)
        yield ok(f"{name}, {gateway}")
        return
    subnets.check(wanted.subnet, name)
    links = b"link add name bridge0 type bridge\nlink add name veth0 type veth peer name veth1\n"
    done = process.run([*_OWN_NETWORK, "ip", "-batch", "-"], stdin=links, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        yield failed(f"no bridge can be made: {said[0] if said else 'no message'}", "modprobe --all bridge veth")
    else:
        yield ok(f"{name} is made with the first machine, {gateway}")


def forwarding(context: Context) -> Iterator[Finding]:
    """The host forwards packets, or can be told to."""
    if not is_wanted(context):
        return
    name = context.own.network.bridge
    mend = "sysctl --write net.ipv4.ip_forward=1"
    if not forwards():
        if not os.access(network.FORWARD, os.W_OK):
            mend = f"mount --options=remount,rw /proc/sys; {mend}"
            yield failed("net.ipv4.ip_forward is 0 and cannot be changed", mend)
        elif network.is_up(name):
            yield warning("net.ipv4.ip_forward is 0: something turned it off; the next machine turns it on", mend)
        else:
            yield ok("net.ipv4.ip_forward is 0; the first machine turns it on")
        return
    of_bridge = f"/proc/sys/net/ipv4/conf/{name}/forwarding"
    if os.path.exists(of_bridge) and files.read_head(of_bridge, 8).strip() == b"0":
        yield failed(f"{name} does not forward", f"sysctl --write net.ipv4.conf.{name}.forwarding=1")
    else:
        yield ok("net.ipv4.ip_forward is 1")


def forwards() -> bool:
    """Return whether the host forwards packets."""
    return files.read_head(network.FORWARD, 8).strip() == b"1"


def address_translation(context: Context) -> Iterator[Finding]:
    """nft takes our tables, and no part of them is lost where the bridge is up."""
    if not is_wanted(context):
        return
    wanted = network.with_subnet(context.own.network._replace(mode=network.PRIVATE))
    # Those of the machine that came last are in force.
    rules = firewall.kept_rules() or firewall.rules(wanted, network.name_servers(wanted))
    done = process.run([*_OWN_NETWORK, "sh", "-c", _TRY], stdin=rules.encode(), check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        yield failed(
            f"nft does not take our tables: {said[0] if said else 'no message'}",
            "modprobe --all nf_tables nft_masq nft_ct nft_connlimit nft_chain_nat nf_tables_bridge",
        )
        return
    if not network.is_up(wanted.bridge):
        yield ok("our tables are made with the first machine")
        return
    should_be = [part for line in done.stdout.splitlines() for part in nftables.parts(line)]
    if lost := _lost(should_be, nftables.listing(firewall.TABLES)):
        yield warning(f"others changed our tables: {'; '.join(lost)}", "nspawn-runner gc")
    else:
        yield ok("our tables are in force and complete")


def _lost(should_be: Sequence[Any], there: Sequence[Any]) -> list[str]:
    """Say what of ``should_be`` is not ``there``, or is there besides: of a lost table or chain not what was in it."""
    missing = list(dict.fromkeys(_place(part) for part in should_be if part not in there))
    more = list(dict.fromkeys(_place(part) for part in there if part not in should_be))
    whole = [place for place in missing if not any(place != above and place.startswith(above) for above in missing)]
    return [f"{place} is missing" for place in whole] + [f"{place} is not ours" for place in more]


def _place(part: Any) -> str:
    """Return where a part of the ruleset is, the greater first: its table, its chain or set, that it is a rule."""
    [(kind, known)] = part.items()
    if kind == "table":
        return f"table {known['family']} {known['name']}"
    within = f"table {known['family']} {known['table']}"
    return f"{within}, chain {known['chain']}, a rule" if kind == "rule" else f"{within}, {kind} {known['name']}"


def ports(context: Context) -> Iterator[Finding]:
    """Each machine's port is cut off from the others, and the bridge where it waits for that is down."""
    name = context.own.network.bridge
    if not is_wanted(context) or not network.is_up(name):
        return
    if network.is_up(network.WAITING):
        down = f"ip link set dev {network.WAITING} down"
        yield warning(f"{network.WAITING} is up: machines that boot reach each other by it", down)
    shown = json.loads(process.run(["bridge", "-json", "-details", "link", "show"]).stdout)
    machines = [port for port in shown if port.get("master") == name and port["ifname"].startswith("vb-run-")]
    wrong = [port["ifname"] for port in machines if any(port.get(key) != value for key, value in _CUT_OFF.items())]
    for port in wrong:
        mend = f"bridge link set dev {port} isolated on learning off locked on"
        yield warning(f"the port {port} is not cut off from those of other machines", mend)
    if not wrong:
        yield ok(f"{len(machines)} of machines are cut off from each other")


def name_servers(context: Context) -> Iterator[Finding]:
    """Machines are given name servers that they can reach."""
    if not is_wanted(context):
        return
    if lack := resolvers.lack(context.own.network):
        text = f"names are not found in jobs: {lack}"
        yield warning(text, advice="[network] dns in the settings, or a resolver that other hosts can reach")
    else:
        source, servers = resolvers.choose(context.own.network)
        yield ok(f"machines are given those of {source or 'the settings'}: {', '.join(servers)}")


CHECKS = (bridge, forwarding, address_translation, ports, name_servers)
