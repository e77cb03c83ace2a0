# ruff: noqa: S607
"""Root of a job attacks its host, its neighbours and the next job; each attack is shown to work where nothing stops it.

What stops it is taken away in two steps: an open machine, that of the profile trusted, without user namespace and with
the host's network, and no machine at all, which is what jobs in a shell of the host have.
"""

import itertools
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import attacks
import kernel_interfaces
import pytest
from by_hand import SYSTEM_FAILURE, TOOL, Job, Unchanged, lines_of, payload, wait_until
from disposable_host import CHECKOUT, STATE_FOLDER, DisposableHost, State

OPEN = 'profile = "trusted"\n'
# For what has nothing to do with where layers lie.
ONE_FIELD = pytest.mark.parametrize("field", ["overlay_host"], indirect=True)
# What the open machine gives away; it still has namespaces, a limited set of capabilities and devices, and seccomp.
GIVEN_AWAY = {
    "the host's loopback", "the host on the bridge", "the host on its own network", "the host by IPv6",
    "the host's abstract sockets", "another machine", "another machine by ping", "interfaces of the host",
    "firewall of the host", "all devices", "a node of any device", "sysctl", "sysctl, mounted again", "uevent helper",
}  # fmt: skip
# Only where the host has control groups of version 1.
GIVEN_AWAY_BY_VERSION_1 = {"own limits", "allowed devices"}
# A disposable host is a container itself: its kernel, or what started it, may stop these there too.
NEEDS_A_WHOLE_HOST = {"memory", "module", "another kernel", "sysrq", "release agent"}
FORBIDDEN = f"""
import socket, time
tcp = socket.create_server(("::", {attacks.PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
abstract = socket.socket(socket.AF_UNIX)
abstract.bind(chr(0) + {attacks.CANARY!r})
abstract.listen()
print("listening", flush=True)
time.sleep(600)
"""
# All that a job must leave as it is: accounts and settings of the host, the image, another machine's layer and record.
KEPT = rf"""
manifest() {{ find "$@" -printf '%p %y %m %U %s %C@\n' | sort | sha256sum; }}
manifest /etc /root/.ssh 2>/dev/null; manifest {STATE_FOLDER}/bookworm/
cat /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe; nft --terse list ruleset; ip -brief link show type bridge
"""


class Field(NamedTuple):
    """A host with what is not to be reached, another job's machine, and the variables that tell attacks of them."""

    host: DisposableHost
    other: Job
    variables: str

    def through(self, job: Job | None = None) -> set[str]:
        """Return the attacks that get through, from a job or from the host itself."""
        script = self.variables + attacks.script()
        if job is not None:
            return set(job.output(script).splitlines())
        return set(self.host.run(["bash", "-c", script]).stdout.decode().splitlines())

    def others(self) -> list[str]:
        """Return what the other machine's layer and record look like."""
        paths = f"{self.other.record()['layer']} /run/nspawn-runner/{self.other.machine}.json"
        return lines_of(self.host, f"find {paths} ! -path '*/run/*' ! -path '*/tmp/*' -printf '%p %y %m %U %s\\n'")


@pytest.fixture(scope="module", params=["overlay_host", "btrfs_host"])
def field(request: pytest.FixtureRequest) -> Iterator[Field]:
    host: DisposableHost = request.getfixturevalue(request.param)
    host.run(["useradd", "canary"])
    disk = f"truncate --size=1M /root/disk; echo {attacks.CANARY} | dd of=/root/disk conv=notrunc status=none"
    loop = host.run(["bash", "-c", f"{disk}; losetup --find --show /root/disk"]).stdout.decode().strip()
    with host.popen(["python3", "-c", FORBIDDEN, f"{attacks.CANARY}-process"], stdout=-1) as canary, Job(host) as other:
        assert canary.stdout
        assert canary.stdout.readline() == b"listening\n"
        other.prepare()
        serve = f"python3 -m http.server {attacks.PORT} > /dev/null 2>&1 &"
        other.output(f"{serve} until {attacks.connect('127.0.0.1')}; do sleep 0.1; done 2> /dev/null")
        variables = {
            "HOST_ADDRESS": "10.213.0.1",
            "HOST_LAN": shown(host, "ip -4 -brief address show tap0"),
            "HOST_IPV6": shown(host, "ip -6 -brief address show tap0 scope link"),
            "HOST_DISK": host.run(["bash", "-c", f"echo $(stat --format='%Hr %Lr' {loop})"]).stdout.decode().strip(),
            "OTHER_ADDRESS": other.output("ip -4 -brief address show host0").split()[2].partition("/")[0],
        }
        yield Field(host, other, "".join(f"export {name}='{value}'\n" for name, value in variables.items()))
        canary.kill()
    host.run(["losetup", "--detach", loop])


