"""The machines' network: by default a bridge of our own with NAT, and addresses that are set from outside.

A machine's root lives in a user namespace and cannot use the host's network properly, so each machine has its own
network namespace on our bridge. Its address follows from its slot; ``ip`` sets it in that namespace while the
machine boots, which takes some milliseconds and nothing in the image. An admin may choose a namespace with nothing but
loopback instead, which systemd-nspawn brings up, or the host's own.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

from ..errors import HostError
from ..host import files, process, signals
from ..settings import Network
from . import firewall, records, subnets
from .records import Record

PRIVATE, NONE, HOST = "private", "none", "host"
INTERFACE = "host0"  # systemd-nspawn's name for the machine's end of --network-bridge
_LOCALHOST = b"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
_UPLINK = "/run/systemd/resolve/resolv.conf"
FORWARD = "/proc/sys/net/ipv4/ip_forward"


def settled(network: Network) -> Network:
    """Return ``network`` with the subnet that its machines have: of the settings, of the bridge, else a free one.

    Raises HostError where none is free.
    """
    if network.subnet or network.mode != PRIVATE:
        return network
    of_bridge = subnets.of_bridge(network.bridge) if is_up(network.bridge) else ""
    return network._replace(subnet=of_bridge or subnets.choose(network.bridge))


def gateway(network: Network) -> str:
    """Return the bridge's address with its prefix length."""
    return f"{address(network, 1)}/20"


def address(network: Network, slot: int) -> str:
    """Return the address of the machine in ``slot``; reckoned by hand, since loading ipaddress takes a millisecond."""
    first, second, third, _ = network.subnet.partition("/")[0].split(".")
    return f"{first}.{second}.{int(third) + slot // 256}.{slot % 256}"


def hardware_address(network: Network, slot: int) -> str:
    """Return the hardware address of the machine in ``slot``: of those that anyone may give, the one of its address."""
    return "02:00:" + ":".join(f"{int(byte):02x}" for byte in address(network, slot).split("."))


def write_files(record: Record, network: Network) -> None:
    """Write the machine's /etc/hosts, and what ``ip -batch`` is to do in the network namespace of a private one.

    And what ip and bridge are to do on the host, so that no machine can take the place of another on the bridge.
    """
    # Without an address of its own a machine's name is 127.0.1.1, as Debian has it.
    own = address(network, record.slot) if record.network == PRIVATE else "127.0.1.1"
    known = _hosts_file() if record.network == HOST else _LOCALHOST
    hosts = known + f"{own} {record.machine}\n".encode()
    hosts += "".join(f"{address} {name}\n" for name, address in network.extra_hosts.items()).encode()
    files.make_private_folder(os.path.dirname(record.hosts_file))
    files.write_atomically(record.hosts_file, hosts, mode=0o644)
    os.chown(record.hosts_file, record.uid_base, record.uid_base)
    if record.network != PRIVATE:
        return
    if network.dns:
        servers = "".join(f"nameserver {server}\n" for server in network.dns)
        files.write_atomically(_resolver(record), servers.encode(), mode=0o644)
    hardware, via = hardware_address(network, record.slot), gateway(network).partition("/")[0]
    batch = (
        "link set lo up",
        f"link set {INTERFACE} address {hardware}",
        f"address replace {own}/20 dev {INTERFACE}",
        f"link set {INTERFACE} up",
        f"route replace default via {via}",
        f"link show dev {INTERFACE}",
    )
    files.write_atomically(f"{record.folder}/address", "".join(f"{line}\n" for line in batch).encode())
    neighbour = f"neighbour replace {own} lladdr {hardware} dev {network.bridge} nud permanent\n"
    files.write_atomically(f"{record.folder}/neighbour", neighbour.encode())
    # sticky: frames of another machine with this hardware address do not move it to that one's port.
    files.write_atomically(f"{record.folder}/port", f"fdb replace {hardware} dev PORT master static sticky\n".encode())


def nspawn_options(record: Record, network: Network) -> list[str]:
    """Return the options of systemd-nspawn that give a machine its network and names."""
    hosts = f"--bind={record.hosts_file}:/etc/hosts"
    if record.network == HOST:
        return ["--resolv-conf=replace-host", hosts]
    if record.network == NONE:
        # A list of servers that cannot be reached would be wrong.
        return ["--private-network", "--resolv-conf=delete", hosts]
    # replace-host works whether the image has a file, a link or a dangling link there; what systemd-resolved puts into
    # the host's file is no use to others, its own list of servers is.
    uplink = not network.dns and os.path.exists(_UPLINK)
    return [
        f"--network-bridge={network.bridge}",
        f"--resolv-conf=replace-{'uplink' if uplink else 'host'}",
        hosts,
    ]


def unit_properties(record: Record, network: Network) -> list[str]:
    """Return the properties by which the unit of a machine sees its name servers where nspawn looks for the host's."""
    own = record.network == PRIVATE and network.dns
    return [f"BindReadOnlyPaths={_resolver(record)}:/etc/resolv.conf"] if own else []


