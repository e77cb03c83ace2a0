"""Whether the host's firewall lets the machines' packets out: one is sent, and looked for where it leaves.

It goes to 192.0.2.1, which is nobody (RFC 5737), by way of a network namespace that is joined to the bridge as a
machine is. What other programs put into the FORWARD chain of iptables, legacy or not, counts as well.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ...errors import HostError
from ...host import files, locks, process
from ...machines import network
from ...machines.network import INTERFACE
from ...settings import RUN_FOLDER, Network
from . import Context, Finding, failed, ok, warning
from .network import forwards

_NOWHERE = "192.0.2.1"
_LINK = "vb-doctor"
_TABLE = "nspawn_runner_doctor"
# 4094 is the place that no machine has; a fixed neighbour keeps the trial from asking for it on the bridge.
_SLOT = 4094
_IPTABLES_DROPS = re.compile(r"chain FORWARD \{\s*type filter hook forward [^;]*; policy drop")
_SEND = f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('{_NOWHERE}', 9))"


def firewall(context: Context) -> Iterator[Finding]:
    """A machine's packet gets through the host, to where the default route leads."""
    wanted = context.settings.network
    if not forwards() and not os.access(network.FORWARD, os.W_OK):
        return  # told already
    if not process.run(["ip", "-4", "route", "show", "default"]).stdout.strip():
        yield warning("the host has no default route: jobs reach nothing outside", "ip route add default via …")
        return
    files.make_private_folder(RUN_FOLDER)
    with locks.locked(f"{RUN_FOLDER}/doctor.lock", what="doctor's trial of the firewall"):
        network.set_up(wanted)()
        passed = _gets_through(wanted)
    if passed:
        yield ok("lets packets of machines through")
    else:
        who, mend = _culprit(wanted.bridge)
        yield failed(f"{who} drops what machines send: jobs reach nothing outside", mend)


def _gets_through(wanted: Network) -> bool:
    address = network.address(wanted, _SLOT)
    with ExitStack() as stack:
        pid = stack.enter_context(_joined(wanted, address))
        stack.callback(process.run, ["nft", "delete", "table", "inet", _TABLE], check=False)
        process.run(["nft", "--file", "-"], stdin=_counter(address).encode())
        for _ in range(10):
            process.run(["nsenter", f"--target={pid}", "--net", sys.executable, "-I", "-S", "-c", _SEND], check=False)
            listed = process.run(["nft", "list", "table", "inet", _TABLE]).stdout.decode()
            if int(re.findall(r"packets (\d+)", listed)[0]):
                return True
            time.sleep(0.05)
    return False


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
        process.run(["ip", "link", "delete", _LINK], check=False)  # of a doctor that was killed
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
        process.run(["ip", "link", "delete", _LINK], check=False)


def _wait_for_namespace(pid: int) -> None:
    ours = os.readlink("/proc/self/ns/net")
    deadline = time.monotonic() + 10
    while os.readlink(f"/proc/{pid}/ns/net") == ours:
        if time.monotonic() > deadline:
            raise HostError("no network namespace can be made", advice="sysctl user.max_net_namespaces")
        time.sleep(0.005)


def _culprit(bridge: str) -> tuple[str, str]:
    """Return who is likely to have dropped a forwarded packet, and the command that lets the machines' through."""
    ruleset = process.run(["nft", "--stateless", "list", "ruleset"], check=False).stdout.decode(errors="replace")
    legacy = _legacy_rules()
    ipt = "iptables-legacy" if "-P FORWARD DROP" in legacy else "iptables"
    if "table inet firewalld" in ruleset:
        add = f"firewall-cmd --permanent --zone=trusted --add-interface={bridge}; firewall-cmd --reload"
        return "firewalld", add
    if "ufw-" in ruleset or "ufw-" in legacy:
        return "ufw", f"ufw route allow in on {bridge}"
    if "DOCKER-USER" in ruleset or "DOCKER-USER" in legacy:
        return "Docker's firewall", _accept(ipt, "DOCKER-USER", bridge)
    if "-P FORWARD DROP" in legacy or _IPTABLES_DROPS.search(ruleset):
        return f"the FORWARD chain of {ipt}", _accept(ipt, "FORWARD", bridge)
    table, chain = _dropping_chain(ruleset)
    if chain:
        insert = f"nft insert rule {table} {chain}"
        out, back = f"iifname {bridge} accept", f"oifname {bridge} ct state established,related accept"
        return f"the chain {chain} of the table {table}", f"{insert} {out}; {insert} {back}"
    return "a firewall rule", f"let the forward chains in: nft list ruleset, accept what comes from {bridge}"


def _legacy_rules() -> str:
    try:
        return process.run(["iptables-legacy", "--list-rules"], check=False).stdout.decode(errors="replace")
    except HostError:
        return ""


def _accept(ipt: str, chain: str, bridge: str) -> str:
    back = f"{ipt} -I {chain} -o {bridge} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
    return f"{ipt} -I {chain} -i {bridge} -j ACCEPT; {back}"


def _dropping_chain(ruleset: str) -> tuple[str, str]:
    """Return table and chain of the forward hook in ``ruleset`` that drops by default, else of any that is not ours."""
    table = chain = ""
    hooks = []
    for line in ruleset.splitlines():
        words = line.split()
        if words[:1] == ["table"] and len(words) > 2:
            table = f"{words[1]} {words[2]}"
        elif words[:1] == ["chain"] and len(words) > 1:
            chain = words[1]
        elif "hook forward" in line and table.split()[-1] != "nspawn_runner" and not table.startswith("bridge"):
            hooks.append(("policy drop" not in line, table, chain))
    return min(hooks)[1:] if hooks else ("", "")


CHECKS = (firewall,)
