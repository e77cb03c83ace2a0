# ruff: noqa: S607
"""Profiles in real machines: containers and debuggers in the nesting one, the trusted one, and one of the admin's."""

import subprocess
from collections.abc import Iterator

import pytest
from backends import ON_ONE
from by_hand import SYSTEM_FAILURE, Job, Unchanged
from debian_tree import debian_tree
from disposable_host import IMAGE_PACKAGES, STATE_FOLDER, DisposableHost

IMAGE = "nesting"
PACKAGES = (
    f"{IMAGE_PACKAGES},bubblewrap,busybox-static,crun,dbus-user-session,debian-archive-keyring,gdb,iptables,mmdebstrap,"
    "netavark,podman,strace,systemd-container,uidmap"
)
NESTING = 'profile = "nesting"\n'
# Where cgroups are version 1, or have no controllers as in these hosts, a container cannot have one of its own.
RUN = "podman run --rm --cgroups=disabled"
BUILD = """set -e
mkdir /root/build; cd /root/build; cp /bin/busybox .
cat > Dockerfile <<END
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir /data && touch /data/a && chown 1000:1000 /data/a
RUN rm -r /data && mkdir /data && touch /data/b
CMD ["ls", "/data"]
END
podman build --quiet --tag=tiny . > /dev/null
podman info --format '{{.Store.GraphDriverName}}'
"""
TREE = "mmdebstrap --quiet --variant=extract --include=base-files,busybox-static"
# In a tree without a systemd, that of bookworm would make version 1 cgroups.
START = """[ -e /sys/fs/cgroup/cgroup.controllers ] && export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
systemd-nspawn --quiet --pipe --directory=/root/tree --network-veth --setenv=A=b /bin/busybox sh -c 'echo $A'
"""
ROOTLESS = """export XDG_RUNTIME_DIR=/run/user/$(id --user)
mkdir root; cp /bin/busybox root
podman run --rm --cgroups=disabled --network=none --rootfs ~/root /busybox id
"""


@pytest.fixture(scope="module", params=["btrfs_host", "trixie_host"])
def nesting_host(request: pytest.FixtureRequest) -> Iterator[DisposableHost]:
    """A host with snapshots, one with overlays: with an image that has podman, mmdebstrap, gdb and strace."""
    host: DisposableHost = request.getfixturevalue(request.param)
    tree = debian_tree("nesting", "bookworm", PACKAGES)
    path = f"{STATE_FOLDER}/{IMAGE}"
    host.run(["btrfs", "subvolume", "create", path] if request.param == "btrfs_host" else ["mkdir", path])
    subprocess.run(["cp", "--archive", f"{tree}/.", host.path(path)], check=True)
    yield host
    host.run(["rm", "--recursive", path])


def need_debuggers(job: Job) -> None:
    """Attach to a process, trace some."""
    attached = job.output("sleep 60 & gdb --batch --pid=$! --ex backtrace 2>&1; kill $!")
    assert "__libc_start_main" in attached
    traced = job.output("strace --follow-forks --trace=exit_group sh -c '/bin/true; exit 7' 2>&1 || echo $?")
    assert traced.count("exit_group") == 2
    assert traced.endswith("\n7\n")


def test_containers_and_debuggers(nesting_host: DisposableHost) -> None:
    with Unchanged(nesting_host), Job(nesting_host, settings=NESTING) as job:
        assert b", profile nesting, machine run-" in job.prepare(IMAGE).out
        assert job.output(BUILD) == "overlay\n"
        assert job.output(f"{RUN} tiny") == "b\n"
        # Its own network reaches out through the machine's.
        fetch = "wget -q -O - http://deb.debian.org/debian/dists/bookworm/Release | head -n 1"
        assert job.output(f"{RUN} --http-proxy tiny sh -c '{fetch}'") == "Origin: Debian\n"
        need_debuggers(job)
        assert int(job.output("cat /proc/self/uid_map").split()[1]) > 0
        job.cleanup()


def test_trees_of_systems(nesting_host: DisposableHost) -> None:
    """mmdebstrap makes them, systemd-nspawn starts them, also once the machine was rebooted; podman needs no root."""
    with Unchanged(nesting_host), Job(nesting_host, settings=NESTING) as job:
        job.prepare(IMAGE)
        job.output("useradd --create-home ci; echo ci:10000:50000 | tee /etc/subuid > /etc/subgid")
        job.output(f"su - ci -c '{TREE} --mode=unshare bookworm tree.tar && bwrap --ro-bind / / true'")
        assert job.output(f"loginctl enable-linger ci; su - ci -c '{ROOTLESS}'") == "uid=0 gid=0\n"
        job.output(f"{TREE} --mode=root bookworm /root/tree")
        assert job.output("stat --format=%u /root/tree/usr/lib/os-release") == "0\n"
        assert job.output(START) == "b\n"
        job.script("systemctl reboot; sleep 60")
        assert job.output(START) == "b\n"
        job.cleanup()


