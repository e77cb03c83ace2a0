"""What keeps machines from the host and from each other, when others take the rules away and when a job tries hard."""

import json
import shlex
import subprocess
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from by_hand import TOOL, Job, terminate, wait_until
from disposable_host import DisposableHost

PORT = 8080
# Whatever takes rules away: all of them, as a restart of nftables.service does, a table, a chain, the rules of one.
LOSSES = (
    "nft flush ruleset", "systemctl restart nftables", "nft delete table inet nspawn_runner",
    "nft delete table bridge nspawn_runner", "nft flush table inet nspawn_runner",
    "nft flush chain inet nspawn_runner prerouting", "nft flush chain inet nspawn_runner postrouting",
    "nft flush chain inet nspawn_runner input", "nft flush chain inet nspawn_runner forward",
    "nft flush chain bridge nspawn_runner prerouting", "nft flush chain bridge nspawn_runner forward",
    "nft delete chain inet nspawn_runner input",
    "nft add rule inet nspawn_runner input accept", "nft insert rule bridge nspawn_runner forward accept",
)  # fmt: skip
LIST = ("nft --json --stateless --terse list table inet nspawn_runner; "
        "nft --json --stateless --terse list table bridge nspawn_runner")  # fmt: skip
# Says from where datagrams come; a machine sends it some with its own and with other sources.
LISTEN = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = socket.socket(family, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 53))
print("ready", flush=True)
while True:
    print(server.recvfrom(99)[1][0], flush=True)
"""
SEND = """
import socket, sys, time
own, to = sys.argv[1:]
sender = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM)
sender.bind((own, 0))
for _ in range(5):
    sender.sendto(b"x", (to, 53))
    time.sleep(0.05)
"""
# Frames of many hardware addresses.
FRAMES = r"""
import os, socket
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("host0", 0))
for _ in range(3000):
    raw.send(b"\xff" * 6 + b"\x02" + os.urandom(5) + b"\x88\xb5" + bytes(46))
"""
# ARP of many addresses from the own hardware address.
ARP = r"""
import socket, struct
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("host0", 0))
own = bytes.fromhex(open("/sys/class/net/host0/address").read().strip().replace(":", ""))
for number in range(500):
    address = socket.inet_aton(f"10.213.{number // 256}.{number % 256}")
    says = own + address + bytes(6) + socket.inet_aton("10.213.0.1")
    raw.send(b"\xff" * 6 + own + struct.pack("!HHHBBH", 0x806, 1, 0x800, 6, 4, 1) + says)
"""
CONNECT = """
import socket
for port in range(1024, 1324):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.2", port))
"""


class Field(NamedTuple):
    """A host with a listener, and two machines, of which the other has one too; ``pid`` is the first one's PID 1."""

    host: DisposableHost
    job: Job
    other: str
    pid: str

    def reached(self) -> set[str]:
        """Return what the first machine reaches right now, asked in its network without any stage."""
        enter = ["timeout", "1", "nsenter", "--target", self.pid, "--net", "bash", "-c"]
        targets = {"the host": "10.213.0.1", "the other": self.other}
        asked = {
            name: self.host.popen([*enter, f"exec 3<>/dev/tcp/{address}/{PORT}"], stderr=subprocess.DEVNULL)
            for name, address in targets.items()
        }
        return {name for name, process in asked.items() if process.wait(30) == 0}

    def rules(self) -> list[Any]:
        """Return our tables as they are, without handles."""
        found = []
        for line in self.host.run(["bash", "-c", LIST], check=False).stdout.splitlines():
            for part in json.loads(line)["nftables"]:
                for known in part.values():
                    known.pop("handle", None)
                    found.append(known)
        return found


def pid_of(job: Job) -> str:
    ask = ["machinectl", "show", "--property=Leader", "--value", job.machine]
    return job.host.run(ask, check=False).stdout.decode().strip()


@pytest.fixture(scope="module", params=["overlay_host", "trixie_host"])
def field(request: pytest.FixtureRequest) -> Iterator[Field]:
    host: DisposableHost = request.getfixturevalue(request.param)
    serve = ["python3", "-m", "http.server", str(PORT)]
    with host.popen(serve, cwd="/srv") as listener, Job(host) as job, Job(host) as other:
        job.prepare()
        other.prepare()
        wait = f"until (exec 3<>/dev/tcp/127.0.0.1/{PORT}) 2>/dev/null; do sleep 0.05; done"
        other.output(f"{' '.join(serve)} > /dev/null 2>&1 &\n{wait}")
        address = other.output("ip -json -4 address show host0")
        yield Field(host, job, json.loads(address)[0]["addr_info"][0]["local"], pid_of(job))
        listener.kill()


