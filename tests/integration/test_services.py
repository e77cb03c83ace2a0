# ruff: noqa: S607
"""The services that people test, each installed from Debian in one job: the table in docs/units.md.

script/test --soak compares what is seen with the table; with WRITE_SERVICES=1 it is written anew.
"""

import os
import re
import subprocess
from typing import NamedTuple

import by_hand
import pytest
from by_hand import Job
from debian_tree import debian_tree
from disposable_host import CHECKOUT, STATE_FOLDER, DisposableHost, Suite

from nspawn_runner.images.build import identity
from nspawn_runner.images.build.suite_source import SuiteSource

DOCUMENT = CHECKOUT / "docs/units.md"
BEGIN, END = "<!-- made by tests/integration/test_services.py -->\n", "<!-- end -->\n"
SUITES: tuple[Suite, ...] = ("bookworm", "trixie")
IMAGE = "services"
INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends"


class Service(NamedTuple):
    """What is installed, the unit that is to be active, and a command that succeeds when it answers."""

    packages: str
    unit: str
    question: str
    why_not: str = ""


def port(number: int, says: str = "", tell: str = "") -> str:
    """A question: does it listen on the port, and greet or answer with these words?"""
    ask = f"exec 3<>/dev/tcp/127.0.0.1/{number}"
    tell = f"printf '{tell}' >&3; " if tell else ""
    return f'timeout 10 bash -c "{ask}; {tell}{f"head -n 1 <&3 | grep -a -q {says!r}" if says else "true"}"'


def page(address: str) -> str:
    return f"curl --silent --show-error --fail --max-time 10 --output /dev/null http://127.0.0.1:{address}"


CLOCK = "only the host sets the clock: `ConditionCapability=CAP_SYS_TIME`"
SERVICES = (
    Service("cron", "cron", "pgrep -x cron"),
    Service("rsyslog", "rsyslog", "logger here-it-is; sleep 1; grep -q here-it-is /var/log/syslog"),
    Service("openssh-server", "ssh", port(22, "SSH-2.0")),
    Service("nginx-light", "nginx", page("80/")),
    Service("apache2", "apache2", page("80/")),
    Service("squid", "squid", port(3128)),
    Service("postgresql", "postgresql", "su postgres -c 'psql -c \"select 1\"'"),
    Service("mariadb-server", "mariadb", "mariadb -e 'select 1'"),
    Service("redis-server", "redis-server", "redis-cli ping | grep -q PONG"),
    Service("memcached", "memcached", port(11211, "VERSION", r"version\r\n")),
    Service("slapd ldap-utils", "slapd", "ldapsearch -x -s base -b ''"),
    Service("postfix", "postfix", port(25, "220")),
    Service("dovecot-imapd", "dovecot", port(143, "OK")),
    Service("bind9 bind9-dnsutils", "named", "dig +short +time=5 @127.0.0.1 version.bind chaos txt | grep -q 9"),
    Service("dnsmasq", "dnsmasq", "dig +short +time=5 @127.0.0.1 $(hostname) | grep -q ."),
    Service("vsftpd", "vsftpd", port(21, "220")),
    Service("samba smbclient", "smbd", "smbclient --no-pass --list=localhost"),
    Service("avahi-daemon", "avahi-daemon", "avahi-daemon --check"),
    Service("prometheus-node-exporter", "prometheus-node-exporter", page("9100/metrics")),
    Service("fail2ban nftables", "fail2ban", "fail2ban-client ping"),
    Service("nftables", "nftables", "systemctl start nftables; nft list ruleset | grep -q 'table inet filter'"),
    Service("polkitd", "polkit", "pkaction --action-id org.freedesktop.policykit.exec"),
    Service("systemd-timesyncd", "systemd-timesyncd", "test -e /run/systemd/timesync/synchronized", CLOCK),
    Service("chrony", "chrony", "chronyc -n tracking", CLOCK),
    Service("ntpsec", "ntpsec", "ntpq -n -c rv | grep -q stratum=", CLOCK),
    Service("auditd", "auditd", "auditctl -s", "audit of the kernel is the host's"),
    Service(
        "nfs-kernel-server",
        "nfs-server",
        "exportfs -v; rpcinfo -t 127.0.0.1 nfs",
        "the kernel's NFS server is the host's",
    ),
    Service(
        "autofs",
        "autofs",
        "mountpoint --quiet /net || grep -q ^autofs /proc/mounts",
        "automounts need /dev/autofs, the host's",
    ),
)


def seen(host: DisposableHost, suite: Suite) -> dict[str, str]:
    """Install each in one job, one after the other, and say what became of it."""
    root = host.path(f"{STATE_FOLDER}/{IMAGE}")
    tree = debian_tree("system", suite, ",".join(SuiteSource(suite).all_packages))
    subprocess.run(["cp", "--archive", tree, root], check=True)
    identity.clean_up(str(root), IMAGE)
    found = {}
    with Job(host) as job:
        job.prepare(IMAGE)
        job.output("apt-get update -qq --error-on=any; apt-get install -qq curl >/dev/null 2>&1")
        for service in SERVICES:
            found[service.packages] = _state(job, service)
            print(suite, service.packages, found[service.packages], flush=True)
    return found


def _state(job: Job, service: Service) -> str:
    done = job.script(f"{INSTALL} {service.packages} >/root/log 2>&1 || {{ tail -n 25 /root/log; exit 1; }}")
    if done.status:
        print(done.out.decode())
        job.script(f"DEBIAN_FRONTEND=noninteractive apt-get purge -qq {service.packages} >/dev/null 2>&1")
        return "not installed"
    once = f"{{ {service.question}; }} >/dev/null 2>&1 && exit; systemctl is-active --quiet {service.unit} || exit 1"
    ask = f"for try in $(seq 20); do {once}; sleep 0.5; done; exit 1"
    answers = job.script(ask).status == 0
    active = job.script(f"systemctl is-active {service.unit}").out.decode().strip()
    if not active.startswith("active"):
        why = job.script(f"systemctl status --lines=5 --no-pager {service.unit}; tail -n 3 /root/log")
        print(why.out.decode())
    # The next one may want its port.
    job.script(f"systemctl stop {service.unit} {service.unit}.socket; true")
    return f"{active}, {'answers' if answers else 'does not answer'}"


def table(found: dict[Suite, dict[str, str]]) -> str:
    head = "| packages | unit | Debian 12 | Debian 13 | why not |\n| --- | --- | --- | --- | --- |\n"
    rows = ((each, [found[suite][each.packages] for suite in SUITES]) for each in SERVICES)
    lines = (f"| {each.packages} | {each.unit} | {' | '.join(states)} | {each.why_not} |" for each, states in rows)
    return head + "".join(f"{line}\n" for line in lines)


@pytest.mark.soak
def test_the_table_of_services(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_hand, "SECONDS", 900)
    hosts = {"bookworm": "overlay_host", "trixie": "trixie_host"}
    found = {suite: seen(request.getfixturevalue(hosts[suite]), suite) for suite in SUITES}
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(BEGIN)
    there, _, after = rest.partition(END)
    if os.environ.get("WRITE_SERVICES"):
        DOCUMENT.write_text(f"{before}{BEGIN}{table(found)}{END}{after}")
        return
    assert there == table(found)


def test_what_does_not_work_has_its_reason() -> None:
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| ([^|]+) \| ([^|]+) \|(.*)\|$", DOCUMENT.read_text(), re.MULTILINE)
    told = {name: why.strip() for name, *states, why in rows if set(states) != {"active, answers"}}
    assert [name for name in told if not told[name] and name not in {"packages", "---"}] == []
