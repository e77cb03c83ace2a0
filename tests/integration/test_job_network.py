"""The network of a job: names, packages, git, ports of its own, and nobody else's machine or host account."""

from collections.abc import Iterator

import pytest
from backends import ON_ONE
from by_hand import BUILD_FAILURE, Job, lines_of, together, wait_until
from disposable_host import STATE_FOLDER, DisposableHost

MACHINES = 10
PORT = 8080
# Serves what it is told to, once it says so; curl is not in the image.
SERVE = f"cd $(mktemp --directory); hostname > name; python3 -m http.server {PORT} > /dev/null 2>&1 &\n"
WAIT = f"until (exec 3<>/dev/tcp/127.0.0.1/{PORT}) 2>/dev/null; do sleep 0.05; done\n"
ASK = "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://{address}/name\", timeout=3).read().decode())'"
REACH = f"timeout 3 bash -c 'exec 3<>/dev/tcp/{{address}}/{PORT}' 2>/dev/null && echo reached {{address}} &"
ADDRESS = "ip -brief -4 address show host0 | awk '{print $3}' | cut -d/ -f1"
GATEWAY = "ip route show default | awk '{print $3}'"
# The network is the same wherever layers lie.
ONE_MACHINE = pytest.mark.parametrize("machine", ["overlay_host"], indirect=True)


@pytest.fixture(scope="module", params=["overlay_host", "btrfs_host"])
def machine(request: pytest.FixtureRequest) -> Iterator[Job]:
    with Job(request.getfixturevalue(request.param)) as job:
        job.prepare()
        yield job


@ONE_MACHINE
def test_ping(machine: Job) -> None:
    machine.output(f"ping -c 1 -W 10 -q 127.0.0.1; ping -c 1 -W 10 -q ::1; ping -c 1 -W 10 -q $({GATEWAY})")


@ONE_MACHINE
def test_own_name(machine: Job) -> None:
    known = machine.output(f"getent ahostsv4 $(hostname) | head -n 1 | cut -d' ' -f1; {ADDRESS}").split()
    assert known[0] == known[1]
    assert machine.output("sudo -n true 2>&1") == ""
    assert machine.output("getent hosts localhost")


@ONE_MACHINE
def test_names_and_packages(machine: Job) -> None:
    """apt-get resolves a mirror, gets its lists and installs a package with a service on a low port."""
    machine.output("apt-get update -qq --error-on=any")
    done = machine.script("export DEBIAN_FRONTEND=noninteractive; apt-get install -qq --no-install-recommends hello")
    assert done.status == 0, done.message
    assert machine.output("hello") == "Hello, world!\n"


@ONE_MACHINE
def test_low_port(machine: Job) -> None:
    serve = "python3 -m http.server 80 > /dev/null 2>&1 & server=$!; "
    wait = "until (exec 3<>/dev/tcp/127.0.0.1/80) 2>/dev/null; do kill -0 $server; sleep 0.05; done; kill $server"
    machine.output(f"set -e; {serve} {wait}")


@ONE_MACHINE
def test_git_clone(machine: Job) -> None:
    """From a server beyond the bridge: git's own daemon, in a network namespace that the host routes to."""
    host = machine.host
    make = f"""
    set -e
    [ -d /srv/git/p ] || (git init --quiet --bare /srv/git/p; git init --quiet /root/p; cd /root/p; echo content > file
        git add file; git -c user.name=x -c user.email=x@example.com commit --quiet --message=x
        git push --quiet /srv/git/p HEAD:refs/heads/main; git -C /srv/git/p symbolic-ref HEAD refs/heads/main)
    ip netns add far{machine.id}
    ip link add far0 type veth peer name far1 netns far{machine.id}
    ip address add 192.0.2.1/24 dev far0; ip link set far0 up
    ip -n far{machine.id} address add 192.0.2.2/24 dev far1
    ip -n far{machine.id} link set far1 up; ip -n far{machine.id} link set lo up
    """
    host.run(["bash", "-c", make])
    try:
        serve = ["git", "daemon", "--base-path=/srv/git", "--export-all", "--reuseaddr", "--listen=192.0.2.2"]
        with host.popen(["ip", "netns", "exec", f"far{machine.id}", *serve]) as daemon:
            try:
                wait = "for n in $(seq 100); do (exec 3<>/dev/tcp/192.0.2.2/9418) 2>/dev/null && break; sleep 0.1; done"
                machine.output(f"{wait}\ngit clone --quiet git://192.0.2.2/p /root/cloned")
                assert machine.output("cat /root/cloned/file") == "content\n"
            finally:
                daemon.kill()
    finally:
        host.run(["sh", "-c", f"ip netns pids far{machine.id} | xargs -r kill -9; ip netns del far{machine.id}"])
        host.run(["ip", "link", "del", "far0"], check=False)