def _resolver(record: Record) -> str:
    return f"{record.folder}/resolv.conf"


def _hosts_file() -> bytes:
    """Return the names in the host's /etc/hosts, for a machine in whose network they mean the same."""
    try:
        return files.read_head("/etc/hosts", 1 << 20).rstrip(b"\n") + b"\n"
    except OSError:
        return _LOCALHOST


def name_servers(network: Network) -> list[str]:
    """Return the addresses of the name servers that machines of a private network are given."""
    if network.dns:
        return [*network.dns]
    try:
        content = files.read_head(_UPLINK if os.path.exists(_UPLINK) else "/etc/resolv.conf", 65536)
    except OSError:
        return []
    lines = content.decode(errors="replace").splitlines()
    return [words[1] for line in lines if len(words := line.split()) > 1 and words[0] == "nameserver"]


def lacks_name_servers(network: Network) -> bool:
    """Tell whether the name servers that machines are given are all on a loopback address, which is their own there."""
    return all(server.startswith("127.") or server == "::1" for server in name_servers(network))


def join(record: Record, *, seconds: float) -> None:
    """Give the machine its address as soon as systemd-machined knows it, which is early in its boot; then it is ready.

    For one without an address of its own there is nothing to wait for. Raises HostError when that has not worked after
    ``seconds``.
    """
    if record.network != PRIVATE:
        files.write_atomically(records.ready_file(record.machine), b"")
        return
    deadline = time.monotonic() + seconds
    while True:
        leader = _leader(record.machine)
        said = "systemd-machined does not know it"
        if leader:
            enter = ["nsenter", f"--target={leader}", "--net", "ip", "-json", "-batch", f"{record.folder}/address"]
            done = process.run(enter, check=False)
            error = done.stderr or b"ip failed" if done.returncode else _keep_place(record, done.stdout)
            if not error:
                files.write_atomically(records.ready_file(record.machine), b"")
                return
            said = error.decode(errors="replace").strip().replace("\n", " / ")
        if time.monotonic() > deadline:
            raise HostError(f"the machine {record.machine} got no address", facts=said)
        signals.sleep(0.005)


def _keep_place(record: Record, shown: bytes) -> bytes:
    """Tell the host which hardware address the machine's address has, and which port that; return what went wrong.

    ``shown`` is what ip says of the machine's end of the link. A job that reboots may make it name another port, and
    only loses its own traffic by that: the addresses are not its word.
    """
    port = f"if{json.loads(shown)[0]['link_index']}".encode()
    entry = files.read_head(f"{record.folder}/port", 256).replace(b"PORT", port)
    # The port first: where the machine is gone meanwhile there is none, and its neighbour must not stay.
    for argv, stdin in (["bridge", "-batch", "-"], entry), (["ip", "-batch", f"{record.folder}/neighbour"], b""):
        done = process.run(argv, stdin=stdin, check=False)
        if done.returncode != 0:
            return done.stderr or b"ip or bridge failed"
    return b""


def _leader(machine: str) -> str:
    """Return the pid of the machine's PID 1 as the host sees it, or nothing while it is not registered."""
    if not os.path.lexists(f"/run/systemd/machines/{machine}"):
        return ""
    shown = process.run(["machinectl", "show", "--property=Leader", "--value", "--", machine], check=False).stdout
    pid = shown.decode(errors="replace").strip()
    return pid if pid.isdigit() and pid != "0" else ""


def set_up(network: Network) -> Callable[[], None]:
    """Make the bridge, its address and forwarding where they are not there and are needed; raises HostError.

    Returns what is to be called for the firewall's rules: they are looked for while the machine boots.
    """
    if network.mode != PRIVATE:
        return lambda: None
    _make_bridge(network)
    if files.read_head(FORWARD, 8).strip() != b"1":
        _forward()
    return firewall.set_up(network, name_servers(network))


def _forward() -> None:
    try:
        with open(FORWARD, "w") as file:
            file.write("1")
    except OSError as error:
        raise HostError(
            f"cannot turn on forwarding, which the machines' network needs: {error.strerror}",
            advice="try: sysctl net.ipv4.ip_forward=1",
        ) from None


def _make_bridge(network: Network) -> None:
    bridge = network.bridge
    if is_up(bridge) and subnets.of_bridge(bridge) == network.subnet:
        return
    subnets.check(network.subnet, bridge)
    # An address of its own: else it takes one of its ports', and each time that changes the kernel forgets all
    # neighbours, the fixed ones too.
    own = ["address", hardware_address(network, 1)]
    process.run(["ip", "link", "add", "name", bridge, *own, "type", "bridge", "forward_delay", "0"], check=False)
    process.run(["ip", "address", "replace", gateway(network), "dev", bridge])
    process.run(["ip", "link", "set", "dev", bridge, "up"])


def is_up(bridge: str) -> bool:
    """Tell whether the bridge is there and up, which is the last step of its making."""
    try:
        flags = files.read_head(f"/sys/class/net/{bridge}/flags", 16)
    except FileNotFoundError:
        return False
    return int(flags, 16) & 1 == 1  # IFF_UP
