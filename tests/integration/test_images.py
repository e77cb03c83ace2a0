"""Images on real hosts: made, interrupted, changed, removed; on a plain folder and on btrfs."""

import json
import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from disposable_host import CHECKOUT, STATE_FOLDER, DisposableHost

TOOL = f"{CHECKOUT}/nspawn-runner"
NAME = "made"
SECONDS = 240


class Made(NamedTuple):
    """An image that chroot-create made in a host, and what was seen meanwhile."""

    host: DisposableHost
    stdout: str
    stderr: str
    second: subprocess.CompletedProcess[bytes]
    listed_meanwhile: list[dict[str, Any]]


_made: dict[str, Made] = {}


@pytest.fixture(params=["xfs", "btrfs"])
def host(request: pytest.FixtureRequest) -> DisposableHost:
    """A host with plain folders, whose copies share their blocks, and one with subvolumes."""
    found: DisposableHost = request.getfixturevalue(f"{request.param}_host")
    return found


# An image is made into a folder by the same calls as into a subvolume.
MADE_ON = [pytest.param("xfs", marks=pytest.mark.soak), "btrfs"]


@pytest.fixture(params=MADE_ON)
def made(request: pytest.FixtureRequest) -> Made:
    """The host with an image made in it, once per host, while a second call wanted the same."""
    host: DisposableHost = request.getfixturevalue(f"{request.param}_host")
    if host.name not in _made:
        _made[host.name] = make(host)
    return _made[host.name]


def make(host: DisposableHost) -> Made:
    with start_build(host, NAME, "--suite", "bookworm") as building:
        early = wait_for(building, b"downloading")
        second = tool(host, "chroot-create", NAME, "--suite", "bookworm")
        meanwhile = listed(host)
        stdout, stderr = building.communicate(timeout=SECONDS)
    assert building.returncode == 0, stderr.decode()
    return Made(host, stdout.decode(), (early + stderr).decode(), second, meanwhile)


