# ruff: noqa: S607
"""The Debian package: built, installed, upgraded under jobs, removed, purged and installed again, on real hosts."""

import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from abilities import require_host
from by_hand import Job, difference, wait_until
from disposable_host import CHECKOUT, STATE_FOLDER, DisposableHost, Suite
from inventory import inventory

from nspawn_runner import __version__

# With the builder's tree, which is made once.
pytestmark = pytest.mark.timeout(1200)
TOOL = "/usr/bin/nspawn-runner"
SETTINGS_FILE = "/etc/nspawn-runner/nspawn-runner.toml"
TREES = "/usr/lib/nspawn-runner"
TIMERS = ("nspawn-runner-gc.timer", "nspawn-runner-maintenance.timer")
# What dpkg, apt and those whom they tell write down for themselves.
OF_APT = re.compile(r"file /var/(lib|cache|log)/(dpkg|apt|man|debconf|ucf|systemd/deb-systemd|alternatives)")


class Package(NamedTuple):
    """A package that was built, and the suite it is for."""

    suite: Suite
    path: Path


@pytest.fixture(scope="module", params=["bookworm", pytest.param("trixie", marks=pytest.mark.soak)])
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """What packaging/build makes of this checkout; lintian has nothing to say of it."""
    require_host()
    folder = tmp_path_factory.mktemp("dist")
    argv = [CHECKOUT / "packaging/build", request.param, "--output", folder]
    built = subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=1000)
    return Package(request.param, Path(built.stdout.decode().strip()))


@pytest.fixture
def bare(package: Package) -> Iterator[DisposableHost]:
    """A host where the tool has never been."""
    with DisposableHost(suite=package.suite) as host:
        yield host


@pytest.fixture
def installed(bare: DisposableHost, package: Package, job_image: Path) -> DisposableHost:
    """A host with the package and an image."""
    apt(bare, "install", put(bare, package.path))
    copy_image(bare, job_image, STATE_FOLDER)
    return bare


def put(host: DisposableHost, path: Path) -> str:
    host.path(f"/root/{path.name}").write_bytes(path.read_bytes())
    return f"/root/{path.name}"


def apt(host: DisposableHost, *words: str, status: int = 0) -> str:
    """Call apt-get without what only recommends itself; return what it and dpkg said."""
    argv = ["apt-get", "--yes", "--no-install-recommends", "--allow-downgrades", "--quiet", *words]
    done = host.run(argv, env={"DEBIAN_FRONTEND": "noninteractive"}, check=False, timeout=120)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == status, said
    return said


def copy_image(host: DisposableHost, image: Path, state_folder: str) -> None:
    host.run(["mkdir", "--parents", f"{state_folder}/bookworm"])
    subprocess.run(["cp", "--archive", f"{image}/.", host.path(f"{state_folder}/bookworm")], check=True)


def job(host: DisposableHost) -> Job:
    return Job(host, tool=TOOL)


def text(host: DisposableHost, *argv: str) -> str:
    return host.run(argv).stdout.decode()


def next_version(host: DisposableHost, package: str) -> str:
    """Return a package of a higher version: a module that the end of a failed script loads fits no other."""
    script = f"""
        dpkg-deb --raw-extract {package} /root/next
        cd /root/next
        sed -i 's/^Version: .*/Version: 9.9/' DEBIAN/control
        sed -i 's/__version__ = .*/__version__ = "9.9"/' usr/share/nspawn-runner/nspawn_runner/__init__.py
        sed -i '/^from __future__/a from .. import __version__; assert __version__ == "9.9"' \\
            usr/share/nspawn-runner/nspawn_runner/machines/evidence.py
        dpkg-deb --root-owner-group --build /root/next /root/next.deb
        rm -r /root/next"""
    host.run(["sh", "-euc", script])
    return "/root/next.deb"


def test_it_installs_and_jobs_run(installed: DisposableHost) -> None:
    host = installed
    assert text(host, TOOL, "--version") == f"nspawn-runner {__version__}\n"
    for timer in TIMERS:
        assert text(host, "systemctl", "is-enabled", timer) == "enabled\n"
        assert text(host, "systemctl", "is-active", timer) == "active\n"
    # Nothing is left for setup to put in place.
    assert host.run([TOOL, "setup", "--print"]).stderr == b""
    assert b"chroot-login" in host.run([TOOL, "complete", "chroot-lo"]).stdout
    host.run(["test", "-e", "/usr/share/man/man8/nspawn-runner-setup.8.gz"])
    host.run(["systemctl", "start", *(timer.replace(".timer", ".service") for timer in TIMERS)])
    assert SETTINGS_FILE in text(host, "dpkg-query", "--show", "--showformat=${Conffiles}", "nspawn-runner")
    wrong = [line for line in text(host, "sh", "-c", f"{TOOL} doctor --job || :").splitlines() if "failed" in line[:8]]
    assert wrong == []
    with job(host) as own:
        own.prepare()
        assert own.output("systemctl is-system-running --wait; id -u").split() == ["running", "0"]
        done = own.script("exit 3")
        assert (done.status, done.code) == (91, "3\n")
        assert f"{TREES}/tree." in text(host, "systemctl", "show", "--property=ExecStopPost", own.unit)
        own.cleanup()


