"""The machines' network: by default our own bridge with NAT, and addresses set from outside.

A machine's root lives in a user namespace and cannot use the host's network properly, so each machine has its own
network namespace on our bridge. Its address follows from its slot; ``ip`` sets it in that namespace while the
machine boots, which takes some milliseconds and nothing in the image. An admin may choose a namespace with nothing but
loopback instead, which systemd-nspawn brings up, or the host's own.

What keeps machines apart is in the kernel first, where nobody flushes it: systemd-nspawn joins a machine's port to a
bridge that is down, so that nothing gets through, after a reboot either; we move it to the bridge of the machines when
it is cut off from other ports, and bound to its one hardware address.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

from ..errors import HostError
from ..host import files, locks, process, signals
from ..settings.tables import Network
from . import firewall, records, resolvers, subnets
from .records import Record

PRIVATE, NONE, HOST = "private", "none", "host"
INTERFACE = "host0"  # systemd-nspawn's name for the machine's end of --network-bridge
WAITING = "nspr-waiting"  # the bridge that is never up
RULE = 213  # the place of our routing rule: behind that of the host's own addresses
_CUT_OFF = "isolated on learning off locked on neigh_suppress on flood off mcast_flood off"
# What no machine has is not listened to: IPv6, and packets that claim to come from elsewhere.
_BRIDGE_FLAGS = {"/proc/sys/net/ipv6/conf/{}/disable_ipv6": b"1", "/proc/sys/net/ipv4/conf/{}/rp_filter": b"1"}
_LOCALHOST = b"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
FORWARD = "/proc/sys/net/ipv4/ip_forward"


def with_subnet(network: Network) -> Network:
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
    """Return the address of the machine in ``slot``; computed by hand, since loading ipaddress takes a millisecond."""
    first, second, third, _ = network.subnet.partition("/")[0].split(".")
    return f"{first}.{second}.{int(third) + slot // 256}.{slot % 256}"


def hardware_address(network: Network, slot: int) -> str:
    """Return the hardware address of the machine in ``slot``: of those that anyone may give, the one of its address."""
    return "02:00:" + ":".join(f"{int(byte):02x}" for byte in address(network, slot).split("."))


def write_files(record: Record, network: Network) -> None:
    """Write what ``ip -batch`` is to do in the network namespace of a machine that has one.

    And what ip and bridge are to do on the host, so that no machine can take the place of another on the bridge.
    """
    if record.network != PRIVATE:
        return
    own = address(network, record.slot)
    if _has_own_list(network):
        servers = "".join(f"nameserver {server}\n" for server in name_servers(network))
        files.make_private_folder(_own_list(record))
        files.write_atomically(f"{_own_list(record)}/resolv.conf", servers.encode(), mode=0o644)
    hardware, via = hardware_address(network, record.slot), gateway(network).partition("/")[0]
    batch = (
        "link set lo up",
        f"link set {INTERFACE} address {hardware}",
        f"address replace {own}/20 dev {INTERFACE}",
        f"link set {INTERFACE} up",
        f"route replace default via {via}",
    )
    files.write_atomically(f"{record.folder}/address", "".join(f"{line}\n" for line in batch).encode())
    port = f"vb-{record.machine}"  # systemd-nspawn's name for it, of a long one the alternative name
    joined = (
        f"link set dev {port} down",
        f"link set dev {port} master {network.bridge}",
        f"link set dev {port} type bridge_slave {_CUT_OFF}",
        f"link set dev {port} up",
    )
    files.write_atomically(f"{record.folder}/port", "".join(f"{line}\n" for line in joined).encode())
    # sticky: frames of another machine with this hardware address do not move it to that one's port.
    place = f"fdb replace {hardware} dev {port} master static sticky\n"
    files.write_atomically(f"{record.folder}/place", place.encode())
    neighbour = f"neighbour replace {own} lladdr {hardware} dev {network.bridge} nud permanent\n"
    files.write_atomically(f"{record.folder}/neighbour", neighbour.encode())


def hosts(record: Record, network: Network) -> bytes:
    """Return the /etc/hosts of the machine of ``record``."""
    # Without an address of its own a machine's name is 127.0.1.1, as Debian has it.
    own = address(network, record.slot) if record.network == PRIVATE else "127.0.1.1"
    known = _hosts_file() if record.network == HOST else _LOCALHOST
    names = {record.machine: own, **network.extra_hosts}
    return known + "".join(f"{address} {name}\n" for name, address in names.items()).encode()


def nspawn_options(record: Record, network: Network) -> list[str]:
    """Return the options of systemd-nspawn that give a machine its network and name servers."""
    if record.network == HOST:
        return ["--resolv-conf=replace-host"]
    if record.network == NONE:
        # A list of servers that cannot be reached would be wrong.
        return ["--private-network", "--resolv-conf=delete"]
    # replace-… works whether the image has a file, a link or a dangling one there; uplink is systemd-resolved's list.
    uplink = resolvers.choose(network).source != resolvers.HOSTS
    return [f"--network-bridge={WAITING}", f"--resolv-conf=replace-{'uplink' if uplink else 'host'}"]


def unit_properties(record: Record, network: Network) -> list[str]:
    """Return the properties by which the unit of a machine sees its name servers where nspawn looks for resolved's.

    In place of the folder: systemd makes what does not exist, and a file in the host's /etc would be its own list.
    """
    own = record.network == PRIVATE and _has_own_list(network)
    return [f"BindReadOnlyPaths={_own_list(record)}:{os.path.dirname(resolvers.RESOLVED)}"] if own else []


def _has_own_list(network: Network) -> bool:
    """Return whether the list of name servers is none of those that systemd-nspawn takes by itself."""
    return resolvers.choose(network).source not in {resolvers.HOSTS, resolvers.RESOLVED}


def _own_list(record: Record) -> str:
    return f"{record.folder}/resolve"


def _hosts_file() -> bytes:
    """Return the names in the host's /etc/hosts, for a machine in whose network they mean the same."""
    try:
        return files.read_head("/etc/hosts", 1 << 20).rstrip(b"\n") + b"\n"
    except OSError:
        return _LOCALHOST