def shown(host: DisposableHost, ask: str) -> str:
    return host.run(["bash", "-c", ask]).stdout.decode().split()[2].partition("/")[0]


@pytest.mark.parametrize("profile", ["default", "nesting"])
def test_nothing_gets_through(field: Field, profile: str) -> None:
    host = field.host
    with Job(host, settings=f'profile = "{profile}"\n') as job:
        job.prepare()
        before, others = lines_of(host, KEPT), field.others()
        assert field.through(job) == set()
        job.script("kill -KILL -1")
        assert lines_of(host, KEPT) == before
        assert field.others() == others
        assert field.other.output(f"{attacks.connect('127.0.0.1')} && echo up") == "up\n"
        host.run(["pgrep", "--full", f"{attacks.CANARY}-process"])


@ONE_FIELD
def test_nothing_gets_through_from_a_service(field: Field) -> None:
    """Nor from the job's own machine in the network that it shares with a service."""
    number = int(Job(field.host).id)
    services = [{"name": "bookworm", "alias": "web"}]
    with Job(field.host, str(number), payload=payload(number, services=services)) as job:
        job.prepare(None)
        before, others = lines_of(field.host, KEPT), field.others()
        script = field.variables + attacks.script()
        assert field.through(job) == set()
        done = field.host.run([TOOL, "login", job.id, "web", "--", "bash", "-c", script])
        assert set(done.stdout.decode().split()) == set()
        assert lines_of(field.host, KEPT) == before
        assert field.others() == others


def test_an_open_machine_is_told_from_a_closed_one(field: Field) -> None:
    with Job(field.host, settings=OPEN) as job:
        job.prepare()
        expected = GIVEN_AWAY | ({"other subvolumes"} if field.host.state == "btrfs" else set())
        version_1 = field.host.path("/sys/fs/cgroup/devices").exists()
        assert field.through(job) == expected | (GIVEN_AWAY_BY_VERSION_1 if version_1 else set())


def test_all_gets_through_without_a_machine(field: Field) -> None:
    missing = set(attacks.ATTACKS) - field.through()
    field.host.run(["bash", "-c", "umount /tmp/devices /tmp/proc /tmp/sys /tmp/group; rm -f /var/tmp/*"], check=False)
    if field.host.state != "btrfs":
        missing.discard("other subvolumes")
    assert missing <= NEEDS_A_WHOLE_HOST


@pytest.mark.parametrize("chosen", ["overlay_host", "trixie_host"])
def test_kernel_interfaces_are_as_the_table_says(request: pytest.FixtureRequest, chosen: str) -> None:
    """Where nothing stops them all are open, but what a disposable host lacks itself."""
    host: DisposableHost = request.getfixturevalue(chosen)
    table = (CHECKOUT / "docs/security.md").read_text().partition("| Interface | Here | Docker |\n|---|---|---|\n")[2]
    rows = re.findall(r"^\| (.*) \| (open|closed) \| (?:open|closed) \|$", table.partition("\n\n")[0], re.MULTILINE)
    try_all = f"python3 -c {shlex.quote(kernel_interfaces.script())}"
    with Job(host) as job:
        job.prepare()
        assert job.output(try_all).splitlines() == [f"{name}: {state}" for name, state in rows]
        assert job.output("systemctl --failed --quiet; systemctl is-system-running") == "running\n"
        assert job.output("setpriv --reuid=65534 --clear-groups grep NoNewPrivs /proc/self/status").split()[1] == "0"
    without = lines_of(host, try_all)
    assert {line for line in without if line.endswith(": closed")} <= {
        "loading modules: closed", "ports of devices (iopl): closed"
    }  # fmt: skip