def test_an_upgrade_disturbs_no_job(installed: DisposableHost, package: Package) -> None:
    host = installed
    higher = next_version(host, f"/root/{package.path.name}")
    with job(host) as running, job(host) as ending:
        for each in (running, ending):
            each.prepare()
        going_on = running.start("touch /run/began; until [ -e /run/end ]; do sleep 0.1; done; echo done; exit 4")
        wait_until(lambda: (running.layer() / "upper/run").exists() or running.script("test -e /run/began").status == 0)
        failures: list[str] = []
        calls = 0
        upgraded = threading.Event()

        def call_meanwhile() -> None:
            nonlocal calls
            while not upgraded.is_set():
                done = ending.script("exit 0")
                calls += 1
                if done.status:
                    failures.append(done.message)

        caller = threading.Thread(target=call_meanwhile)
        caller.start()
        try:
            apt(host, "install", higher)
        finally:
            upgraded.set()
            caller.join()
        assert failures == []
        assert calls > 0
        assert text(host, TOOL, "--version") == "nspawn-runner 9.9\n"
        # The stage from before ends as it would have, with what it loads only now.
        running.output("touch /run/end")
        out, err = going_on.communicate(timeout=60)
        assert (going_on.returncode, running.code(), out) == (91, "4\n", b"done\n"), err.decode()
        assert b"cannot load" not in err
        # The machine from before is up, and when it ends its unit finds what it calls.
        assert running.output("systemctl is-system-running") == "running\n"
        ending.script("systemctl poweroff; sleep 60")
        told = ["journalctl", "--output=cat", "NSPAWN_RUNNER_STAGE=reap", f"NSPAWN_RUNNER_MACHINE={ending.machine}"]
        wait_until(lambda: "ended by itself" in text(host, *told))
        running.cleanup()
        ending.cleanup()
    # The copies that nobody needs go with the next upgrade but one.
    for version in (f"/root/{package.path.name}", higher, f"/root/{package.path.name}"):
        apt(host, "install", version)
    assert len(text(host, "sh", "-c", f"ls -d {TREES}/tree.*").splitlines()) == 2
    assert apt(host, "install", "--reinstall", f"/root/{package.path.name}")
    assert len(text(host, "sh", "-c", f"ls -d {TREES}/tree.*").splitlines()) == 2


@pytest.mark.soak
@pytest.mark.parametrize("state_folder", [STATE_FOLDER, pytest.param("/srv/machines", marks=pytest.mark.soak)])
def test_remove_keeps_and_purge_leaves_nothing(
    bare: DisposableHost, package: Package, job_image: Path, state_folder: str
) -> None:
    host = bare
    path = put(host, package.path)
    if state_folder != STATE_FOLDER:  # the root of this host is an overlay, on which no other can lie
        host.run(["mkdir", "--mode=0700", f"{STATE_FOLDER}/other", state_folder])
        host.run(["mount", "--bind", f"{STATE_FOLDER}/other", state_folder])
        known = ["systemctl", "is-active", "srv-machines.mount"]
        wait_until(lambda: host.run(known, check=False).returncode == 0)
    apt(host, "--version")
    before = everything(host)
    apt(host, "install", path)
    own_settings = host.path(SETTINGS_FILE).read_text() + "# mine\n"
    if state_folder != STATE_FOLDER:
        own_settings = f'state_folder = "{state_folder}"\n{own_settings}'
    host.path(SETTINGS_FILE).write_text(own_settings)
    copy_image(host, job_image, state_folder)
    with job(host) as own:
        own.prepare()
        assert f"machines are up: {own.unit}" in apt(host, "remove", "nspawn-runner", status=100)
        assert own.output("echo works") == "works\n"
        own.cleanup()
    host.run([TOOL, "chroot-login", "bookworm", "--", "touch", "/changed"])
    apt(host, "remove", "nspawn-runner")
    assert host.run(["sh", "-c", f"command -v nspawn-runner; ls {TREES}/tree.*/nspawn-runner"]).stdout.count(b"\n") == 1
    assert host.path(SETTINGS_FILE).read_text() == own_settings
    apt(host, "install", path)
    with job(host) as own:
        own.prepare()
        own.output("test -e /changed")
        own.cleanup()
    apt(host, "purge", "nspawn-runner")
    gone = difference(before, everything(host))
    assert not gone, "\n".join(gone)
    apt(host, "install", path)
    assert text(host, "systemctl", "is-enabled", *TIMERS) == "enabled\nenabled\n"


def everything(host: DisposableHost) -> list[str]:
    return [line for line in inventory(host) if not OF_APT.match(line) and "/root/" not in line]


@pytest.mark.soak
def test_its_own_test_passes(installed: DisposableHost) -> None:
    """The one that autopkgtest runs."""
    script = CHECKOUT / "packaging/debian/tests/four-stages"
    done = installed.run([script], check=False, timeout=500)
    assert done.returncode == 0, done.stderr.decode()
