"""cleanup: everything of a machine is gone when it returns, whatever the job made and whatever is missing."""

from collections.abc import Iterator

import pytest
from by_hand import Job, Unchanged, holdings, lines_of, payload
from disposable_host import STATE_FOLDER, DisposableHost


@pytest.fixture
def job(host: DisposableHost) -> Iterator[Job]:
    """A machine of the test's own, of which in the end nothing is left."""
    with Unchanged(host), Job(host) as own:
        own.prepare()
        yield own


def test_comparison_sees_a_machine(host: DisposableHost) -> None:
    before = holdings(host)
    with Job(host) as job:
        job.prepare()
        kinds = {line.split(" ", 1)[0] for line in holdings(host) if line not in before}
    assert {"unit", "cgroup", "process", "run", "transient", "state"} <= kinds
    assert ("subvolume" in kinds) == (host.state == "btrfs")


def test_twice(job: Job) -> None:
    job.cleanup()
    job.cleanup()


def test_job_that_never_started(host: DisposableHost) -> None:
    with Unchanged(host):
        Job(host).cleanup()


MISSING = {
    "record": "rm /run/nspawn-runner/{machine}.json",
    "record and run folder": "rm -r /run/nspawn-runner/{machine}.json; rm -rf /run/nspawn-runner/{machine}",
    "layer": "rm -rf {layer}",
    "unit": "systemctl stop {unit}",
    "unit, then record": "systemctl stop {unit}; rm /run/nspawn-runner/{machine}.json",
    "unit and layer": "systemctl stop {unit}; rm -rf {layer}",
    "what the unit does when it ends": "systemctl stop {unit}; ip -batch /run/nspawn-runner/{machine}/neighbour",
    "run folder": "rm -rf /run/nspawn-runner/{machine}",
    "all but the layer": "systemctl stop {unit}; mkdir -p {layer}/upper/x; rm -rf /run/nspawn-runner/{machine}*",
    "all of the run folders": "systemctl stop {unit}; rm -rf /run/nspawn-runner",
    "systemd-nspawn": "kill -9 {main_pid}",
}


@pytest.mark.parametrize("what", MISSING)
def test_half_is_missing(job: Job, what: str) -> None:
    known = {"machine": job.machine, "unit": job.unit, "layer": job.record()["layer"], "main_pid": job.main_pid()}
    job.host.run(["sh", "-c", f"({MISSING[what].format(**known)}) 2>/dev/null || true"])
    job.cleanup()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"machine": "../../x"}', b"\xff\xfe", b"null"])
def test_record_that_is_rubbish(job: Job, content: bytes) -> None:
    job.host.path(f"/run/nspawn-runner/{job.machine}.json").write_bytes(content)
    done = job.call("cleanup")
    assert len(done.message.splitlines()) <= 3
    assert done.status == 0, done.message


MESS = r"""
set -e
cd /root
python3 - <<'END'
import os, socket
top = os.getcwd()
for n in range(600):
    os.mkdir("nested-folder"); os.chdir("nested-folder")
open("deep", "w").close()
os.chdir(top)
for name in (b"new\nline", b"\xff\xfe invalid", b"-rf", b" ", b"*", b"x" * 255, b"\x1b[31m", "größe".encode()):
    os.mkdir(b"name-of-folder" + name[:200])
    open(name, "w").close()
os.mkfifo("fifo")
socket.socket(socket.AF_UNIX).bind("socket")
os.symlink("/", "root"); os.symlink("../../../../../..", "up"); os.symlink("loop", "loop")
END
chattr +i new* 2>/dev/null || true
mkdir closed; touch closed/file; chmod 000 closed; chown 1234:1234 closed
truncate --size=1T sparse
mount -t tmpfs tmpfs /mnt; touch /mnt/file; mkdir /root/bound; mount --bind /usr /root/bound
setcap cap_net_admin+ep /usr/bin/env 2>/dev/null || true
cp /usr/bin/id setuid; chmod 6755 setuid
setsid sleep 600 > /dev/null 2>&1 &
(trap '' TERM HUP INT; exec sleep 600) > /dev/null 2>&1 &
mkdir -p /run/systemd/system; systemd-run --quiet --unit=own.service sleep 600
"""


def test_whatever_a_job_made(job: Job) -> None:
    job.output(MESS)
    assert any("sleep 600" in line for line in holdings(job.host))
    job.cleanup()
    assert not any("sleep 600" in line for line in holdings(job.host))


def test_subvolumes_that_a_job_made(btrfs_host: DisposableHost) -> None:
    with Unchanged(btrfs_host), Job(btrfs_host) as job:
        job.prepare()
        made = job.script(f"python3 - <<'END'\n{MAKE_SUBVOLUMES}END")
        assert made.status == 0, made.err
        inside = lines_of(btrfs_host, f"btrfs subvolume list {STATE_FOLDER} | grep -c {job.machine}/")
        assert inside == ["4"]
        job.cleanup()


def test_subvolumes_in_a_cache_and_in_a_volume(btrfs_host: DisposableHost) -> None:
    """These are plain folders of the host's btrfs."""
    own = 'backend = "overlay"\nprofile = "own"\n[profiles.own]\nvolumes = ["/srv/volume"]\n[gc]\ncache_days = 1\n'
    listed = f"btrfs subvolume list {STATE_FOLDER} | grep -E '/(own|nested|read-only)$' || true"
    with Unchanged(btrfs_host), Job(btrfs_host, "5901", payload=payload(5901), settings=own) as job:
        job.prepare()
        for folder in ("/cache", "/srv/volume"):
            job.output(f"python3 - <<'END'\n{MAKE_SUBVOLUMES.replace('/root', folder)}END")
        assert len(lines_of(btrfs_host, listed)) == 8
        job.cleanup()
        assert all(" path .cache/" in line for line in lines_of(btrfs_host, listed))
        btrfs_host.run(["bash", "-c", f"touch --date=-2days {STATE_FOLDER}/.cache/*.used"])
        assert job.call("gc").status == 0
        assert lines_of(btrfs_host, listed) == []


# The image has no btrfs-progs, but root in the machine may do what they do: BTRFS_IOC_SUBVOL_CREATE and _SETFLAGS.
MAKE_SUBVOLUMES = r"""
import fcntl, os, struct
for folder, name in (("/root", "own"), ("/root/own", "nested"), ("/root/own", "read-only"), ("/root/usr", "own")):
    os.makedirs(folder, exist_ok=True)
    fd = os.open(folder, os.O_RDONLY)
    fcntl.ioctl(fd, 0x5000940E, bytearray(struct.pack("q4088s", 0, name.encode())))
    open(f"{folder}/{name}/file", "w").close()
fcntl.ioctl(os.open("/root/own/read-only", os.O_RDONLY), 0x4008941A, bytearray(struct.pack("Q", 2)))
try:
    open("/root/own/read-only/other", "w")
except OSError:
    pass
else:
    raise SystemExit("not read-only")
"""


def test_layers_of_other_machines_stay(host: DisposableHost) -> None:
    with Job(host) as stays, Job(host, f"{stays.id}0") as goes:
        stays.prepare()
        goes.prepare()
        goes.cleanup()
        assert stays.output("echo works") == "works\n"
        assert stays.layer().is_dir()
        assert host.path(f"{STATE_FOLDER}/bookworm/usr/bin/git").exists()