def name_servers(network: Network) -> tuple[str, ...]:
    """Return the addresses of the name servers that machines of a private network are given."""
    return resolvers.choose(network).servers


def join(record: Record, *, seconds: float) -> None:
    """Give the machine its address as soon as systemd-machined knows it, which is early in its boot; then it is ready.

    For one without an address of its own there is nothing to wait for. Raises HostError when that has not worked after
    ``seconds``.
    """
    if not record.place:
        _join(record, seconds=seconds)
        return
    # Of such a machine the unit does the same.
    what = f"the network of {record.machine}"
    with locks.locked(f"{record.folder}/join.lock", what=what, wait_seconds=seconds + 1):
        if not os.path.exists(records.ready_file(record.machine)):
            _join(record, seconds=seconds)


def _join(record: Record, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while record.network == PRIVATE or record.place:
        try:
            _give_address(record)
            break
        except HostError as error:
            if time.monotonic() > deadline:
                raise HostError(f"the machine {record.machine} got no address", facts=error.what) from None
        signals.sleep(0.005)
    files.write_atomically(records.ready_file(record.machine), b"")


def _give_address(record: Record) -> None:
    """Give the machine its address, and move its port to the bridge, cut off from the others; raises HostError.

    The host is told which hardware address the machine's address has, and which port that: nothing of it is the
    machine's word.
    """
    pid = leader(record.machine)
    if not pid:
        raise HostError("systemd-machined does not know it")
    if record.place:
        from . import job_network  # of few jobs

        job_network.join(record, pid)
    if record.network != PRIVATE:
        return
    _batch(record, "address", "nsenter", f"--target={pid}", "--net", "ip")
    # The neighbour last: where the machine is gone meanwhile there is no port, and its neighbour must not stay.
    for program, name in (("ip", "port"), ("bridge", "place"), ("ip", "neighbour")):
        _batch(record, name, program)


def _batch(record: Record, name: str, *program: str) -> None:
    """Have ip or bridge do what the file ``name`` in the machine's folder says; raises HostError, often, so cheaply."""
    done = process.run([*program, "-batch", f"{record.folder}/{name}"], check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().replace("\n", " / ")
        raise HostError(said or f"{program[-1]} failed")


def leader(machine: str) -> str:
    """Return the pid of the machine's PID 1 as the host sees it, or nothing while it is not registered."""
    if not os.path.lexists(f"/run/systemd/machines/{machine}"):
        return ""
    shown = process.run(["machinectl", "show", "--property=Leader", "--value", "--", machine], check=False).stdout
    pid = shown.decode(errors="replace").strip()
    return pid if pid.isdigit() and pid != "0" else ""


def set_up(network: Network) -> Callable[[], None]:
    """Make the bridge, its address and forwarding where they do not exist and are needed; raises HostError.

    Returns what is to be called for the firewall's rules: there is time for that while the machine boots.
    """
    if network.mode != PRIVATE:
        return lambda: None
    _make_bridge(network)
    if files.read_head(FORWARD, 8).strip() != b"1":
        _forward()
    return lambda: firewall.keep(firewall.rules(network, name_servers(network)))


def look(record: Record) -> None:
    """Put back what keeps the machine of ``record`` from host and other machines if any of it was lost.

    Raises HostError.
    """
    if record.network == PRIVATE:
        firewall.look()


def restore(network: Network) -> None:
    """Put back the rules where there is a bridge of machines; raises HostError."""
    if not is_up(network.bridge):
        return
    if firewall.kept_rules():
        firewall.look()
    else:
        set_up(with_subnet(network._replace(mode=PRIVATE)))()


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
    if not os.path.exists(f"/sys/class/net/{WAITING}"):
        process.run(["ip", "link", "add", "name", WAITING, "type", "bridge"], check=False)
    if is_up(bridge) and subnets.of_bridge(bridge) == network.subnet:
        _fix_address(network)
        _set_flags(bridge)
        return
    subnets.check(network.subnet, bridge)
    own = ["address", hardware_address(network, 1)]
    process.run(["ip", "link", "add", "name", bridge, *own, "type", "bridge", "forward_delay", "0"], check=False)
    _fix_address(network)
    _set_flags(bridge)
    # Machines do not reach each other by way of the host as their router, whatever becomes of rules.
    between = ["iif", bridge, "to", network.subnet, "prohibit"]
    process.run(["ip", "rule", "add", "priority", str(RULE), *between], check=False)  # it may be there
    process.run(["ip", "address", "replace", gateway(network), "dev", bridge])
    process.run(["ip", "link", "set", "dev", bridge, "up"])


def _fix_address(network: Network) -> None:
    """Give a bridge that others made a hardware address of its own, unless it has one; raises HostError.

    Else it takes one of its ports', and each time that changes the kernel forgets all neighbours, the fixed ones too.
    """
    with suppress(FileNotFoundError):  # where it could not be made, ip says why in the next step
        # 3: it was set (NET_ADDR_SET in linux/netdevice.h)
        if files.read_head(f"/sys/class/net/{network.bridge}/addr_assign_type", 4).strip() != b"3":
            process.run(["ip", "link", "set", "dev", network.bridge, "address", hardware_address(network, 1)])


def _set_flags(bridge: str) -> None:
    for path, value in _BRIDGE_FLAGS.items():
        with suppress(OSError):  # a kernel without IPv6, or /proc/sys that cannot be written: rules stand for it
            if files.read_head(path.format(bridge), 8).strip() != value:
                with open(path.format(bridge), "wb") as file:
                    file.write(value)


def is_up(bridge: str) -> bool:
    """Return whether the bridge is there and up, which is the last step of its making."""
    try:
        flags = files.read_head(f"/sys/class/net/{bridge}/flags", 16)
    except FileNotFoundError:
        return False
    return int(flags, 16) & 1 == 1  # IFF_UP