def test_rules_that_others_take_away_come_back_with_the_next_stage(field: Field) -> None:
    """Machines are kept apart by the kernel meanwhile, whatever becomes of rules."""
    whole = field.rules()
    assert {part["name"] for part in whole if "hook" in part} == {
        "prerouting", "postrouting", "input", "forward",
    }  # fmt: skip
    assert field.reached() == set()
    for loss in LOSSES:
        field.host.run(["sh", "-c", loss])
        assert field.rules() != whole, loss
        assert "the other" not in field.reached(), loss
        field.job.output("true")
        assert field.rules() == whole, loss
    assert field.reached() == set()
    field.host.run(["nft", "flush", "ruleset"])
    router = ["nsenter", "--target", field.pid, "--net", "ip", "route"]
    field.host.run([*router, "add", f"{field.other}/32", "via", "10.213.0.1"])
    assert field.reached() == {"the host"}  # as docs/security.md says
    field.host.run([*router, "delete", f"{field.other}/32"])
    field.host.run([TOOL, "gc"])
    assert field.rules() == whole
    # What others do with rules of their own is no reason to touch ours.
    field.host.run(["nft", "add", "table", "inet", "another"])
    field.job.output("true")
    field.host.run(["nft", "delete", "table", "inet", "another"])


def test_doctor_tells_what_part_is_lost(field: Field) -> None:
    def told() -> Any:
        found = json.loads(field.host.run([TOOL, "doctor", "--json"], check=False).stdout)
        return next(each for each in found if each["check"] == "address translation")

    field.host.run(["sh", "-c", f"{LOSSES[3]}; {LOSSES[7]}; nft add rule inet nspawn_runner forward accept"])
    found = told()
    assert (found["level"], found["mend"]) == ("warning", "nspawn-runner gc")
    assert "table bridge nspawn_runner is missing" in found["text"]
    assert "table inet nspawn_runner, chain input, a rule is missing" in found["text"]
    assert "table inet nspawn_runner, chain forward, a rule is not ours" in found["text"]
    field.host.run([TOOL, "gc"])
    assert told()["level"] == "ok"


def test_a_packet_has_the_address_of_its_machine(field: Field) -> None:
    """On the host's own addresses too; and no IPv6, though the host forwards it."""
    host, job = field.host, field.job
    make = """
    ip netns add far; ip link add far0 type veth peer name far1 netns far
    ip link set far0 up; ip -n far link set far1 up
    ip address add 192.0.2.1/24 dev far0; ip -n far address add 192.0.2.2/24 dev far1
    ip address add 2001:db8::1/64 dev far0 nodad; ip -n far address add 2001:db8::2/64 dev far1 nodad
    ip -n far route add default via 192.0.2.1; ip -n far -6 route add default via 2001:db8::1
    sysctl -qw net.ipv6.conf.all.forwarding=1
    """
    host.run(["bash", "-ec", make])
    hardware = host.path("/sys/class/net/nspr0/address").read_text().strip()
    give = f"""
    ip address add {field.other}/32 dev host0; ip address add 203.0.113.9/32 dev host0
    ip -6 address add 2001:db8:1::9/64 dev host0 nodad; ip -6 route replace default via 2001:db8:1::1 dev host0
    ip -6 neigh replace 2001:db8:1::1 lladdr {hardware} dev host0
    """
    to = {"10.213.0.1": [], "2001:db8::1": [], "192.0.2.2": ["far"], "2001:db8::2": ["far"]}
    listeners = {}
    try:
        for address, netns in to.items():
            inside = ["ip", "netns", "exec", *netns] if netns else []
            listeners[address] = host.popen([*inside, "python3", "-c", LISTEN, address], stdout=subprocess.PIPE)
        for listener in listeners.values():
            assert listener.stdout
            assert listener.stdout.readline() == b"ready\n"
        own = json.loads(job.output("ip -json -4 address show host0"))[0]["addr_info"][0]["local"]
        sources = ["203.0.113.9", field.other, own]
        sends = [(source, address) for address in ("10.213.0.1", "192.0.2.2") for source in sources]
        sends += [("2001:db8:1::9", address) for address in ("2001:db8::1", "2001:db8::2")]
        each = "".join(f"python3 -c {shlex.quote(SEND)} {source} {address} || true\n" for source, address in sends)
        job.output(give + each)
        time.sleep(0.5)
    finally:
        for listener in listeners.values():
            listener.kill()
        # Of datagrams some may be lost on the way.
        came = {address: {*listener.communicate()[0].decode().split()} for address, listener in listeners.items()}
        host.run(["bash", "-c", "ip netns delete far; ip link delete far0; sysctl -qw net.ipv6.conf.all.forwarding=0"])
        job.output(f"ip address delete {field.other}/32 dev host0; ip address delete 203.0.113.9/32 dev host0")
    assert came == {"10.213.0.1": {own}, "192.0.2.2": {"192.0.2.1"}, "2001:db8::1": set(), "2001:db8::2": set()}


