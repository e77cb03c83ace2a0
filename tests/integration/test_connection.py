"""Ansible's connection `nspawn`: files and commands true to the byte, one container a play, nothing left of it."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from disposable_host import CHECKOUT, STATE_FOLDER, DisposableHost

PLUGINS = f"{CHECKOUT}/nspawn_runner/images/connection_plugins"
WORK = f"{STATE_FOLDER}/.connection"
TREE = f"{WORK}/tree"
RESULTS = f"{WORK}/results"
MEGABYTES = 5
# without $: Ansible itself expands variables in paths
ODD_NAME = 'it\'s a "name" with `x` \\ * ä€ and\na line'
# What could be left of a play, as shell commands that print it.
LEFT = (
    "ls -d /run/nspawn-runner/connections/* 2>/dev/null",
    "ls /run/systemd/nspawn/*/ | grep connection",
    "pgrep --full --list-full 'nspawn_runner.images.ansible.container_mai[n]|systemd-nspaw[n]'",
    f"grep {WORK} /proc/mounts",
    "machinectl --no-legend list",
    f"ls --almost-all {WORK} | grep lck",
)
Task = Mapping[str, Any]


# What our side does by itself is the same with any Ansible, on any host.
ON_BTRFS = pytest.mark.parametrize("place", ["btrfs", pytest.param("trixie", marks=pytest.mark.soak)], indirect=True)


@pytest.fixture(params=["btrfs", "trixie"])
def place(request: pytest.FixtureRequest) -> DisposableHost:
    """A host with a tree of its own to change: a subvolume with ansible-core 2.14, a plain folder with 2.19."""
    host: DisposableHost = request.getfixturevalue(f"{request.param}_host")
    if not host.path(TREE).exists():
        host.run(["mkdir", "--parents", RESULTS])
        copy_tree(host, "tree")
    return host


def copy_tree(host: DisposableHost, name: str) -> None:
    if host.state == "btrfs":
        host.run(["btrfs", "subvolume", "snapshot", f"{STATE_FOLDER}/bookworm", f"{WORK}/{name}"])
    else:
        host.run(["cp", "--archive", f"{STATE_FOLDER}/bookworm", f"{WORK}/{name}"])


def start(
    host: DisposableHost, tasks: Sequence[Task], *, targets: Sequence[str] = (TREE,), facts: bool = False, **values: Any
) -> subprocess.Popen[bytes]:
    """Start ansible-playbook with the tasks, which may keep what they saw in files of RESULTS."""
    given = {"ansible_connection": "nspawn", "ansible_python_interpreter": "/usr/bin/python3", **values}
    play = [{"hosts": "all", "gather_facts": facts, "vars": given, "tasks": list(tasks)}]
    host.path(f"{WORK}/play.yml").write_text(json.dumps(play))
    inventory = "".join(f"{target}," for target in targets)
    return host.popen(
        ["ansible-playbook", f"--inventory={inventory}", f"{WORK}/play.yml"],
        env={"ANSIBLE_CONNECTION_PLUGINS": PLUGINS, "ANSIBLE_LOCALHOST_WARNING": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def play(host: DisposableHost, tasks: Sequence[Task], *, status: int = 0, **values: Any) -> str:
    """Run the tasks, check ansible-playbook's exit status and return what it printed."""
    with start(host, tasks, **values) as ansible:
        try:
            output, _ = ansible.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            ansible.terminate()
            raise
    text = output.decode(errors="replace")
    assert ansible.returncode == status, text
    return text


