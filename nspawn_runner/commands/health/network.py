"""The machines' network: what the kernel can do is tried in a network namespace that goes again at once."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ...host import files, process
from ...images import store
from ...machines import firewall, network, subnets
from .. import job_image
from . import Context, Finding, failed, ok, warning

_OWN_NETWORK = ["unshare", "--net", "--"]


def is_wanted(context: Context) -> bool:
    """Tell whether any machine is to have a network of its own, by the settings or by what its image says."""
    folder = context.settings.state_folder
    found = (store.find(folder, name) for name in store.names(folder))
    own = [job_image.own_values(image).get("network") for image in found if image]
    return network.PRIVATE in [context.settings.network.mode, *own]


def bridge(context: Context) -> Iterator[Finding]:
    """The bridge of the machines is there with its address, or can be made."""
    if not is_wanted(context):
        yield ok("machines have no network of their own")
        return
    wanted = network.settled(context.settings.network._replace(mode=network.PRIVATE))
    name, gateway = wanted.bridge, network.gateway(wanted)
    if os.path.exists(f"/sys/class/net/{name}"):
        if not os.path.isdir(f"/sys/class/net/{name}/bridge"):
            yield failed(f"the interface {name} is no bridge", "another name in the settings: [network] bridge")
            return
        if network.is_up(name) and subnets.of_bridge(name) != wanted.subnet:
            yield failed(f"{name} is up, but has not the address {gateway}", f"ip address add {gateway} dev {name}")
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
    name = context.settings.network.bridge
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
    """Tell whether the host forwards packets."""
    return files.read_head(network.FORWARD, 8).strip() == b"1"


def address_translation(context: Context) -> Iterator[Finding]:
    """nft takes our tables, and they are in force where the bridge is up."""
    if not is_wanted(context):
        return
    wanted = network.settled(context.settings.network._replace(mode=network.PRIVATE))
    tables = firewall.rules(wanted, network.name_servers(wanted)).encode()
    done = process.run([*_OWN_NETWORK, "nft", "--file", "-"], stdin=tables, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        yield failed(
            f"nft does not take our tables: {said[0] if said else 'no message'}",
            "modprobe --all nf_tables nft_masq nft_ct nft_chain_nat nf_tables_bridge",
        )
        return
    there = not process.run(["nft", "list", "table", "inet", firewall.TABLE], check=False).returncode
    if network.is_up(wanted.bridge) and not there:
        yield warning("our tables were removed; the next machine brings them back", "nspawn-runner doctor --job")
    else:
        yield ok("our tables are in force" if there else "our tables are made with the first machine")


def name_servers(context: Context) -> Iterator[Finding]:
    """Machines are given name servers that they can reach."""
    if not is_wanted(context):
        return
    if network.lacks_name_servers(context.settings.network):
        yield warning(
            "/etc/resolv.conf names only the host itself, which machines cannot ask: names are not found in jobs",
            "[network] dns in the settings, or apt install systemd-resolved",
        )
    else:
        yield ok("machines are given name servers that are not the host itself")


CHECKS = (bridge, forwarding, address_translation, name_servers)
