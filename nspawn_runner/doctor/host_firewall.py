"""Does the host's firewall let the machines' packets out, and the answers in? It is tried.

A packet goes to 192.0.2.1, which is nobody (RFC 5737), from a network namespace that is joined to the bridge as a
machine is, and is looked for where it leaves the host. Then the router is asked for an echo, if it gives the host one.
What other programs put into the FORWARD chain of iptables, legacy or not, counts as well.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address, ip_network
from typing import Any

from ..errors import HostError
from ..host import files, locks, process, signals
from ..machines import firewall as ours
from ..machines import network
from ..machines.network import INTERFACE
from ..settings.paths import RUN_FOLDER
from ..settings.tables import Network
from . import Context, Finding, failed, ok, warning
from .bridge import forwards, is_wanted

_NOWHERE = "192.0.2.1"
_LINK = "vb-doctor"
_PYTHON = [sys.executable, "-I", "-S", "-c"]
_PACKETS, _ANSWERS = "what machines send", "the answers to what machines send"
_TABLE = "nspawn_runner_doctor"
# 4094 is the place that no machine has; a fixed neighbour keeps the trial from asking for it on the bridge.
_SLOT = 4094
# An echo request by hand, since ping(8) may not be installed: type 8, checksum, RFC 792. The status is 0 for an answer.
_ECHO = """
import os, socket, sys, time
number = os.getpid() & 0xffff
total = 0x0800 + number + 1
total = ~((total & 0xffff) + (total >> 16)) & 0xffff
link = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
link.sendto(b"".join(part.to_bytes(2, "big") for part in (0x0800, total, number, 1)), (sys.argv[1], 0))
end = time.monotonic() + 1
while (left := end - time.monotonic()) > 0:
    link.settimeout(left)
    answer = link.recv(2048)
    start = (answer[0] & 15) * 4
    if answer[start] == 0 and answer[start + 4:start + 6] == number.to_bytes(2, "big"):
        sys.exit(0)
sys.exit(1)
"""
_SEND = f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('{_NOWHERE}', 9))"


def firewall(context: Context) -> Iterator[Finding]:
    """A machine's packet gets through the host, to where the default route leads."""
    wanted = network.with_subnet(context.own.network._replace(mode=network.PRIVATE))
    if not is_wanted(context) or (not forwards() and not os.access(network.FORWARD, os.W_OK)):
        return  # reported already
    if _is_closed(_NOWHERE, wanted):
        yield ok("the settings close what is outside")
        return
    routes = json.loads(process.run(["ip", "-json", "-4", "route", "show", "default"]).stdout)
    if not routes:
        yield warning("the host has no default route: jobs reach nothing outside", advice="see: ip route")
        return
    files.make_private_folder(RUN_FOLDER)
    with locks.locked(f"{RUN_FOLDER}/doctor.lock", what="doctor's trial of the firewall"):
        network.set_up(wanted)()
        dropped = _dropped(wanted, router=routes[0].get("gateway", ""))
    if not dropped:
        yield ok("lets packets of machines through")
        return
    who, mend = _culprit(wanted.bridge)
    advice = "" if mend else f"let the forward chains in nft list ruleset accept what comes from {wanted.bridge}"
    if dropped == _ANSWERS:  # or only the echo is unwanted
        yield warning(f"{who} drops {dropped}: jobs may reach nothing outside", mend, advice=advice)
    else:
        yield failed(f"{who} drops {dropped}: jobs reach nothing outside", mend, advice=advice)


def _dropped(wanted: Network, *, router: str) -> str:
    """Return what of the machines' packets does not get through, nothing where all seems to."""
    address = network.address(wanted, _SLOT)
    with ExitStack() as stack:
        pid = stack.enter_context(_joined(wanted, address))
        stack.callback(remove_table)
        process.run(["nft", "--file", "-"], stdin=_counter(address).encode())
        machine = ["nsenter", f"--target={pid}", "--net"]
        if not any(_leaves(machine) for _ in range(10)):
            return _PACKETS
        asked = router and not _is_closed(router, wanted) and _answers(router)
        if asked and not any(_answers(router, machine) for _ in range(2)):
            return _ANSWERS
    return ""


def has_leftovers() -> bool:
    """Return whether link or table of a trial are there, of one that goes on or was killed."""
    if os.path.exists(f"/sys/class/net/{_LINK}"):
        return True
    return not process.run(["nft", "list", "table", "inet", _TABLE], check=False).returncode


def remove_link() -> None:
    """Remove the link of the trial if it is there."""
    process.run(["ip", "link", "delete", _LINK], check=False)


def remove_table() -> None:
    """Remove the table of the trial if it is there."""
    process.run(["nft", "delete", "table", "inet", _TABLE], check=False)


def _is_closed(address: str, wanted: Network) -> bool:
    """Return whether the settings keep machines from ``address``."""
    return any(ip_address(address) in ip_network(each, strict=False) for each in ours.closed_networks(wanted))


