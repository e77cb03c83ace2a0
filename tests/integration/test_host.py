"""The disposable host itself: what the other tests rely on, and that nothing of it stays."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from abilities import require_host
from debian_tree import HostError, cache_folder
from disposable_host import STATE_FOLDER, DisposableHost, State

HOSTS = ("overlay_host", "btrfs_host", "trixie_host")
MEMORY_HOG = ["python3", "-c", "bytearray(200 << 20)"]
ABILITIES = """
ip link add br0 type bridge; ip link add v0 type veth peer name v1; ip link set v0 master br0
sysctl --quiet --write net.ipv4.ip_forward=1
nft 'add table ip t; add chain ip t c { type nat hook postrouting priority 100; }; add rule ip t c masquerade'
cd "$(mktemp --directory --tmpdir=/var/lib/nspawn-runner)"; mkdir lower upper work merged
mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged
truncate --size=20M image; mkfs.ext4 -q image; mount -o loop image lower
"""


def cgroups_of(name: str) -> list[Path]:
    return list(Path("/sys/fs/cgroup").glob(f"**/{name}"))


@pytest.fixture(params=HOSTS)
def any_host(request: pytest.FixtureRequest) -> DisposableHost:
    found: DisposableHost = request.getfixturevalue(request.param)
    return found


def test_boots_without_a_failed_unit(any_host: DisposableHost) -> None:
    any_host.run(["systemctl", "is-system-running", "--wait"])
    assert any_host.run(["systemctl", "--failed", "--no-legend"]).stdout == b""


def test_has_an_image_on_the_right_file_system(any_host: DisposableHost) -> None:
    kind = any_host.run(["stat", "--file-system", "--format=%T", f"{STATE_FOLDER}/bookworm"]).stdout.decode().strip()
    assert (kind == "btrfs") == (any_host.state == "btrfs")
    assert any_host.path(f"{STATE_FOLDER}/bookworm/usr/bin/git").exists()


def test_reaches_the_mirror(any_host: DisposableHost) -> None:
    any_host.run(["apt-get", "update", "--error-on=any"])


def test_may_do_what_a_real_host_may(any_host: DisposableHost) -> None:
    any_host.run(["unshare", "--mount", "--net", "sh", "-ec", ABILITIES])


def test_memory_limit_acts(host: DisposableHost) -> None:
    """On bookworm, which takes the controllers of either version; trixie's systemd takes those of version 2 only."""
    limited = ["systemd-run", "--quiet", "--pipe", "--wait", "--property=MemoryMax=50M", "--property=MemorySwapMax=0"]
    assert host.run([*limited, *MEMORY_HOG], check=False).returncode != 0
    assert host.run([*limited, "true"]).returncode == 0


def test_command_gets_its_own_environment(overlay_host: DisposableHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the machine outside")
    seen = overlay_host.run(["env", "--null"], env={"ADDED": "two words"}, cwd="/tmp").stdout.decode().split("\0")
    assert {"HOME=/root", "ADDED=two words"} < set(seen)
    assert not [line for line in seen if line.startswith(("SECRET=", "PWD=", "OLDPWD=", "CGROUPS="))]


def test_input_output_and_status(overlay_host: DisposableHost) -> None:
    done = overlay_host.run(["sh", "-c", "cat; echo error >&2; exit 7"], stdin=b"\0\xff", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"\0\xff", b"error\n")
    with pytest.raises(subprocess.CalledProcessError) as failure:
        overlay_host.run(["sh", "-c", "echo why >&2; exit 1"])
    assert failure.value.__notes__ == ["why"]


def test_timeout_ends_the_command(overlay_host: DisposableHost) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        overlay_host.run(["sh", "-c", "sleep 4711 & sleep 4711"], timeout=0.5)
    assert overlay_host.run(["pgrep", "--full", "--runstates", "S", "^sleep 4711"], check=False).stdout == b""


def test_signal_reaches_the_command_only(overlay_host: DisposableHost) -> None:
    script = "trap 'echo stopped; exit 9' TERM; echo ready; while :; do sleep 0.1; done"
    with overlay_host.popen(["bash", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        os.killpg(process.pid, signal.SIGTERM)
        assert process.stdout.read() == b"stopped\n"
    assert process.returncode == 9


@pytest.mark.parametrize("state", ["overlay", "btrfs", "xfs"])
def test_nothing_stays(state: State) -> None:
    require_host()
    with contextlib.suppress(KeyboardInterrupt), DisposableHost(state=state, size="1G") as host:
        leader = host.leader
        assert cgroups_of(host.name)
        host.path(f"{STATE_FOLDER}/file").write_text("content")
        raise KeyboardInterrupt
    assert not Path(f"/proc/{leader}/root/etc").exists()
    assert not cgroups_of(host.name)
    assert not list((cache_folder() / "hosts").glob(f"{host.name}*"))
    attached = [file.read_text() for file in Path("/sys/block").glob("loop*/loop/backing_file")]
    assert not [path for path in attached if host.name in path]
    assert host.name not in Path("/proc/self/mountinfo").read_text()


def test_failed_boot_says_what_the_console_said(monkeypatch: pytest.MonkeyPatch) -> None:
    require_host()
    monkeypatch.setattr("disposable_host.INIT", "echo the last words; exit 1")
    with pytest.raises(HostError, match="the last words"), DisposableHost():
        pass


def test_leftover_of_a_killed_process_is_removed() -> None:
    require_host()
    program = "from disposable_host import *; h = DisposableHost(state='btrfs', size='1G').__enter__(); print(h.name)"
    program += "; import sys; sys.stdout.flush(); import time; time.sleep(60)"
    folder = Path(__file__).parent.parent
    with subprocess.Popen([sys.executable, "-c", program], cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        name = process.stdout.readline().strip()
        process.kill()
    assert name.startswith("host-")
    with DisposableHost():
        pass
    assert not cgroups_of(name)
    assert not (cache_folder() / "hosts" / name).exists()