def test_a_profile_opens_what_it_names(overlay_host: DisposableHost) -> None:
    """32-bit programs get their sockets, an image that talks by vsock its own."""
    own = 'profile = "own"\n[profiles.own]\nsystem_calls = ["socketcall", "io_uring_setup"]\n'
    with Job(overlay_host, settings=f'{own}address_families = ["AF_VSOCK"]\n') as job:
        job.prepare()
        found = job.output(f"python3 -c {shlex.quote(kernel_interfaces.script())}").splitlines()
    opened = ("sockets of AF_VSOCK", "sockets of AF_VSOCK by socketcall of 32-bit x86", "io_uring")
    assert {f"{name}: open" for name in opened} <= set(found)
    assert "userfaultfd: closed" in found


def test_files_of_the_kernel_are_those_of_any_user(overlay_host: DisposableHost) -> None:
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-c", kernel_interfaces.MASKED]
    anybodys = overlay_host.run(as_nobody).stdout.decode().splitlines()
    assert "/proc/interrupts" in anybodys
    with Job(overlay_host) as job:
        job.prepare()
        again = "umount --recursive /proc/*; mkdir /tmp/again; mount -t proc proc /tmp/again; "
        assert set(job.output(f"{again}{kernel_interfaces.MASKED}").splitlines()) <= {*anybodys}