def test_nesting_on_a_newer_systemd(trixie_host: DisposableHost) -> None:
    """It makes some nodes in /dev by itself."""
    with Unchanged(trixie_host), Job(trixie_host, settings=NESTING) as job:
        job.prepare()
        assert job.output("stat --format='%F %a' /dev/fuse") == "character special file 666\n"
        job.cleanup()


def test_only_that_profile_has_them(nesting_host: DisposableHost) -> None:
    with Job(nesting_host) as job:
        assert b"profile" not in job.prepare(IMAGE).out
        assert job.script("test -e /dev/fuse").status != 0
        need_debuggers(job)
        job.script(BUILD)
        assert job.script(f"{RUN} tiny").status != 0


@ON_ONE
def test_trusted_is_root_on_the_host(host: DisposableHost) -> None:
    links = "ls /sys/class/net"
    with Unchanged(host), Job(host, settings='profile = "trusted"\n') as job:
        job.prepare()
        assert job.output("cat /proc/self/uid_map").split() == ["0", "0", "4294967295"]
        assert job.output(links) == host.run(links.split()).stdout.decode()
        assert job.output("grep NoNewPrivs /proc/self/status").split()[1] == "0"
        job.cleanup()


OWN = f"""profile = "own"
[profiles.own]
capabilities = ["CAP_SYSLOG"]
drop_capabilities = ["CAP_MKNOD"]
no_new_privileges = true
binds = ["{STATE_FOLDER}/.shown", "{STATE_FOLDER}/.given:/mnt:rw"]
tmpfs = {{ "/tmp" = "10M", "/srv/small" = "4M" }}
volumes = ["/srv/volume"]
system_calls = ["~@debug"]
"""


def test_a_profile_of_the_admins(host: DisposableHost) -> None:
    shown, given = (f"{STATE_FOLDER}/{name}" for name in (".shown", ".given"))
    host.run(["mkdir", shown, given])
    host.run(["bash", "-c", f"echo text > {shown}/file; chown 1000:1000 {shown}/file; touch {given}/file"])
    with Unchanged(host), Job(host, settings=OWN) as job:
        job.prepare()
        status = dict(line.split(":\t") for line in job.output("cat /proc/self/status").splitlines())
        bounding = int(status["CapBnd"], 16)
        assert (bounding >> 34 & 1, bounding >> 27 & 1, status["NoNewPrivs"]) == (1, 0, "1")
        assert job.output(f"cat {shown}/file; stat --format=%u {shown}/file") == "text\n1000\n"
        assert job.script(f"echo more >> {shown}/file").status != 0
        job.output("echo more > /mnt/file; chown 1000:1001 /mnt/file")
        assert host.run(["stat", "--format=%u:%g", f"{given}/file"]).stdout == b"1000:1001\n"
        assert job.output("df --output=size --block-size=1M /tmp /srv/small | tail -n 2").split() == ["10", "4"]
        # On btrfs the tree will do as it is.
        modes = "stat --format='%a %u' /tmp /srv/small /srv/volume"
        assert job.output(f"mkdir -p /srv/volume; {modes}") == "1777 0\n755 0\n755 0\n"
        job.output("touch /srv/volume/kept /tmp/gone; chown 65533 /srv/volume/kept")
        assert "was rebooted under the script" in job.script("systemctl reboot; sleep 60").message
        assert job.output("ls /srv/volume /tmp | grep --extended-regexp 'kept|gone'") == "kept\n"
        job.cleanup()
    host.run(["rm", "--recursive", shown, given])


@ON_ONE
@pytest.mark.parametrize("line", ['binds = ["/nonesuch"]', 'devices = ["/dev/nonesuch"]'])
def test_what_the_host_lacks_is_told(host: DisposableHost, line: str) -> None:
    with Unchanged(host), Job(host, settings=f'profile = "own"\n[profiles.own]\n{line}\n') as job:
        done = job.call("prepare", "bookworm")
        assert done.status == SYSTEM_FAILURE
        assert "the profile own needs /" in done.message
