"""The routes and addresses that hosts have, and which subnet machines then get."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from by_hand import Job
from disposable_host import CHECKOUT, DisposableHost

# Calico, FRR and admins against loops; a VPN that takes over the default route, and one to a whole company.
ROUTES = (
    "blackhole 10.99.0.0/16", "unreachable 10.98.0.0/16", "prohibit 10.97.0.0/16", "throw 10.96.0.0/16",
    "0.0.0.0/1 dev vpn0", "128.0.0.0/1 dev vpn0", "10.0.0.0/8 dev vpn0",
)  # fmt: skip
CHOOSE = "from nspawn_runner.machines import subnets; print(subnets.choose('nspr0'))"
ALL_PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")


@contextmanager
def link(host: DisposableHost, commands: str) -> Iterator[None]:
    """The host has a link ``vpn0``, and what ``commands`` add."""
    make = "ip link add vpn0 type veth peer name vpn1; ip link set vpn0 up; ip link set vpn1 up"
    host.run(["bash", "-ec", f"{make}\n{commands}"])
    try:
        yield
    finally:
        undo = "ip link delete vpn0; for n in 96 97 98 99; do ip route delete 10.$n.0.0/16; done"
        host.run(["bash", "-c", undo], check=False)


def test_routes_of_all_kinds_are_in_nobodys_way(overlay_host: DisposableHost) -> None:
    """Nor where the settings name the subnet: the bridge's own route is the narrower one."""
    overlay_host.run(["ip", "link", "delete", "nspr0"], check=False)
    subnet = '[network]\nsubnet = "10.99.16.0/20"\n'
    with link(overlay_host, "\n".join(f"ip route add {route}" for route in ROUTES)), Job(overlay_host) as job:
        job.prepare()
        assert job.output("ip route show default").startswith("default via 172.24.0.1 ")
        # The subnet of the bridge stays while there is the bridge.
    with Job(overlay_host) as job:
        job.prepare()
        assert "0% packet loss" in job.output("ping -c 1 -w 5 172.24.0.1")
        overlay_host.run(["ip", "link", "delete", "nspr0"])
    with (
        link(overlay_host, "\n".join(f"ip route add {route}" for route in ROUTES)),
        Job(overlay_host, settings=subnet) as job,
    ):
        job.prepare()
        assert "0% packet loss" in job.output("ping -c 1 -w 5 10.99.16.1")
        overlay_host.run(["ip", "link", "delete", "nspr0"])


@pytest.mark.parametrize(
    ("commands", "chosen"),
    [
        ([], "10.213.0.0/20"),
        (["route add 0.0.0.0/1 dev vpn0", "route add 128.0.0.0/1 dev vpn0"], "10.213.0.0/20"),
        (["address add 10.213.5.9/24 dev vpn0"], "10.128.0.0/20"),
        (["address add 10.8.0.2 peer 10.213.0.9/32 dev vpn0"], "10.128.0.0/20"),
        (["route add blackhole 10.213.4.0/24"], "10.128.0.0/20"),
        (["route add 10.0.0.0/8 dev vpn0 table 52"], "172.24.0.0/20"),
        ([f"route add {each} dev vpn0" for each in ALL_PRIVATE], "10.213.0.0/20"),
    ],
    ids=["none", "halves", "link", "peer", "narrower", "another table", "all of them"],
)
def test_a_free_subnet_is_chosen(overlay_host: DisposableHost, commands: list[str], chosen: str) -> None:
    make = "ip link set lo up; ip link add vpn0 type veth peer name vpn1; ip link set vpn0 up; "
    script = make + "; ".join(f"ip {command}" for command in commands) + '\nPYTHONPATH=$0 python3 -c "$1"'
    argv = ["unshare", "--net", "bash", "-ec", script, str(CHECKOUT), CHOOSE]
    assert overlay_host.run(argv).stdout.decode().strip() == chosen


def test_a_subnet_of_the_hosts_own_is_refused_with_advice_that_can_be_followed(overlay_host: DisposableHost) -> None:
    settings = '[network]\nsubnet = "192.168.48.0/20"\n'
    with link(overlay_host, "ip address add 192.168.50.1/24 dev vpn0"):
        job = Job(overlay_host, settings=settings)
        done = job.call("prepare", "bookworm")
        assert done.status == 92
        assert "overlaps what the host has: 192.168.50.0/24" in done.message
        assert "192.168.50.1/24 on vpn0" in done.message
        assert "take subnet under [network] out of the settings" in done.message
        with Job(overlay_host) as job:
            job.prepare()
