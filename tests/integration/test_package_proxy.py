"""Packages come through Debian's apt-cacher-ng where it answers, and without it where not; [environment] of scripts."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from by_hand import TOOL, Job, Unchanged, wait_until
from disposable_host import DisposableHost

AUTO = '[packages]\nproxy = "auto"\n'
GET = "apt-get update -qq && apt-get install -qq --yes --no-install-recommends hello >/dev/null 2>&1 && hello"
LOG = "/var/log/apt-cacher-ng/apt-cacher.log"
ASK = "/run/nspawn-runner/start/apt-proxy"


@pytest.fixture(scope="module")
def host(overlay_host: DisposableHost) -> Iterator[DisposableHost]:
    """A host with apt-cacher-ng, which is gone from it in the end."""
    host = overlay_host
    install = "apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends"
    host.run(["sh", "-c", f"{install} apt-cacher-ng"], timeout=300)
    yield host
    remove = "DEBIAN_FRONTEND=noninteractive apt-get purge -qq --yes apt-cacher-ng; rm -rf /var/cache/apt-cacher-ng"
    host.run(["sh", "-c", f"systemctl stop apt-cacher-ng; {remove} /run/apt-cacher-ng {LOG}"], timeout=300)


def asked_for(host: DisposableHost, name: str) -> int:
    """Return how often a machine has got a file of that name from the cache."""
    host.run(["systemctl", "kill", "--signal=USR1", "apt-cacher-ng"])  # it writes its log then
    time.sleep(0.5)
    log = host.path(LOG).read_text() if host.path(LOG).exists() else ""
    return sum(f"/{name}_" in line for line in log.splitlines())


def test_machines_get_packages_through_it_while_it_answers(host: DisposableHost) -> None:
    with Unchanged(host):
        with Job(host, settings=AUTO) as job:
            job.prepare()
            assert job.output(ASK) == "http://10.213.0.1:3142\n"
            assert "Hello, world!" in job.output(GET)
            assert asked_for(host, "hello")
        host.run(["systemctl", "stop", "apt-cacher-ng"])
        with Job(host, settings=AUTO) as job:
            job.prepare()
            assert job.script(f"{ASK}; {GET}").out.decode() == "DIRECT\nHello, world!\n"
        host.run(["systemctl", "start", "apt-cacher-ng"])


def test_a_user_and_a_unit_find_it_too(host: DisposableHost) -> None:
    with Job(host, settings=AUTO) as job:
        job.prepare()
        assert job.output("setpriv --reuid=65534 --regid=65534 --clear-groups " + ASK).startswith("http://")
        before = asked_for(host, "hello")
        job.output(f"systemd-run --quiet --wait --pipe sh -c '{GET}'")
        assert asked_for(host, "hello") > before
        assert "NODATA" not in job.output("apt-config dump Acquire::http::Proxy-Auto-Detect")


def test_without_the_setting_nobody_reaches_it(host: DisposableHost) -> None:
    reach = "timeout 2 bash -c 'exec 3<>/dev/tcp/10.213.0.1/3142' 2>/dev/null"
    with Job(host) as job:
        job.prepare()
        assert job.script(f"ls {ASK} /etc/apt/apt.conf.d/00nspawn-runner-proxy").status != 0
        assert job.script(reach).status != 0
        with Job(host, settings=AUTO) as other:
            other.prepare()
            other.output(reach)
        with Job(host) as another:
            another.prepare()
            assert another.script(reach).status != 0


@pytest.mark.soak
def test_a_builder_gets_packages_through_it(host: DisposableHost) -> None:
    host.path("/root/proxy.toml").write_text(AUTO)
    before = asked_for(host, "bash")
    done = host.run([TOOL, "--config", "/root/proxy.toml", "chroot-create", "by-proxy", "--suite", "bookworm"],
                    check=False, timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert asked_for(host, "bash") > before
    tree = host.path("/var/lib/nspawn-runner/by-proxy")
    assert [path for path in (tree / "etc/apt").rglob("*") if path.is_file() and b"3142" in path.read_bytes()] == []
    host.run([TOOL, "chroot-remove", "by-proxy"])


def test_doctor_knows_it(host: DisposableHost) -> None:
    host.path("/root/proxy.toml").write_text(AUTO)
    doctor: list[str | Path] = [TOOL, "--config", "/root/proxy.toml", "doctor", "--check", "packages"]
    for network in ("private", "none", "host"):
        host.path("/root/proxy.toml").write_text(f'{AUTO}[network]\nmode = "{network}"\n')
        assert b"come through the proxy 127.0.0.1:3142" in host.run(doctor).stdout, network
    host.path("/root/proxy.toml").write_text(AUTO)
    host.run(["systemctl", "stop", "apt-cacher-ng"])
    done = host.run(doctor, check=False)
    host.run(["systemctl", "start", "apt-cacher-ng"])
    assert b"does not answer" in done.stdout
    assert done.returncode == 1


def test_what_is_no_machine_of_debian_gets_no_file_for_apt(host: DisposableHost) -> None:
    host.run(["cp", "--archive", "/var/lib/nspawn-runner/bookworm", "/var/lib/nspawn-runner/no-apt"])
    host.run(["mv", "/var/lib/nspawn-runner/no-apt/etc/apt", "/var/lib/nspawn-runner/no-apt/root/"])
    try:
        with Job(host, settings=AUTO) as job:
            job.prepare("no-apt")
            assert job.script("ls /etc/apt").status != 0
    finally:
        wait_until(lambda: host.run(["rm", "-rf", "/var/lib/nspawn-runner/no-apt"], check=False).returncode == 0)


def test_scripts_get_the_environment_of_the_settings(either_host: DisposableHost) -> None:
    settings = "[environment]\nPIP_INDEX_URL = \"http://x/'a b' $HOME\"\nOTHER = 'of the settings'\n"
    with Job(either_host, settings=settings) as job:
        job.prepare()
        assert job.output("printenv PIP_INDEX_URL") == "http://x/'a b' $HOME\n"
        assert job.output("export OTHER=mine; printenv OTHER; cd /tmp; printenv OTHER") == "mine\nmine\n"
