"""What the settings open and close in the network of machines; and rules that others take away come back."""

import subprocess
import time
from collections.abc import Iterator

import pytest
from by_hand import Job
from disposable_host import DisposableHost

# AWS, GCP, Azure and most others; AWS's containers; Scaleway; Alibaba; Azure's agent and name server; Oracle.
METADATA = (
    "169.254.169.254", "169.254.170.2", "169.254.42.42", "100.100.100.200", "168.63.129.16", "192.0.0.192",
)  # fmt: skip
SETTINGS = """
[network]
dns = ["192.0.2.2", "192.0.2.3"]
closed = ["private", "192.0.2.0/24"]
host_ports = ["tcp/8081"]
extra_hosts = { "mirror" = "192.0.2.7", "six.example.com" = "2001:db8::7" }
"""
OPEN = "[network]\nclosed = []\n"


@pytest.fixture(scope="module")
def far(overlay_host: DisposableHost) -> Iterator[DisposableHost]:
    """The host with listeners of its own, and others far from it: on an address of a network, and where clouds tell."""
    script = """
    set -e
    ip netns add far; ip link add far0 type veth peer name far1 netns far
    ip address add 192.0.2.1/24 dev far0; ip link set far0 up; ip -n far link set far1 up; ip -n far link set lo up
    ip -n far address add 192.0.2.2/24 dev far1
    for address in "$@"; do ip -n far address add $address/32 dev far1; ip route add $address/32 dev far0; done
    ip -n far route add default via 192.0.2.1
    """
    overlay_host.run(["bash", "-c", script, "far", *METADATA])
    serve = ["python3", "-m", "http.server", "--directory", "/srv"]
    servers = [overlay_host.popen([*serve, port]) for port in ("8081", "8082")]
    servers += [overlay_host.popen(["ip", "netns", "exec", "far", *serve, port]) for port in ("80", "53")]
    yield overlay_host
    for server in servers:
        server.kill()
        server.wait()
    overlay_host.run(["sh", "-c", "ip netns pids far | xargs -r kill -9; ip netns del far"], check=False)


def reached(job: Job, *targets: str) -> list[str]:
    """Return which of the targets, each an address and a port, a job reaches."""
    tries = "".join(f"timeout 3 bash -c 'exec 3<>/dev/tcp/{each}' 2>/dev/null && echo {each} &\n" for each in targets)
    return sorted(job.output(f"{tries}wait").split())


def test_what_is_named_is_open_and_what_is_named_is_closed(far: DisposableHost) -> None:
    targets = ("192.0.2.2/80", "192.0.2.2/53", "169.254.169.254/80", "192.0.2.1/8081", "192.0.2.1/8082")
    with Job(far, settings=SETTINGS) as job:
        job.prepare()
        assert job.output("cat /etc/resolv.conf") == "nameserver 192.0.2.2\nnameserver 192.0.2.3\n"
        known = job.output("getent hosts mirror; getent ahostsv6 six.example.com | head -n 1").split()
        assert (known[0], known[2]) == ("192.0.2.7", "2001:db8::7")
        assert reached(job, *targets) == ["192.0.2.1/8081", "192.0.2.2/53"]
        # A later machine's settings hold for all: the rules are the host's.
        with Job(far) as other:
            other.prepare()
            assert reached(other, *targets) == ["192.0.2.2/53", "192.0.2.2/80"]
        with Job(far, settings=OPEN) as other:
            other.prepare()
            assert reached(other, *targets) == ["169.254.169.254/80", "192.0.2.2/53", "192.0.2.2/80"]


def test_metadata_of_clouds_is_closed(far: DisposableHost) -> None:
    """But for a name server there, as Azure has it."""
    targets = [f"{address}/{port}" for address in METADATA for port in (53, 80)]
    with Job(far, settings='[network]\ndns = ["168.63.129.16"]\n') as job:
        job.prepare()
        assert reached(job, *targets) == ["168.63.129.16/53"]
    with Job(far, settings=OPEN) as job:
        job.prepare()
        assert reached(job, *targets) == sorted(targets)


def test_nothing_leaves_that_says_it_came_from_elsewhere(far: DisposableHost) -> None:
    """Only what has the machines' addresses becomes the host's on its way; all else would leave as it is."""
    listen = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('192.0.2.2', 4711))\n"
        "print('ready', flush=True)\n"
        "while True: print(s.recvfrom(99)[0].decode(), flush=True)"
    )
    send = (
        "import socket, sys; own = sys.argv[1]; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        's.bind((own, 0)); s.sendto(own.encode(), ("192.0.2.2", 4711))'
    )
    each = f"for own in 203.0.113.9 0.0.0.0 203.0.113.9 0.0.0.0 0.0.0.0; do python3 -c '{send}' $own; sleep 0.1; done"
    argv = ["ip", "netns", "exec", "far", "python3", "-c", listen]
    with Job(far) as job, far.popen(argv, stdout=subprocess.PIPE) as listener:
        try:
            assert listener.stdout
            assert listener.stdout.readline() == b"ready\n"
            job.prepare()
            job.output(f"ip address add 203.0.113.9/32 dev host0; {each}")
            time.sleep(0.5)
        finally:
            listener.kill()
        said = {*listener.communicate()[0].split()}  # of datagrams some may be lost on the way
    assert said == {b"0.0.0.0"}


def test_rules_come_back_with_the_next_machine(far: DisposableHost) -> None:
    with Job(far) as first, Job(far) as second:
        first.prepare()
        far.run(["nft", "flush", "ruleset"])
        second.prepare()
        assert reached(first, "192.0.2.2/80", "192.0.2.1/8082") == ["192.0.2.2/80"]
    rules = far.run(["nft", "list", "table", "inet", "nspawn_runner"]).stdout.decode()
    assert rules.count("masquerade") == 1


def test_a_link_to_nowhere_is_no_obstacle_for_name_servers(far: DisposableHost) -> None:
    image = "/var/lib/nspawn-runner/linked"
    far.run(["cp", "--archive", "/var/lib/nspawn-runner/bookworm", image])
    try:
        far.run(["ln", "-sf", "../run/systemd/resolve/stub-resolv.conf", f"{image}/etc/resolv.conf"])
        with Job(far, settings=SETTINGS) as job:
            job.prepare("linked")
            assert job.output("cat /etc/resolv.conf").startswith("nameserver 192.0.2.2\n")
    finally:
        far.run(["rm", "-rf", image])


@pytest.mark.parametrize(
    "line",
    [
        'dns = ["dns.example.com"]',
        'closed = ["10.0.0.1/8"]',
        'closed = "private"',
        'host_ports = ["8080"]',
        'host_ports = ["tcp/70000"]',
        'extra_hosts = { "a b" = "192.0.2.1" }',
        'extra_hosts = { "a" = "nowhere" }',
    ],
)
def test_what_cannot_be_is_refused(far: DisposableHost, line: str) -> None:
    job = Job(far, settings=f"[network]\n{line}\n")
    done = job.call("prepare", "bookworm")
    assert done.status == 92
    assert f"network.{line.partition(' ')[0]}: must be a " in done.message