def _leaves(machine: Sequence[str]) -> bool:
    """Send a packet from where ``machine`` enters, and tell whether any has left the host."""
    process.run([*machine, *_PYTHON, _SEND], check=False)
    listed = json.loads(process.run(["nft", "--json", "list", "table", "inet", _TABLE]).stdout)["nftables"]
    said = [part for each in listed for part in each.get("rule", {}).get("expr", ())]
    if any(part.get("counter", {}).get("packets") for part in said if isinstance(part.get("counter"), dict)):
        return True
    signals.sleep(0.05)
    return False


def _answers(router: str, machine: Sequence[str] = ()) -> bool:
    return process.run([*machine, *_PYTHON, _ECHO, router], check=False).returncode == 0


def _counter(address: str) -> str:
    """The table that counts what leaves; before address translation, which has a higher priority."""
    return f"""
table inet {_TABLE} {{ }}
delete table inet {_TABLE}
table inet {_TABLE} {{
    chain postrouting {{
        type filter hook postrouting priority filter
        ip saddr {address} ip daddr {_NOWHERE} counter
    }}
}}
"""


@contextmanager
def _joined(wanted: Network, address: str) -> Iterator[int]:
    """Yield the pid of a process in a network namespace that is joined to the bridge; all of it goes at the end."""
    holder = process.spawn(["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--net", "--", "sleep", "60"])
    try:
        _wait_for_namespace(holder.pid)
        remove_link()  # of a doctor that was killed
        link = ["ip", "link", "add", _LINK, "type", "veth", "peer", "name", INTERFACE, "netns", str(holder.pid)]
        process.run(link)
        process.run(["ip", "link", "set", _LINK, "master", wanted.bridge, "up"])
        via = network.gateway(wanted).partition("/")[0]
        hardware = files.read_head(f"/sys/class/net/{wanted.bridge}/address", 64).decode().strip()
        batch = (
            f"link set {INTERFACE} up\naddress add {address}/20 dev {INTERFACE}\n"
            f"neighbour replace {via} lladdr {hardware} dev {INTERFACE} nud permanent\nroute add default via {via}\n"
        )
        process.run(["nsenter", f"--target={holder.pid}", "--net", "ip", "-batch", "-"], stdin=batch.encode())
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()
        remove_link()
        process.run(["ip", "neighbour", "flush", "to", address, "dev", wanted.bridge], check=False)


def _wait_for_namespace(pid: int) -> None:
    ours = os.readlink("/proc/self/ns/net")
    deadline = time.monotonic() + 10
    while os.readlink(f"/proc/{pid}/ns/net") == ours:
        if time.monotonic() > deadline:
            raise HostError("no network namespace can be made", advice="sysctl user.max_net_namespaces")
        signals.sleep(0.005)


def _culprit(bridge: str) -> tuple[str, str]:
    """Return who is likely to have dropped a forwarded packet, and the command that lets the machines' through."""
    chains = _chains()
    names = {chain["name"] for chain in chains}
    legacy = _legacy_rules()
    ipt = "iptables-legacy" if "-P FORWARD DROP" in legacy else "iptables"
    if any((chain["family"], chain["table"]) == ("inet", "firewalld") for chain in chains):
        add = f"firewall-cmd --permanent --zone=trusted --add-interface={bridge}; firewall-cmd --reload"
        return "firewalld", add
    if "ufw-" in legacy or any(name.startswith("ufw-") for name in names):
        return "ufw", f"ufw route allow in on {bridge}"
    if "DOCKER-USER" in legacy or "DOCKER-USER" in names:
        return "Docker's firewall", _accept(ipt, "DOCKER-USER", bridge)
    hooks = [chain for chain in chains if chain.get("hook") == "forward" and chain["family"] != "bridge"]
    dropping = [chain for chain in hooks if chain.get("policy") == "drop"]
    if "-P FORWARD DROP" in legacy or any(chain["name"] == "FORWARD" for chain in dropping):
        return f"the FORWARD chain of {ipt}", _accept(ipt, "FORWARD", bridge)
    for chain in [*dropping, *(chain for chain in hooks if chain["table"] != ours.TABLE)]:
        table = f"{chain['family']} {chain['table']}"
        insert = f"nft insert rule {table} {chain['name']}"
        out, back = f"iifname {bridge} accept", f"oifname {bridge} ct state established,related accept"
        return f"the chain {chain['name']} of the table {table}", f"{insert} {out}; {insert} {back}"
    return "a firewall rule", ""


def _chains() -> list[dict[str, Any]]:
    """Return the chains of all tables, as libnftables-json(5) has them."""
    done = process.run(["nft", "--json", "--terse", "list", "chains"], check=False)
    listed = json.loads(done.stdout or b"{}").get("nftables", [])
    return [each["chain"] for each in listed if "chain" in each]


def _legacy_rules() -> str:
    # To ask iptables-legacy would load its tables where nobody uses them.
    try:
        if b"filter" not in files.read_head("/proc/net/ip_tables_names", 4096).split():
            return ""
    except OSError:
        return ""
    try:
        return process.run(["iptables-legacy", "--list-rules"], check=False).stdout.decode(errors="replace")
    except HostError:
        return ""


def _accept(ipt: str, chain: str, bridge: str) -> str:
    back = f"{ipt} -I {chain} -o {bridge} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
    return f"{ipt} -I {chain} -i {bridge} -j ACCEPT; {back}"


CHECKS = (firewall,)