def test_root_ends_at_its_machine(field: Field) -> None:
    """A reboot without asking its systemd is the machine's; its root is another user outside than that of others."""
    host = field.host
    booted = host.path("/proc/sys/kernel/random/boot_id").read_text(), host.path("/proc/1/stat").read_text().split()[21]
    with Job(host) as job:
        job.prepare()
        ranges = [int(each.output("cat /proc/self/uid_map").split()[1]) for each in (job, field.other)]
        assert len({0, *(first // 65536 for first in ranges)}) == 3
        job.script("reboot --force --force")
        assert job.script("exit 0").status in {0, SYSTEM_FAILURE}
    now = host.path("/proc/sys/kernel/random/boot_id").read_text(), host.path("/proc/1/stat").read_text().split()[21]
    assert now == booted
    assert field.other.output("echo up") == "up\n"


@ONE_FIELD
def test_no_machine_takes_the_place_of_another_on_the_bridge(field: Field) -> None:
    """Neither its address nor its hardware address; without what the host was told of these it would."""
    host = field.host
    with Job(host) as job, Job(host) as victim:
        job.prepare()
        victim.prepare()
        address = victim.output("ip -4 -brief address show host0").split()[2].partition("/")[0]
        hardware = victim.output("cat /sys/class/net/host0/address").strip()
        take = f"python3 -c {shlex.quote(attacks.TAKE_PLACE)} {address} {hardware} 10.213.0.1"

        def taken() -> bool:
            """Tell whether the host's next packet to the victim goes astray."""
            job.output(take)
            return host.run(["ping", "-c", "1", "-W", "1", "-q", address], check=False).returncode == 1

        assert not any(taken() for _ in range(3))
        forget = f"ip neigh del {address} dev nspr0; bridge fdb del {hardware} dev vb-{victim.machine} master"
        host.run(["bash", "-c", forget])
        wait_until(taken)


TARGETS = ("/etc/hosts", "/etc/resolv.conf", "/etc/machine-id", "/etc/localtime", "/etc/hostname", "/etc/os-release",
           "/usr/local/bin/gitlab-runner", "/cache", "/root/.bashrc", "/var/log/journal", "/srv/new/file")  # fmt: skip
TOLD = "the host alone knows"


def traps(root: str, kinds: Iterator[str]) -> str:
    """Return a script that puts links out of a tree where root of the host may write or read in it."""
    lines = [f"echo {TOLD} > /etc/canary-file"] if root else []
    for target, kind in zip(TARGETS, kinds, strict=False):
        path = f"{root}{target}"
        lines.append(f"umount {path}; mkdir -p $(dirname {path}); rm -rf {path}; ln -s {kind} {path}")
    return "\n".join(["exec 2> /dev/null", *lines, "true"])


LINKS = ["/etc/canary-file", "../../../../../../../../etc/canary-file", "/proc/1/root/etc/canary-file"]


def test_traps_for_a_reboot(field: Field) -> None:
    """What systemd-nspawn writes into the tree before the machine boots again stays in the tree."""
    host, data = field.host, payload(6001)
    host.path("/etc/canary-file").write_text(TOLD)
    before = lines_of(host, KEPT)
    for number, link in enumerate(LINKS):
        with Job(host, str(6001 + number), payload={**data, "id": 6001 + number}) as job:
            job.prepare()
            job.script(traps("", itertools.repeat(link)) + "; touch /etc/canary-file; systemctl reboot")
            seen = job.script("cat /etc/hosts /etc/resolv.conf /etc/machine-id /cache/* /root/.bashrc").out
            assert TOLD.encode() not in seen
    assert lines_of(host, KEPT) == before


def test_traps_in_an_image(field: Field) -> None:
    host = field.host
    tool = Job(host)
    tool.by_id = []
    assert tool.call("chroot-clone", "bookworm", "trap").status == 0
    image = f"{STATE_FOLDER}/trap/"
    plant = f"mknod {image}/root/disk b 7 0; mkfifo {image}/root/pipe; chmod 6777 {image}/root/pipe"
    lighter = f"rm -rf {image}/etc/machine-id {image}/usr/share {image}/usr/lib/{{python3*,git-core}}"
    host.run(["bash", "-c", f"{traps(image, itertools.cycle(LINKS))}; {plant}; {lighter}"])
    before = lines_of(host, KEPT)
    for verb in (["chroot-export", "trap", "/root/trap.tar"], ["chroot-clone", "trap", "trap2"],
                 ["chroot-login", "trap", "--", "sh", "-c", "echo changed > /root/by-login"],
                 ["chroot-remove", "trap"], ["chroot-remove", "trap2"]):  # fmt: skip
        done = tool.call(verb[0], *verb[1:])
        assert done.status == 0, done.message
        assert TOLD not in done.message
    assert host.run(["grep", "--count", TOLD, "/root/trap.tar"], check=False).stdout == b"0\n"
    assert lines_of(host, KEPT) == before


def test_cache_of_a_project_is_no_way_to_root(field: Field) -> None:
    """A job may leave a program of root there; nobody else on the host comes to it."""
    with Job(field.host, "6101", payload=payload(6101)) as job:
        job.prepare()
        job.output("cp /usr/bin/id /cache/id; chmod 6755 /cache/id; ln -s /etc /cache/link; ! mknod /cache/disk b 7 0")
    found = field.host.run(["bash", "-c", f"find {STATE_FOLDER}/.cache -name id"]).stdout.decode().strip()
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", 'exec "$0"', found]
    assert b"Permission denied" in field.host.run(as_nobody, check=False).stderr


def test_others_are_kept_out_of_the_state_folder(overlay_host: DisposableHost) -> None:
    """One that is the tool's is made private; of one that may be others' as well it says what is wrong."""
    host, shared = overlay_host, "/srv/shared"
    host.run(["bash", "-c", f"mkdir -p {shared}/bookworm {shared}/theirs; chmod 0755 {STATE_FOLDER}"])
    program = f"{STATE_FOLDER}/bookworm/usr/bin/passwd"
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "ls", program]
    try:
        host.run(as_nobody)
        with Job(host) as job:
            job.prepare()
            assert b"Permission denied" in host.run(as_nobody, check=False).stderr
            assert host.run(["stat", "--format=%a", STATE_FOLDER]).stdout == b"700\n"
        refused = Job(host, settings=f'state_folder = "{shared}"\n').call("prepare", "bookworm")
        assert refused.status == SYSTEM_FAILURE
        assert f"chmod 0700 {shared}" in refused.message
        assert host.run(["stat", "--format=%a", shared]).stdout == b"755\n"
    finally:
        host.run(["rm", "-rf", shared])


GREEDY = """
mkdir /root/many; python3 -c 'for n in range(100000): open(f"/root/many/{n}", "x").close()'
find /root/many -type f | wc --lines
python3 -c 'bytearray(1 << 30)'; echo memory $?
(trap '' TERM HUP INT; exec sleep 600) & (trap '' TERM HUP INT; exec setsid sleep 601) &
(yes the console fills > /dev/console) & (yes the journal fills | systemd-cat) & (yes the log fills) &
bomb() { bomb | bomb & }; bomb 2> /dev/null
sleep 1
"""


def test_greed_ends_with_the_job(host: DisposableHost) -> None:
    """Files, memory, logs and processes without end: the job meets its limits, the host goes on, nothing is left."""
    with Unchanged(host), Job(host, settings='[limits]\nmemory_max = "400M"\ntasks_max = 200\n') as job:
        job.prepare()
        before = journal_bytes(host)
        done = job.script(GREEDY)
        assert done.out.startswith(b"100000\nmemory 137\n")
        began = time.monotonic()
        with Job(host) as following:
            following.prepare()
            assert following.output("echo works") == "works\n"
        job.cleanup()
        assert time.monotonic() - began < 60
        assert journal_bytes(host) - before < 64 << 20


GROUPS = """
import os
os.chdir("/sys/fs/cgroup/unified" if os.path.exists("/sys/fs/cgroup/unified") else "/sys/fs/cgroup")
made = [0, 0]
try:
    for made[0] in range(100):
        os.mkdir(f"wide-{made[0]}")
    while made[1] < 1800:
        os.mkdir("deeper"); os.chdir("deeper"); made[1] += 1
except OSError as error: print(error.strerror)
os.chdir("/sys/fs/cgroup/unified" if os.path.exists("/sys/fs/cgroup/unified") else "/sys/fs/cgroup")
try:
    for made[0] in range(100, 5000): os.mkdir(f"wide-{made[0]}")
except OSError as error: print(error.strerror)
print(*made)
"""


@pytest.mark.parametrize("chosen", ["overlay_host", "btrfs_host", "trixie_host"])
def test_control_groups_have_bounds(request: pytest.FixtureRequest, chosen: str) -> None:
    """Neither depth nor number holds up the host's systemd, after a reboot of the machine neither; nothing stays."""
    host: DisposableHost = request.getfixturevalue(chosen)
    with Unchanged(host), Job(host) as job:
        job.prepare()
        job.script("systemctl reboot; sleep 60")
        first, second, made = job.output(f"python3 -c {shlex.quote(GROUPS)}").splitlines()
        assert {first, second} == {"Resource temporarily unavailable"}
        wide, deep = map(int, made.split())
        assert deep < 32
        assert 500 < wide < 1024
        began = time.monotonic()
        job.cleanup()
        host.run(["systemctl", "is-system-running"], check=False)
        assert time.monotonic() - began < 10


def journal_bytes(host: DisposableHost) -> int:
    used = host.run(["du", "--bytes", "--summarize", "--total", "/run/log", "/var/log"])
    return int(used.stdout.split()[-2])


@pytest.mark.parametrize("state", ["xfs", "btrfs"])
def test_full_disk(job_image: Path, state: State) -> None:
    """A job fills the state folder: it fails, the next are told what is wrong or work, and cleanup frees all."""
    with DisposableHost(state=state, size="600M") as host:
        image = f"{STATE_FOLDER}/bookworm"
        host.run(["btrfs", "subvolume", "create", image] if state == "btrfs" else ["mkdir", image])
        subprocess.run(["cp", "--archive", f"{job_image}/.", host.path(image)], check=True)
        with Job(host) as job, Job(host) as beside:
            job.prepare()
            beside.prepare()
            done = job.script("head --bytes=1G /dev/zero > /root/all; echo 1 > /root/more || echo full; sync")
            assert b"full" in done.out or b"No space left" in done.err
            with Job(host) as following:
                end = following.call("prepare", "bookworm")
                assert end.status in {0, SYSTEM_FAILURE}, end.message
                assert end.status == 0 or 1 <= len(end.last_words) <= 3
                following.cleanup()
            job.cleanup()
            # btrfs gives back the space of a subvolume a moment after it is gone.
            wait_until(lambda: beside.script("head --bytes=20M /dev/zero > /root/some").status == 0, seconds=60)
        with Job(host) as later:
            later.prepare()
            assert later.output("echo works") == "works\n"


EVERY_BYTE = bytes(range(1, 256))


@ONE_FIELD
def test_every_byte_value(field: Field) -> None:
    """In a script, its output, names of files and what the job's variables say; none of it is run or breaks a stage."""
    odd = EVERY_BYTE.decode(errors="surrogateescape")
    names = ("CI_JOB_NAME", "CI_PROJECT_PATH", "X;touch /root/bad", "Y\nZ", "ü")
    hostile = {f"CUSTOM_ENV_{name}": odd for name in names}
    with Job(field.host, env=hostile) as job:
        job.prepare()
        whole = b"cat <<'END OF BYTES'\n" + EVERY_BYTE + b"\nEND OF BYTES\n"
        assert job.script(whole).out == EVERY_BYTE + b"\n"
        name = EVERY_BYTE.replace(b"/", b"").replace(b"'", b"")
        done = job.script(b"mkdir /root/odd; touch '/root/odd/" + name + b"'; ls --zero /root/odd")
        assert done.out == name + b"\0", done.err
        assert not field.host.path("/root/bad").exists()
