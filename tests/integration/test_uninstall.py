# ruff: noqa: S607
"""uninstall leaves the host as it was before the tool came, and does nothing where somebody still uses it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from by_hand import TOOL, Job, difference, payload
from disposable_host import CHECKOUT, STATE_FOLDER, DisposableHost
from inventory import inventory

METRICS = "/var/lib/node-exporter/nspawn-runner.prom"
SETTINGS = f'keep_failed = "2h"\n[metrics]\nfile = "{METRICS}"\n'
SETTINGS_FILE = "/etc/nspawn-runner/nspawn-runner.toml"


@pytest.fixture(params=[("bookworm", "btrfs"), pytest.param(("trixie", "xfs"), marks=pytest.mark.soak)], ids="-".join)
def fresh(request: pytest.FixtureRequest, job_image: Path) -> Iterator[DisposableHost]:
    """A host where the tool has never been."""
    suite, state = request.param
    with DisposableHost(suite=suite, state=state) as host:
        yield host


def tool(host: DisposableHost, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return host.run([TOOL, *arguments], check=False)


def install(host: DisposableHost, image: Path) -> None:
    host.run(["cp", *(CHECKOUT / "packaging").glob("nspawn-runner-*"), "/etc/systemd/system"])
    host.run(["ln", "-s", TOOL, "/usr/local/bin/nspawn-runner"])
    host.run(["systemctl", "daemon-reload"])
    host.run(["systemctl", "enable", "--now", "nspawn-runner-gc.timer", "nspawn-runner-maintenance.timer"])
    host.run(["mkdir", f"{STATE_FOLDER}/bookworm", "/var/lib/node-exporter"])
    subprocess.run(["cp", "--archive", f"{image}/.", host.path(f"{STATE_FOLDER}/bookworm")], check=True)


def use(host: DisposableHost) -> None:
    """Do what leaves something: jobs, one that failed and is kept, a changed image, doctor, gc."""
    with Job(host, payload=payload(7001), settings=SETTINGS) as job:
        job.prepare(None)
        job.script("exit 3")
    assert METRICS in host.run(["sh", "-c", f"ls {METRICS}"]).stdout.decode()
    assert b"kept" in tool(host, "list").stdout
    host.run([TOOL, "chroot-login", "bookworm", "--", "touch", "/changed"])
    host.run([TOOL, "chroot-clone", "bookworm", "web"])
    tool(host, "doctor", "--job")
    host.run([TOOL, "gc"])
    host.run(["systemctl", "start", "nspawn-runner-gc.service"])


def test_nothing_of_it_is_left(fresh: DisposableHost, job_image: Path) -> None:
    host = fresh
    host.run(["sh", "-c", "mkdir -p /etc/nspawn-runner; rm -rf /root/*"])
    before = inventory(host)
    install(host, job_image)
    use(host)
    host.path(SETTINGS_FILE).write_text(SETTINGS)
    told = tool(host, "uninstall")
    assert (told.returncode, b"the network of machines" in told.stdout, b"uninstall --yes" in told.stderr) == (0, 1, 1)
    with Job(host) as job:
        job.prepare()
        for option in ([], ["--yes"]):
            refused = tool(host, "uninstall", *option)
            assert (refused.returncode, f"machines are up: {job.machine}" in refused.stderr.decode()) == (2, True)
        assert job.output("echo works") == "works\n"
    done = tool(host, "uninstall", "--yes")
    assert (done.returncode, done.stderr) == (0, b"")
    again = tool(host, "uninstall", "--yes")
    assert (again.returncode, again.stdout, again.stderr) == (0, b"", b"")
    assert tool(host, "uninstall").stdout == b"there is nothing of nspawn-runner here\n"
    host.run(["rm", "-rf", SETTINGS_FILE, "/usr/local/bin/nspawn-runner", "/var/lib/node-exporter"])
    host.run(["sh", "-c", "rm -rf /root/*"])
    left = difference(before, inventory(host))
    assert not left, "\n".join(left)


def test_what_others_have_is_left_alone(fresh: DisposableHost, job_image: Path) -> None:
    host = fresh
    host.run(["ip", "link", "add", "name", "br7", "address", "02:00:00:00:00:07", "type", "bridge"])
    host.run(["mkdir", "-p", "/srv/shared/theirs", "/srv/shared/.cache"])
    host.path("/etc/nspawn-runner").mkdir()
    install(host, job_image)
    host.path(SETTINGS_FILE).write_text('[network]\nbridge = "br7"\n')
    with Job(host) as job:
        job.prepare()
    assert tool(host, "uninstall", "--yes").returncode == 0
    assert b"inet " not in host.run(["ip", "address", "show", "dev", "br7"]).stdout
    host.path(SETTINGS_FILE).write_text('state_folder = "/srv/shared"\n')
    assert tool(host, "uninstall", "--yes").returncode == 0
    assert host.run(["ls", "-A", "/srv/shared"]).stdout == b"theirs\n"