def test_no_machine_fills_what_all_share(field: Field) -> None:
    """Forwarding entries of the bridge, neighbours, and the kernel's table of connections."""
    host = field.host

    def known() -> tuple[int, int]:
        entries = host.run(["bridge", "-json", "fdb", "show", "br", "nspr0"]).stdout
        neighbours = host.run(["ip", "-json", "neighbour", "show", "dev", "nspr0"]).stdout
        return len(json.loads(entries)), len(json.loads(neighbours))

    before = known()
    host.run(["nft", "flush", "ruleset"])  # the bridge needs none
    host.run(["nsenter", "--target", field.pid, "--net", "python3", "-c", FRAMES])
    assert known() == before
    field.job.output(f"python3 -c {shlex.quote(ARP)}")
    assert known() == before
    count = "/proc/sys/net/netfilter/nf_conntrack_count"
    settings = "[network]\nconnections_max = 40\n"
    with Job(host, settings=settings) as job, Job(host, settings=settings) as other:
        job.prepare()
        other.prepare()  # which has no connections yet, as the field's machine may
        started = int(host.run(["cat", count]).stdout)
        host.run(["ip", "route", "add", "192.0.2.2/32", "dev", "tap0"])
        try:
            job.output(f"python3 -c {shlex.quote(CONNECT)}")
        finally:
            host.run(["ip", "route", "delete", "192.0.2.2/32"])
        assert 20 < int(host.run(["cat", count]).stdout) - started <= 60
        assert "0% packet loss" in other.output("ping -c 1 -W 5 -q 10.213.0.1")
    with Job(host) as job:
        job.prepare()  # with the usual rules again


TAKE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if sys.argv[1] == "timers":
    while not libc.timer_create(1, None, ctypes.byref(ctypes.c_void_p())): pass
else:
    held = [fd for fd in iter(lambda: libc.inotify_init1(0), -1)]
print(sys.argv[1], flush=True)
sys.stdin.read()
"""
CAN = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
assert libc.inotify_init1(0) >= 0
assert not libc.timer_create(1, None, ctypes.byref(ctypes.c_void_p()))
"""


@pytest.mark.parametrize("what", ["timers", "instances of inotify"])
def test_no_machine_takes_what_counts_as_root_s(field: Field, what: str) -> None:
    host = field.host
    take = f"ulimit -n $(ulimit -H -n); sleep 30 | python3 -c {shlex.quote(TAKE)} {shlex.quote(what)}"
    with Job(host) as job:
        job.prepare()
        with job.start(take) as process:
            assert process.stdout
            assert process.stdout.readline().decode() == f"{what}\n"
            host.run(["python3", "-c", CAN])
            if what != "timers":  # of which the machines have half together
                field.job.output(f"python3 -c {shlex.quote(CAN)}")
            terminate(process)


def test_a_machine_that_reboots_is_cut_off_until_it_is_known_again(field: Field) -> None:
    host = field.host
    with Job(host, "12345678901234567890") as job:
        job.prepare()
        first = pid_of(job)
        job.script("systemctl reboot")
        wait_until(lambda: pid_of(job) not in {"", "0", first})
        ping = f"ping -c 2 -W 1 -q {field.other} || ping -c 1 -W 1 -q 10.213.0.1"
        use = "ip link set host0 up; ip address add 10.213.15.254/20 dev host0"
        undo = "ip address del 10.213.15.254/20 dev host0"
        tried = f"{use}; {ping}; status=$?; {undo}; exit $status"
        enter = ["nsenter", "--target", pid_of(job), "--net", "sh", "-c", tried]
        assert host.run(enter, check=False).returncode == 1
        job.output("ping -c 1 -W 5 -q 10.213.0.1")
        shown = json.loads(host.run(["bridge", "-json", "-details", "link", "show", "dev", f"vb-{job.machine}"]).stdout)
        kept = {"master": "nspr0", "isolated": True, "learning": False, "locked": True}
        assert {name: shown[0][name] for name in kept} == kept
