"""Which name servers jobs get on hosts as they are."""

from collections.abc import Iterator

import pytest
from by_hand import Job
from disposable_host import DisposableHost

RESOLVED, STUB = "/run/systemd/resolve/resolv.conf", "/run/systemd/resolve/stub-resolv.conf"
MANAGER = "/run/NetworkManager/no-stub-resolv.conf"
REAL, MORE = "nameserver 192.0.2.53\nsearch example.com\n", "nameserver 192.0.2.54\n"
EMPTY = "# No DNS servers known.\n"
# Per case: what each file has, a link's target from "->" on; the servers of a job, or what it is told there is not.
CASES = {
    "the stub, linked": ({"/etc/resolv.conf": f"->{STUB}", STUB: "nameserver 127.0.0.53\n", RESOLVED: REAL}, REAL),
    "the stub, in a file": ({"/etc/resolv.conf": "nameserver 127.0.0.53\n", RESOLVED: MORE}, MORE),
    "resolved knows none": ({"/etc/resolv.conf": REAL, RESOLVED: EMPTY}, REAL),
    "resolved knows others": ({"/etc/resolv.conf": REAL, RESOLVED: MORE}, REAL),
    "NetworkManager's dnsmasq": ({"/etc/resolv.conf": "nameserver 127.0.1.1\n", MANAGER: MORE}, MORE),
    "a plain file": ({"/etc/resolv.conf": REAL}, REAL),
    "dnsmasq": ({"/etc/resolv.conf": "nameserver 127.0.0.1\n"}, "names only the host itself"),
    "dnsmasq, and resolved knows none": (
        {"/etc/resolv.conf": "nameserver 127.0.0.1\n", RESOLVED: EMPTY}, "names only the host itself",
    ),
    "IPv6 alone": ({"/etc/resolv.conf": "nameserver 2001:db8::53\n"}, "names servers by IPv6 alone"),
    "IPv6 and IPv4": ({"/etc/resolv.conf": f"nameserver 2001:db8::53\n{MORE}"}, f"nameserver 2001:db8::53\n{MORE}"),
    "none": ({"/etc/resolv.conf": EMPTY}, "/etc/resolv.conf names no server"),
    "no file": ({}, "there is no /etc/resolv.conf"),
    "no file, resolved alone": ({RESOLVED: REAL}, REAL),
    "a link to nowhere": ({"/etc/resolv.conf": "->/run/nowhere"}, "there is no /etc/resolv.conf"),
}  # fmt: skip


@pytest.fixture
def bare(overlay_host: DisposableHost) -> Iterator[DisposableHost]:
    """A host without any list of name servers, which it has again afterwards."""
    overlay_host.run(["sh", "-c", "mv /etc/resolv.conf /root/resolv.conf; rm -rf /run/systemd/resolve"])
    yield overlay_host
    overlay_host.run(["sh", "-c", f"rm -rf /run/systemd/resolve {MANAGER}; rm -f /etc/resolv.conf"])
    overlay_host.run(["mv", "/root/resolv.conf", "/etc/resolv.conf"])


@pytest.mark.parametrize(("there", "expected"), CASES.values(), ids=CASES)
def test_jobs_get_servers_that_they_can_ask(bare: DisposableHost, there: dict[str, str], expected: str) -> None:
    for path, content in there.items():
        file = bare.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        if content.startswith("->"):
            file.symlink_to(content[2:])
        else:
            file.write_text(content)
    with Job(bare) as job:
        done = job.prepare()
        if expected.startswith("nameserver"):
            assert "WARNING" not in done.message
            assert job.output("cat /etc/resolv.conf") == expected
        else:
            assert "WARNING: names cannot be found in the machine" in done.message
            assert expected in done.message


def test_the_settings_have_servers_where_the_host_has_none(bare: DisposableHost) -> None:
    for make in ("true", "ln -s /run/nowhere /etc/resolv.conf"):
        bare.run(["sh", "-c", make])
        with Job(bare, settings='[network]\ndns = ["192.0.2.53"]\n') as job:
            job.prepare()
            assert job.output("cat /etc/resolv.conf") == "nameserver 192.0.2.53\n"
        assert not bare.path("/etc/resolv.conf").exists()