def recap(text: str) -> list[dict[str, int]]:
    lines = [line for line in text.partition("PLAY RECAP")[2].splitlines() if " ok=" in line]
    return [{name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", line)} for line in lines]


def keep(name: str) -> Task:
    """Write the registered result to a file of the controller."""
    return {
        "local_action": {"module": "copy", "content": "{{ seen | to_json }}", "dest": f"{RESULTS}/{name}"},
        "vars": {"ansible_connection": "local"},
    }


def seen(host: DisposableHost, task: Task, **values: Any) -> Any:
    """Run one task and return its result."""
    play(host, [{**task, "register": "seen", "ignore_errors": True}, keep("seen")], **values)
    return json.loads(host.path(f"{RESULTS}/seen").read_text())


def wait_until_nothing_is_left(host: DisposableHost) -> None:
    """What a play starts may end just after it."""
    deadline = time.monotonic() + 15
    while True:
        left = [line for argv in LEFT for line in host.run(["sh", "-c", argv], check=False).stdout.splitlines()]
        if not left:
            return
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_commands_are_true(place: DisposableHost) -> None:
    script = r"""printf '%s|' "$HOME" "$PWD" '$HOME $$ "q"' "it's"; echo err >&2; printf 'a\nb\n' | wc -l; exit 7"""
    done = seen(place, {"shell": {"cmd": script}})
    assert done["rc"] == 7
    assert done["stdout"] == '/root|/root|$HOME $$ "q"|it\'s|2'
    assert done["stderr"] == "err"
    assert seen(place, {"raw": "kill -KILL $$"})["rc"] == 137
    assert seen(place, {"raw": "echo a > /dev/stdout; echo b > /dev/stderr; cat /dev/stdin"})["stdout"] == "a\n"
    assert seen(place, {"shell": {"cmd": "cat | tr a-z A-Z", "stdin": "ä$x"}})["stdout"] == "ä$X"
    orphans = "for n in 1 2 3; do sh -c 'sleep 0.1 &'; done; sleep 0.5; grep -l 'State:.Z' /proc/[0-9]*/status | wc -l"
    assert seen(place, {"shell": orphans})["stdout"] == "0"
    wait_until_nothing_is_left(place)


@ON_BTRFS
def test_root_of_the_tree_is_not_root_of_the_host(place: DisposableHost) -> None:
    assert seen(place, {"command": "cat /proc/self/uid_map"})["stdout"].split() == ["0", "2147352576", "65536"]
    as_host = seen(place, {"command": "grep CapBnd /proc/self/status /proc/1/status"}, nspawn_user_namespace=False)
    own, first = (line.split()[-1] for line in as_host["stdout"].splitlines())
    assert own == first != "000001ffffffffff"


def test_another_user(place: DisposableHost) -> None:
    task = {"command": "id --user --name", "become": True, "become_user": "nobody"}
    assert seen(place, {**task, "become_method": "sudo"})["stdout"] == "nobody"
    flags = {"ansible_become_flags": "-s /bin/sh"}
    assert seen(place, {**task, "become_method": "su"}, **flags)["stdout"] == "nobody"


@ON_BTRFS
def test_files_keep_every_byte(place: DisposableHost) -> None:
    source = place.path(f"{WORK}/source")
    source.mkdir(exist_ok=True)
    contents = {"bytes": bytes(range(256)), "empty": b"", "big": os.urandom(MEGABYTES << 20), ODD_NAME: b"odd\0"}
    for name, content in contents.items():
        (source / name).write_bytes(content)
    place.run(["rm", "--recursive", "--force", f"{WORK}/fetched"])
    (source / "template").write_text("user {{ ansible_facts.user_id }}, {{ 6 * 7 }} ä\n")
    names = list(contents)
    tasks: list[Task] = [
        {"file": {"path": "/srv/files", "state": "directory"}},
        {"copy": {"src": f"{WORK}/source/{{{{ item }}}}", "dest": "/srv/files/{{ item }}"}, "loop": "{{ names }}"},
        {"template": {"src": f"{WORK}/source/template", "dest": "/srv/files/template"}},
        {
            "fetch": {"src": "/srv/files/{{ item }}", "dest": f"{WORK}/fetched/{{{{ item }}}}", "flat": True},
            "loop": "{{ names }}",
        },
    ]
    play(place, tasks, facts=True, names=names)
    for name, content in contents.items():
        assert (place.path(TREE) / "srv/files" / name).read_bytes() == content
        assert (place.path(WORK) / "fetched" / name).read_bytes() == content
    assert (place.path(TREE) / "srv/files/template").read_text() == "user root, 42 ä\n"
    assert recap(play(place, tasks, facts=True, names=names))[0]["changed"] == 0
    again = play(place, tasks, facts=True, ansible_pipelining=False, names=names)
    assert recap(again)[0]["changed"] == 0
    missing = play(place, [{"fetch": {"src": "/srv/none", "dest": f"{WORK}/fetched/none", "flat": True}}], status=2)
    assert "file not found" in missing or "not exist" in missing


@ON_BTRFS
def test_links_lead_nowhere_outside(place: DisposableHost) -> None:
    """Absolute links of the tree, to a folder that only the host has, end inside the tree or nowhere."""
    host_folder = f"{WORK}/host-only"
    place.run(["mkdir", "--parents", host_folder])
    place.path(f"{host_folder}/secret").write_text("secret")
    trap = place.path(TREE) / "srv/trap"
    if not trap.is_symlink():
        trap.symlink_to(host_folder)
        (place.path(TREE) / "srv/read").symlink_to(f"{host_folder}/secret")
        (place.path(TREE) / "srv/up").symlink_to("../../../../../.." + host_folder)
    for name in ("trap", "up"):
        done = seen(place, {"copy": {"content": "x", "dest": f"/srv/{name}/written"}})
        assert done["failed"], done
        done = seen(place, {"raw": f"echo x > /srv/{name}/written"})
        assert done["rc"] != 0
    play(place, [{"slurp": {"src": "/srv/read"}}], status=2)
    assert os.listdir(place.path(host_folder)) == ["secret"]
    # all that Ansible itself writes: its folder for temporary files
    play(place, [{"raw": f"rm -rf /root/.ansible && ln -s {host_folder} /root/.ansible"}])
    play(place, [{"copy": {"content": "x", "dest": "/srv/x2"}}], status=4)
    play(place, [{"raw": "rm /root/.ansible"}])
    assert os.listdir(place.path(host_folder)) == ["secret"]


LATE = """#!/bin/sh
/usr/bin/cat "$@"
(sleep 1; echo late) &
"""
# Says to every socket of the host's network that it can see that the tree is up, and is the host itself.
LIAR = """#!/usr/bin/python3
import socket
sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
for line in open("/proc/net/unix"):
    if line.split()[-1].startswith("@"):
        try:
            sender.sendto(b"READY=1\\nX_NSPAWN_LEADER_PID=1", b"\\0" + line.split()[-1][1:].encode())
        except OSError:
            pass
"""
LIAR_UNIT = """[Unit]
DefaultDependencies=no
Before=sysinit.target
[Service]
Type=oneshot
ExecStart=/usr/bin/liar
"""


def put_program(place: DisposableHost, path: str, content: str) -> Path:
    program = place.path(TREE) / path
    program.parent.mkdir(parents=True, exist_ok=True)
    program.unlink(missing_ok=True)
    program.write_text(content)
    program.chmod(0o755)
    return program


@ON_BTRFS
def test_a_tree_that_sends_without_end(place: DisposableHost) -> None:
    target = place.path(f"{WORK}/fetched-file")
    fetch = [{"fetch": {"src": "/srv/big", "dest": f"{WORK}/fetched-file", "flat": True}}]
    said = play(place, [{"raw": "yes"}], status=4)
    assert "it wrote more than 64 MiB" in said
    play(place, [{"raw": "truncate --size=2M /srv/big"}])
    assert "it wrote more than 1 MiB" in play(place, fetch, status=4, nspawn_fetch_max=1)
    assert not target.exists()
    program = put_program(place, "usr/local/bin/cat", "#!/bin/sh\nyes\n")
    try:
        assert "it wrote more than 3 MiB" in play(place, fetch, status=4, nspawn_fetch_max=3)
        assert not target.exists()
        put_program(place, "usr/local/bin/cat", LATE)
        play(place, [*fetch, {"pause": {"seconds": 2}}])
        assert target.read_bytes() == bytes(2 << 20)
    finally:
        program.unlink()
    play(place, [{"raw": "rm /srv/big"}])
    assert "it wrote more than" not in play(place, [{"raw": "mkfifo /srv/f; cat /srv/f", "timeout": 2}], status=2)
    play(place, [{"raw": "rm /srv/f"}])
    wait_until_nothing_is_left(place)


@ON_BTRFS
def test_a_tree_that_lies_about_its_start(place: DisposableHost) -> None:
    units = "etc/systemd/system"
    programs = [put_program(place, "usr/bin/liar", LIAR), put_program(place, f"{units}/liar.service", LIAR_UNIT)]
    wanted = put_program(place, f"{units}/sysinit.target.wants/liar.service", "")
    wanted.unlink()
    wanted.symlink_to("../liar.service")
    known = {"module": "shell", "cmd": "cat /run/nspawn-runner/connections/*-110"}
    ask = {"local_action": known, "register": "seen", "vars": {"ansible_connection": "local"}}
    try:
        play(place, [{"raw": "true"}, ask, keep("known")], nspawn_boot=True)
        told = json.loads(json.loads(place.path(f"{RESULTS}/known").read_text())["stdout"])
        assert told["leader"] != 1
        assert told["uid"] == 2147352576
    finally:
        for program in [*programs, wanted]:
            program.unlink()
    wait_until_nothing_is_left(place)


def test_a_package(place: DisposableHost) -> None:
    resolver = place.path(TREE) / "etc/resolv.conf"
    before = resolver.read_bytes() if resolver.exists() else None
    package = {"name": "ed", "update_cache": True, "install_recommends": False, "cache_valid_time": 3600}
    assert recap(play(place, [{"apt": package}]))[0]["changed"] == 1
    assert place.run(["sh", "-c", f"ls {TREE}/bin/ed {TREE}/usr/bin/ed"], check=False).stdout
    assert recap(play(place, [{"apt": package}]))[0]["changed"] == 0
    wait_until_nothing_is_left(place)
    assert (resolver.read_bytes() if resolver.exists() else None) == before


UNIT = "[Service]\nExecStart=sleep infinity\n[Install]\nWantedBy=multi-user.target\n"


def test_services_of_a_booted_tree(place: DisposableHost) -> None:
    tasks: list[Task] = [
        {"copy": {"content": UNIT, "dest": "/etc/systemd/system/lasting.service"}},
        {"systemd": {"name": "lasting", "state": "started", "enabled": True, "daemon_reload": False}},
        {"command": "systemctl is-active lasting", "changed_when": False},
        {"command": "sh -c 'exit 250'", "register": "seen", "failed_when": "seen.rc != 250", "changed_when": False},
        {"shell": "echo '$HOME $$'; id -un", "register": "seen", "changed_when": False},
        keep("shell"),
        {"command": "id -un", "become": True, "become_user": "nobody", "register": "seen", "changed_when": False},
        keep("user"),
    ]
    assert recap(play(place, tasks, nspawn_boot=True))[0]["changed"] >= 2
    assert json.loads(place.path(f"{RESULTS}/shell").read_text())["stdout"] == "$HOME $$\nroot"
    assert json.loads(place.path(f"{RESULTS}/user").read_text())["stdout"] == "nobody"
    wait_until_nothing_is_left(place)
    assert (place.path(TREE) / "etc/machine-id").read_bytes() == b""
    wanted = place.path(TREE) / "etc/systemd/system/multi-user.target.wants/lasting.service"
    assert wanted.is_symlink()


def test_a_running_machine(place: DisposableHost) -> None:
    nspawn = ["systemd-nspawn", "--quiet", f"--directory={TREE}", "--machine=runs", "--boot", "--notify-ready=yes"]
    options = ["--keep-unit", "--settings=no", "--console=read-only", "--private-network", "--link-journal=no"]
    properties = [f"--property={item}" for item in ("Type=notify", "NotifyAccess=all", "Delegate=yes")]
    place.run(["systemd-run", "--unit=runs", *properties, "--", *nspawn, *options])
    try:
        done = seen(place, {"command": "cat /proc/1/comm"}, targets=["runs"])
        assert done["stdout"] == "systemd"
        play(place, [{"copy": {"content": "x" * 1000, "dest": "/srv/from-machine"}}], targets=["runs"])
        busy = play(place, [{"command": "true"}], status=4)
        assert "busy" in busy
        powered_off = play(place, [{"raw": "systemctl --no-block poweroff; sleep 20"}], targets=["runs"], status=4)
        assert "did not run the command to its end" in powered_off
    finally:
        place.run(["systemctl", "stop", "runs"], check=False)
    assert "no machine runs is running" in play(place, [{"command": "true"}], targets=["runs"], status=4)
    assert "there is no tree" in play(place, [{"command": "true"}], targets=["/none"], status=4)


def test_five_trees_at_once(btrfs_host: DisposableHost) -> None:
    btrfs_host.run(["mkdir", "--parents", RESULTS])
    names = [f"{WORK}/many{number}" for number in range(5)]
    for number in range(5):
        copy_tree(btrfs_host, f"many{number}")
    tasks: list[Task] = [
        {"copy": {"content": "{{ inventory_hostname }}", "dest": "/srv/name"}},
        {"command": "cat /proc/1/stat", "register": "first"},
        {"command": "cat /proc/1/stat", "register": "second"},
        # the same container, by its start, for every task
        {"assert": {"that": "first.stdout.split()[21] == second.stdout.split()[21]"}},
    ]
    assert [line["failed"] for line in recap(play(btrfs_host, tasks, targets=names))] == [0] * 5
    assert [Path(f"{btrfs_host.path(name)}/srv/name").read_text() for name in names] == names
    wait_until_nothing_is_left(btrfs_host)


@ON_BTRFS
def test_two_names_of_a_tree_share_its_container(place: DisposableHost) -> None:
    tasks: list[Task] = [
        {"command": "cat /proc/1/stat", "register": "first"},
        {"assert": {"that": "hostvars['one'].first.stdout.split()[21] == hostvars['two'].first.stdout.split()[21]"}},
        {"command": "true", "delegate_to": TREE},
    ]
    play(place, tasks, targets=["one", "two"], nspawn_target=TREE)
    code = f"from nspawn_runner.images.ansible import containers; containers.wait_ended({TREE!r})"
    place.run(["python3", "-c", code], env={"PYTHONPATH": str(CHECKOUT)})
    left = place.run(["sh", "-c", LEFT[0] + ";" + LEFT[2]], check=False).stdout
    assert left == b""


@ON_BTRFS
@pytest.mark.parametrize("boot", [False, True])
def test_a_killed_ansible_leaves_nothing(place: DisposableHost, boot: bool) -> None:
    with start(place, [{"command": "true"}, {"command": "sleep 100"}], nspawn_boot=boot) as ansible:
        deadline = time.monotonic() + 60
        while place.run(["pgrep", "--full", "^sleep 100"], check=False).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        pid = place.run(["pgrep", "--oldest", "--full", "ansible-playboo[k]"]).stdout.decode().strip()
        place.run(["kill", "-KILL", pid])
        ansible.communicate(timeout=30)
    wait_until_nothing_is_left(place)
    assert place.run(["pgrep", "--full", "^sleep 100"], check=False).returncode


@ON_BTRFS
def test_a_killed_keeper_is_replaced(place: DisposableHost) -> None:
    with start(place, [{"command": "true"}, {"pause": {"seconds": 3}}, {"command": "true"}]) as ansible:
        deadline = time.monotonic() + 60
        while place.run(["sh", "-c", "ls /run/nspawn-runner/connections/*-010"], check=False).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.1)
            assert ansible.poll() is None
        time.sleep(1)
        place.run(["pkill", "-KILL", "--full", "nspawn_runner.images.ansible.container_mai[n]"])
        output, _ = ansible.communicate(timeout=60)
    assert ansible.returncode == 0, output.decode()
    wait_until_nothing_is_left(place)


@ON_BTRFS
def test_an_interrupt_ends_it(place: DisposableHost) -> None:
    with start(place, [{"command": "sleep 100"}]) as ansible:
        while place.run(["pgrep", "--full", "^sleep 100"], check=False).returncode:
            assert ansible.poll() is None
            time.sleep(0.1)
        os.killpg(ansible.pid, signal.SIGINT)
        ansible.communicate(timeout=30)
    assert ansible.returncode
    wait_until_nothing_is_left(place)