def tool(host: DisposableHost, *arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return host.run([TOOL, *arguments], check=False, timeout=SECONDS, stdin=stdin)


def start_build(host: DisposableHost, *arguments: str) -> subprocess.Popen[bytes]:
    return host.popen([TOOL, "chroot-create", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(process: subprocess.Popen[bytes], sign: bytes) -> bytes:
    """Read the lines of standard error up to the one with ``sign``."""
    assert process.stderr is not None
    seen = b""
    for line in iter(process.stderr.readline, b""):
        seen += line
        if sign in line:
            return seen
    pytest.fail(f"no {sign!r} in: {seen.decode()}")


def listed(host: DisposableHost, *options: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(tool(host, "chroot-list", "--json", *options).stdout)
    return rows


def listed_as(host: DisposableHost, name: str, *options: str) -> list[dict[str, Any]]:
    return [row for row in listed(host, *options) if row["name"] == name]


def state(host: DisposableHost, path: str = "") -> Path:
    return host.path(STATE_FOLDER) / path


def current(host: DisposableHost, name: str) -> str:
    return os.readlink(state(host, name)).rpartition("/")[2]


def left_of(host: DisposableHost, name: str) -> list[str]:
    """What lies in the state folder of an image, hidden things too."""
    found = [name] if os.path.lexists(state(host, name)) else []
    folder = state(host, f".generations/{name}")
    return found + ([f".generations/{name}", *os.listdir(folder)] if folder.exists() else [])


def builders(host: DisposableHost) -> bytes:
    return host.run(["pgrep", "--full", f"mmdebstrap.*{STATE_FOLDER}"], check=False).stdout


def test_a_new_image_is_complete(made: Made) -> None:
    [row] = listed_as(made.host, NAME)
    assert (row["suite"], row["state"], row["complete"]) == ("bookworm", "current", True)
    assert row["generation"] == current(made.host, NAME)
    assert 100 << 20 < row["size_bytes"] < 1 << 30
    assert abs(row["created"] - time.time()) < SECONDS
    facts = json.loads(state(made.host, f".generations/{NAME}/{row['generation']}.json").read_text())
    assert (facts["builder"], facts["variant"], facts["complete"]) == ("mmdebstrap", "minbase", True)
    assert f"image {NAME}, generation {row['generation']}, " in made.stdout
    assert 5 <= len(made.stderr.splitlines()) <= 15


def test_a_new_image_holds_nothing_of_the_host(made: Made) -> None:
    root = state(made.host, NAME)
    assert (root / "etc/machine-id").read_bytes() == b""
    assert (root / "etc/resolv.conf").read_bytes() == b""
    assert (root / "etc/hostname").read_text() == f"{NAME}\n"
    assert [path for path in (root / "var/lib/apt/lists").iterdir() if path.is_file()] == []
    assert list((root / "var/cache/apt").glob("**/*.deb")) == []
    assert "LANG=C.UTF-8" in (root / "etc/locale.conf").read_text()
    assert not os.path.lexists(root / "etc/systemd/system/fstrim.timer")
    assert stat.S_IMODE(root.stat().st_mode) == 0o755
    assert stat.S_IMODE(state(made.host, ".generations").stat().st_mode) & 0o077 == 0


def test_a_generation_on_btrfs_is_a_subvolume(made: Made) -> None:
    assert (state(made.host, NAME).stat().st_ino == 256) == (made.host.state == "btrfs")


def test_of_two_at_once_the_second_is_told(made: Made) -> None:
    assert made.second.returncode != 0
    assert b"in use by another process" in made.second.stderr
    [row] = [row for row in made.listed_meanwhile if row["name"] == NAME]
    assert (row["state"], row["complete"]) == ("building", False)


def test_an_image_is_not_made_twice(made: Made) -> None:
    done = tool(made.host, "chroot-create", NAME, "--suite", "bookworm")
    assert done.returncode != 0
    assert b"already an image" in done.stderr
    assert b"chroot-remove" in done.stderr


@pytest.mark.parametrize("host", MADE_ON, indirect=True)
def test_a_stopped_build_leaves_nothing(host: DisposableHost) -> None:
    with start_build(host, "stopped", "--suite", "bookworm") as building:
        wait_for(building, b"unpacking")
        os.killpg(building.pid, signal.SIGTERM)
        _, stderr = building.communicate(timeout=30)
    assert building.returncode != 0
    assert b"stopped by SIGTERM" in stderr
    assert left_of(host, "stopped") == []
    assert builders(host) == b""


@pytest.mark.parametrize("host", MADE_ON, indirect=True)
def test_a_killed_build_leaves_what_the_next_one_removes(host: DisposableHost) -> None:
    with start_build(host, "killed", "--suite", "bookworm") as building:
        wait_for(building, b"unpacking")
        building.kill()
        building.communicate(timeout=30)
    wait_until_gone(host)
    assert [row["state"] for row in listed_as(host, "killed")] == ["half-made"]
    assert not os.path.lexists(state(host, "killed"))

    done = tool(host, "chroot-create", "killed", "--suite", "bookworm", "--mirror", "http://127.0.0.1:9/debian")
    assert done.returncode != 0
    assert b"/var/log/nspawn-runner/chroot-create-killed.log" in done.stderr
    assert host.path("/var/log/nspawn-runner/chroot-create-killed.log").read_text()
    assert left_of(host, "killed") == []


def wait_until_gone(host: DisposableHost) -> None:
    deadline = time.monotonic() + 5
    while builders(host) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert builders(host) == b""


@pytest.fixture
def small_disk(overlay_host: DisposableHost) -> Iterator[str]:
    """The options for a state folder on a disk of 60 MiB."""
    overlay_host.run(["sh", "-c", "mkdir -p /mnt/small && mount -t tmpfs -o size=60M small /mnt/small"])
    overlay_host.run(["sh", "-c", "echo 'state_folder = \"/mnt/small/state\"' > /root/small.toml"])
    yield "/root/small.toml"
    overlay_host.run(["umount", "/mnt/small"])


def test_a_full_disk_is_named(overlay_host: DisposableHost, small_disk: str) -> None:
    done = tool(overlay_host, "--config", small_disk, "chroot-create", "big", "--suite", "bookworm")
    assert done.returncode != 0
    assert b"the disk that holds /mnt/small/state is full" in done.stderr
    assert b"small mounted on /mnt/small" in done.stderr
    assert b"Traceback" not in done.stderr
    assert os.listdir(overlay_host.path("/mnt/small/state/.generations")) == []


@pytest.mark.parametrize("name", ["../x", ".x", "a/b", "", "-x", "x\n", "x" * 65, "ä", ".generations"])
@pytest.mark.parametrize("verb", ["chroot-create", "chroot-login", "chroot-remove"])
def test_a_hostile_name_is_refused(overlay_host: DisposableHost, verb: str, name: str) -> None:
    before = sorted(os.listdir(state(overlay_host)))
    done = tool(overlay_host, verb, "--", name)
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr
    assert sorted(os.listdir(state(overlay_host))) == before


def test_a_success_is_published(made: Made) -> None:
    host, before = made.host, current(made.host, NAME)
    done = tool(host, "chroot-login", NAME, "--", "sh", "-c", "cat > /root/new; cat /proc/self/uid_map", stdin=b"text")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.split()[1] == str(0x7FFE0000).encode()
    assert current(host, NAME) > before
    new = state(host, NAME) / "root/new"
    assert new.read_text() == "text"
    assert (new.stat().st_uid, new.stat().st_gid) == (0, 0)
    assert (state(host, NAME) / "etc/resolv.conf").read_bytes() == b""
    assert not (state(host, f".generations/{NAME}/{before}") / "root/new").exists()
    [row] = listed_as(host, NAME)
    assert (row["suite"], row["state"]) == ("bookworm", "current")


MIRRORS_REACHED = "apt-get update -qq && ls /var/lib/apt/lists/*Packages*"


@pytest.mark.parametrize(("options", "script", "status"), [([], "exit 7", 7), (["--discard"], MIRRORS_REACHED, 0)])
def test_anything_else_is_not(made: Made, options: list[str], script: str, status: int) -> None:
    before = current(made.host, NAME)
    done = tool(made.host, "chroot-login", *options, NAME, "--", "sh", "-c", f"touch /root/lost; {script}")
    assert done.returncode == status, done.stderr.decode()
    assert b"nothing changed" in done.stderr
    assert current(made.host, NAME) == before
    assert not (state(made.host, NAME) / "root/lost").exists()
    assert [name for name in os.listdir(state(made.host, f".generations/{NAME}")) if name.startswith(".")] == []


def test_a_stopped_login_changes_nothing(made: Made) -> None:
    before = current(made.host, NAME)
    login = [TOOL, "chroot-login", NAME, "--", "sh", "-c", "touch /root/lost; echo ready; sleep 60"]
    with made.host.popen(login, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        refused = tool(made.host, "chroot-remove", NAME)
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode != 0
    assert b"in use by another process" in refused.stderr
    assert current(made.host, NAME) == before
    assert len(left_of(made.host, NAME)) == 2 + 2 * len(listed_as(made.host, NAME, "--generations"))


def test_a_newer_systemd_changes_images_too(trixie_host: DisposableHost) -> None:
    script = "id -u; cat /etc/resolv.conf; exit 3"
    done = tool(trixie_host, "chroot-login", "--discard", "bookworm", "--", "sh", "-c", script)
    assert done.returncode == 3, done.stderr.decode()
    assert done.stdout == b"0\n" + trixie_host.path("/etc/resolv.conf").read_bytes()


@pytest.mark.parametrize("newer", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_the_keys_that_are_named_decide(newer: bool, request: pytest.FixtureRequest) -> None:
    host: DisposableHost = request.getfixturevalue("trixie_host" if newer else "overlay_host")
    keys = "/usr/share/keyrings/debian-archive"
    host.run(["mkdir", "-p", "/etc/nspawn-runner"])
    playbook = "- hosts: all\n  vars:\n    nspawn_runner_chroot_suite: bookworm\n    nspawn_runner_chroot_builder: {}\n"
    for builder in ("mmdebstrap", "debootstrap"):
        path = f"/etc/nspawn-runner/keys-{builder}.yaml"
        for file in ("/etc/passwd", f"{keys}-removed-keys.gpg"):
            text = playbook.format(builder) + f"    nspawn_runner_chroot_keyring: {file}\n"
            host.path(path).write_text(text)
            done = tool(host, "chroot-create", f"keys-{builder}")
            assert done.returncode != 0, file
            assert f"{file} holds no key that signed this suite" in done.stdout.decode() + done.stderr.decode()
        host.run(["rm", path])
    right = tool(host, "chroot-create", "keys", "--suite", "bookworm", "--keyring", f"{keys}-keyring.gpg",
                 "--packages", "no-such-package")  # fmt: skip
    assert b"Unable to locate package no-such-package" in right.stderr, right.stderr.decode()
    for name in ("keys", "keys-mmdebstrap", "keys-debootstrap"):
        assert left_of(host, name) == []


@pytest.mark.parametrize("builder", ["mmdebstrap", "debootstrap"])
def test_what_a_builder_fails_of_is_told_with_advice(overlay_host: DisposableHost, builder: str) -> None:
    host = overlay_host
    host.run(["mkdir", "-p", "/etc/nspawn-runner"])
    for variables, advice in (
        ("chroot_suite: buster", "archive.debian.org"),
        ("chroot_arch: arm64", "qemu-user-static"),
        ("chroot_mirror: http://no-such-host.invalid/debian", "is the network up"),
        ("chroot_mirror: http://127.0.0.1:1/debian", "is the network up"),
        ("chroot_packages: [no-such-package]", "check --packages"),
    ):
        given = {"chroot_suite": "bookworm", "chroot_builder": builder} | dict([variables.split(": ", 1)])
        lines = "".join(f"    nspawn_runner_{key}: {value}\n" for key, value in given.items())
        host.path("/etc/nspawn-runner/told.yaml").write_text(f"- hosts: all\n  vars:\n{lines}")
        done = tool(host, "chroot-create", "told")
        assert done.returncode != 0
        assert advice in done.stderr.decode(), variables
        assert b"Traceback" not in done.stderr
    host.run(["rm", "/etc/nspawn-runner/told.yaml"])
    assert left_of(host, "told") == []


def test_a_plain_folder_becomes_a_generation_without_a_gap(host: DisposableHost) -> None:
    host.run(["cp", "--archive", "--reflink=auto", f"{STATE_FOLDER}/bookworm", f"{STATE_FOLDER}/plain"])
    [row] = listed_as(host, "plain")
    assert (row["state"], row["size_bytes"], row["generation"]) == ("plain", None, None)
    inode = state(host, "plain").stat().st_ino
    with watched(state(host, "plain/usr")) as gaps:
        done = tool(host, "chroot-login", "plain", "--", "touch", "/root/new")
    assert done.returncode == 0, done.stderr.decode()
    assert gaps == []
    current_row, first = listed_as(host, "plain", "--generations")
    assert (current_row["state"], first["state"]) == ("current", "old")
    assert state(host, f".generations/plain/{first['generation']}").stat().st_ino == inode
    assert (state(host, "plain") / "root/new").exists()
    assert tool(host, "chroot-remove", "plain").returncode == 0
    assert left_of(host, "plain") == []


class watched:
    """Looks all the time whether a folder is there; gives the times at which it was not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gaps: list[float] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def watch(self) -> None:
        while not self.stop.is_set():
            if not os.path.isdir(self.folder):
                self.gaps.append(time.time())

    def __enter__(self) -> list[float]:
        self.thread.start()
        return self.gaps

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


def test_an_image_in_use_is_not_removed(made: Made) -> None:
    """Last, since it removes the image that the other tests share."""
    host = made.host
    started = tool(host, "prepare", "--id", "77", NAME)
    assert started.returncode == 0, started.stderr.decode()
    used = current(host, NAME)
    try:
        assert tool(host, "chroot-login", NAME, "--", "true").returncode == 0
        assert current(host, NAME) > used
        refused = tool(host, "chroot-remove", NAME)
        assert refused.returncode != 0
        assert b"by run-77" in refused.stderr
        assert state(host, NAME).exists()
    finally:
        tool(host, "cleanup", "--id", "77")
    removed = tool(host, "chroot-remove", NAME)
    assert removed.returncode == 0, removed.stderr.decode()
    assert left_of(host, NAME) == []
    assert b"there is no image" in tool(host, "chroot-login", NAME, "--", "true").stderr