@ON_ONE
def test_machines_on_one_port(host: DisposableHost) -> None:
    """Started at once, each has its own uids and address, answers itself, and reaches no other and not the host."""
    jobs = [Job(host) for _ in range(MACHINES)]
    listener = host.popen(["python3", "-m", "http.server", str(PORT)], cwd="/srv")
    try:
        ends = together(host, [(job, job.argv("prepare", "bookworm")) for job in jobs])
        assert [end.status for end in ends] == [0] * MACHINES, ends
        told = [job.output(SERVE + WAIT + ADDRESS + "; cat /proc/self/uid_map").split() for job in jobs]
        addresses = [words[0] for words in told]
        assert len(set(addresses)) == MACHINES
        assert len({int(words[2]) // 65536 for words in told}) == MACHINES
        assert all(words[3] == "65536" and int(words[2]) % 65536 == 0 for words in told)
        for job, address in zip(jobs, addresses, strict=True):
            asks = (ASK.format(address=f"{target}:{PORT}") for target in ("127.0.0.1", address))
            assert job.output("; ".join(asks)).split() == [job.machine] * 2
        host.run(["bash", "-c", WAIT])
        own, *others = addresses[:3]
        tries = [REACH.format(address=address) for address in (own, *others, f"$({GATEWAY})")]
        tries += [f"ping -c 1 -W 2 -q {address} > /dev/null && echo pinged {address} &" for address in others]
        assert jobs[0].output("\n".join([*tries, "wait"])) == f"reached {own}\n"
    finally:
        listener.kill()
        listener.wait()
        ends = together(host, [(job, job.argv("cleanup")) for job in jobs])
    assert [end[:3] for end in ends] == [(0, b"", b"")] * MACHINES
    names = {job.machine for job in jobs}
    wait_until(lambda: not names & set(host.run(["machinectl", "list", "--no-legend"]).stdout.decode().split()))


def test_root_is_not_the_hosts(machine: Job) -> None:
    host, base = machine.host, int(machine.output("cat /proc/self/uid_map").split()[1])
    machine.output("touch /root/by-root; useradd someone; runuser -u someone touch /tmp/by-someone")
    with machine.start("exec sleep 4711") as process:
        wait_until(lambda: f"{base} sleep 4711" in " ".join(lines_of(host, "ps -C sleep -o uid=,args=")))
        machine.script("pkill sleep")
        process.communicate(timeout=30)
    # On btrfs ids on disk are the image's own: the mount maps them.
    written = machine.layer() / ("root/by-root" if host.state == "btrfs" else "upper/root/by-root")
    assert written.stat().st_uid == (0 if host.state == "btrfs" else base)
    for path in (f"{STATE_FOLDER}/.overlays", f"{STATE_FOLDER}/.snapshots", "/run/nspawn-runner"):
        if host.path(path).exists():
            assert host.path(path).stat().st_mode & 0o077 == 0, path
    for attempt in (
        "echo 1 > /proc/sys/kernel/sysrq",
        "echo x > /proc/sys/kernel/core_pattern",
        "mount -o remount,rw /proc/sys; echo x > /proc/sys/kernel/core_pattern",
        "mknod /root/disk b 8 0",
        "dmesg --clear",
        "echo b > /proc/sysrq-trigger",
        "mount -t overlay overlay -o lowerdir=/,upperdir=/proc,workdir=/sys /mnt",
        "modprobe dummy",
        "date --set=2001-01-01",
        "cat /proc/kcore | head -c 1",
        # The machine has a folder of this name too: the record is the host's alone.
        f"cat /proc/1/root/run/nspawn-runner/{machine.machine}.json",
    ):
        assert machine.script(f"set -o pipefail; {attempt}").status == BUILD_FAILURE, attempt
