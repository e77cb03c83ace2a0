"""The network that a job's machine shares with the machines of its services, and with nothing else.

Its bridge is in a network namespace of its own, which a file in the folder of the job's machine keeps: the host has no
address, port or rule there that could be reached, flushed or forgotten. Every job has the same addresses.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from ..errors import HostError
from ..host import files, process
from . import records
from .records import Record

INTERFACE = "job0"  # a machine's end
# RFC 2544: for tests between networks, so that nothing else has addresses of it.
_SUBNET = "198.18.213"
_HARDWARE = "c6:12:d5"  # the same bytes
_BRIDGE = "link add br0 type bridge forward_delay 0 mcast_snooping 0\nlink set br0 up\n"


def address(place: int) -> str:
    """Return the address of the machine in ``place``, which is 1 for the job's own."""
    return f"{_SUBNET}.{place}"


def hosts(record: Record, names: Mapping[int, Sequence[str]]) -> bytes:
    """Return the lines for /etc/hosts of the machine of ``record``: ``names`` by their places, and machines' names."""
    job = record.of_job or record.machine
    lines = []
    for place, given in names.items():
        machine = job if place == 1 else records.service_name(job, place)
        own = [] if machine == record.machine else [machine]
        lines.append(f"{address(place)} {' '.join([*given, *own])}".rstrip() + "\n" if given or own else "")
    return "".join(lines).encode()


def make(record: Record) -> None:
    """Make the network of the job whose own machine is that of ``record``; raises HostError."""
    path = _file(record.machine)
    files.write_atomically(path, b"")
    process.run(["unshare", f"--net={path}", "ip", "-batch", "-"], stdin=_BRIDGE.encode())


def join(record: Record, leader: str) -> None:
    """Join a machine, whose PID 1 has the pid ``leader``, to the network of its job; raises HostError.

    What is left of an earlier try is removed then, so that the next one can do it.
    """
    try:
        its = os.readlink(f"/proc/{leader}/ns/net")
    except OSError:
        raise HostError(f"the machine {record.machine} has ended") from None
    if its == os.readlink("/proc/self/ns/net"):
        raise HostError(f"the machine {record.machine} has no network of its own")  # its pid is another's by now
    port = f"p{record.place}"
    steps = (
        # The same hardware address each time: after a reboot the others go on with what they know.
        f"link add {port} type veth peer name {INTERFACE} address 02:00:{_HARDWARE}:{record.place:02x} netns {leader}",
        f"link set {port} master br0",
        # What the bridge learns takes the host's memory: it passes frames on to all ports instead.
        f"link set {port} type bridge_slave learning off",
        f"link set {port} up",
    )
    into = ["nsenter", f"--net={_file(record.of_job or record.machine)}", "ip"]
    try:
        process.run([*into, "-batch", "-"], stdin="".join(f"{step}\n" for step in steps).encode())
    except HostError:
        process.run([*into, "link", "delete", port], check=False)
        raise
    own = f"address replace {address(record.place)}/24 dev {INTERFACE}\nlink set {INTERFACE} up\n"
    process.run(["nsenter", f"--target={leader}", "--net", "ip", "-batch", "-"], stdin=own.encode())


def remove(machine: str) -> None:
    """Remove the network of the job whose own machine is ``machine``, if there is one; raises HostError or OSError."""
    path = _file(machine)
    try:
        while os.stat(path).st_dev != os.stat(os.path.dirname(path)).st_dev:
            process.run(["umount", "--lazy", path])
    except FileNotFoundError:
        return
    files.remove_file(path)


def _file(machine: str) -> str:
    return f"{records.folder(machine)}/network"
