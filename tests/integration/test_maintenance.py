"""Images made and kept by playbooks: on ext4, btrfs and xfs, beside running jobs, whatever fails or is killed."""

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from by_hand import TOOL, Job, Unchanged, lines_of
from disposable_host import STATE_FOLDER, DisposableHost

SECONDS = 300
PLAYBOOKS = "/etc/nspawn-runner"
FILE_SYSTEMS = ("overlay", "btrfs", "xfs")
# The code for plain folders is one; on xfs cp shares the blocks of what it copies, on ext4 it takes its time.
BRIEFLY = ("btrfs", "xfs")


@pytest.fixture(params=FILE_SYSTEMS)
def host(request: pytest.FixtureRequest) -> Iterator[DisposableHost]:
    """A host on each file system, the first one's being ext4; without playbooks and images of ours in the end."""
    found: DisposableHost = request.getfixturevalue(f"{request.param}_host")
    yield from cleaned(found)


@pytest.fixture
def one_host(btrfs_host: DisposableHost) -> Iterator[DisposableHost]:
    """The host whose copies cost nothing, for what does not depend on the file system."""
    yield from cleaned(btrfs_host)


def cleaned(host: DisposableHost) -> Iterator[DisposableHost]:
    yield host
    host.run(["rm", "-rf", PLAYBOOKS])
    for row in listed(host):
        if row["name"].startswith("kept-") and not row["state"].startswith("alias"):
            tool(host, "chroot-remove", "--force", row["name"])
    left = [name for name in os.listdir(host.path(STATE_FOLDER)) if name.startswith("kept-")]
    assert left == []


def tool(host: DisposableHost, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return host.run([TOOL, *arguments], check=False, timeout=SECONDS)


def listed(host: DisposableHost, *options: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(tool(host, "chroot-list", "--json", *options).stdout)
    return rows


def generations(host: DisposableHost, name: str) -> list[dict[str, Any]]:
    return [row for row in listed(host, "--generations") if row["name"] == name]


def write(host: DisposableHost, name: str, variables: Mapping[str, Any], *tasks: Mapping[str, Any]) -> str:
    """Write the playbook of an image and return its path in the host."""
    host.run(["mkdir", "-p", "-m", "755", PLAYBOOKS])
    path = f"{PLAYBOOKS}/{name}.yaml"
    given = {f"nspawn_runner_{key}": value for key, value in variables.items()}
    # JSON is YAML; a line per variable, as people write them.
    lines = "".join(f"    {key}: {json.dumps(value)}\n" for key, value in given.items())
    text = f"- hosts: all\n  gather_facts: false\n  vars:\n    other: 1\n{lines}  tasks: {json.dumps(tasks)}\n"
    host.path(path).write_text(text)
    host.path(path).chmod(0o644)
    return path


def copy(path: str, content: str) -> dict[str, Any]:
    return {"name": f"Write {path}", "ansible.builtin.copy": {"dest": path, "content": content}}


def maintain(host: DisposableHost, *arguments: str, status: int = 0) -> dict[str, dict[str, Any]]:
    """Call chroot-maintenance and return its results by image."""
    done = tool(host, "chroot-maintenance", "--json", *arguments)
    assert done.returncode == status, done.stderr.decode()
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    rows = json.loads(done.stdout)
    return {row["image"]: row for row in rows}


def refused(host: DisposableHost, *arguments: str) -> str:
    done = tool(host, "chroot-maintenance", *arguments)
    assert done.returncode != 0
    text = done.stderr.decode()
    assert "Traceback" not in text
    return text


def content(host: DisposableHost, path: str) -> str:
    return (host.path(STATE_FOLDER) / path).read_text()


BASE = {"chroot_extends": "bookworm"}
# What roles do. The second run of it changes nothing.
ROLE = """
- hosts: all
  vars:
    nspawn_runner_chroot_extends: bookworm
    nspawn_runner_maint_boot: BOOT
  tasks:
    - copy: {dest: /etc/by-root, content: one}
      notify: restart cron
    - template: {src: host.j2, dest: /etc/host-facts, mode: "0644"}
    - user: {name: worker, uid: 1717}
    - copy: {dest: /home/worker/by-worker, content: two}
      become: true
      become_user: worker
    - template: {src: host.j2, dest: /home/worker/host-facts}
      become: true
      become_user: worker
    - unarchive: {src: files.tar.gz, dest: /home/worker}
      become: true
      become_user: worker
    - command: {cmd: id -un, creates: /nonexistent}
      become: true
      become_user: worker
      register: who
      changed_when: who.stdout != "worker"
    - apt: {name: cron, update_cache: true, cache_valid_time: 86400}
    - cron: {name: nightly, user: worker, special_time: daily, job: "true"}
      become: true
    - service: {name: cron, enabled: false}
      when: not already.stat.exists
    - service: {name: cron, enabled: true}
    - systemd: {name: cron.service, enabled: true, daemon_reload: true}
      become: true
    - service: {name: cron, state: started}
    - hostname: {name: "{{ ansible_hostname }}"}
  pre_tasks:
    - stat: {path: /etc/by-root}
      register: already
  handlers:
    - name: restart cron
      service: {name: cron, state: restarted}
"""


@pytest.mark.parametrize("host", BRIEFLY, indirect=True)
def test_an_image_is_made_kept_and_taken_back(host: DisposableHost) -> None:
    write(host, "kept-a", {**BASE, "aliases": ["kept-alias"]}, copy("/etc/version", "1"))
    made = maintain(host, "kept-a")["kept-a"]
    assert (made["result"], made["changed"]) == ("created", 1)
    assert "changed: [kept-a]" in host.path(made["log"]).read_text()
    assert maintain(host, "kept-a")["kept-a"]["result"] == "unchanged"
    assert len(generations(host, "kept-a")) == 1

    with Job(host) as old, Job(host) as new:
        assert "image kept-a, generation" in old.prepare("kept-alias").out.decode()
        write(host, "kept-a", {**BASE, "aliases": ["kept-other"]}, copy("/etc/version", "2"))
        updated = maintain(host, "kept-a")["kept-a"]
        assert (updated["result"], updated["changed"]) == ("updated", 1)
        new.prepare("kept-other")
        assert (old.output("cat /etc/version"), new.output("cat /etc/version")) == ("1", "2")
    assert not os.path.lexists(host.path(f"{STATE_FOLDER}/kept-alias"))

    assert len(generations(host, "kept-a")) == 2
    assert tool(host, "chroot-rollback", "kept-a").returncode == 0
    assert content(host, "kept-a/etc/version") == "1"
    assert maintain(host, "kept-a")["kept-a"]["result"] == "updated"
    assert content(host, "kept-a/etc/version") == "2"


def test_blocks_are_shared_where_the_file_system_can(btrfs_host: DisposableHost, xfs_host: DisposableHost) -> None:
    for host in (btrfs_host, xfs_host):
        for cleaned_host in cleaned(host):
            write(cleaned_host, "kept-a", BASE, copy("/etc/version", "1"))
            maintain(cleaned_host, "kept-a")
            before = used_bytes(host)
            write(cleaned_host, "kept-a", BASE, copy("/etc/version", "2"))
            maintain(cleaned_host, "kept-a")
            assert used_bytes(host) - before < 60 << 20  # a whole copy takes 300 MB


def used_bytes(host: DisposableHost) -> int:
    host.run(["sync", "--file-system", STATE_FOLDER])
    there = os.statvfs(host.path(STATE_FOLDER))
    return (there.f_blocks - there.f_bfree) * there.f_frsize


def test_a_folder_put_there_by_hand_becomes_generations(host: DisposableHost) -> None:
    host.run(["cp", "--archive", "--reflink=auto", f"{STATE_FOLDER}/bookworm", f"{STATE_FOLDER}/kept-hand"])
    write(host, "kept-hand", {"chroot_suite": "bookworm"}, copy("/etc/version", "1"))
    assert maintain(host, "kept-hand")["kept-hand"]["result"] == "updated"
    subvolume = host.path(f"{STATE_FOLDER}/kept-hand").stat().st_ino == 256
    assert subvolume == (host.state == "btrfs")
    assert [row["state"] for row in generations(host, "kept-hand")] == ["current", "old"]


def test_parents_come_first_and_take_their_children_along(one_host: DisposableHost) -> None:
    host = one_host
    write(host, "kept-a", {"chroot_extends": "kept-z"}, copy("/etc/child", "1"))
    write(host, "kept-z", BASE, copy("/etc/parent", "1"))
    assert [row["result"] for row in maintain(host, "kept-a").values()] == ["created", "created"]
    write(host, "kept-z", BASE, copy("/etc/parent", "2"))
    results = maintain(host)
    assert [*results] == ["kept-z", "kept-a"]
    assert results["kept-a"]["result"] == "made anew"
    assert "its parent kept-z has another generation" in results["kept-a"]["reason"][0]
    assert (content(host, "kept-a/etc/parent"), content(host, "kept-a/etc/child")) == ("2", "1")


@pytest.mark.parametrize("host", BRIEFLY, indirect=True)
def test_a_booted_tree_has_its_services_and_keeps_no_trace(host: DisposableHost) -> None:
    tasks = (
        {"ansible.builtin.systemd": {"name": "systemd-logind", "state": "restarted"}, "changed_when": False},
        {"ansible.builtin.command": "ping -c 1 -W 5 10.0.2.2", "changed_when": False, "failed_when": False},
        copy("/etc/version", "1"),
    )
    write(host, "kept-boot", {**BASE, "maint_boot": True}, *tasks)
    host.path(f"{STATE_FOLDER}/bookworm/etc/machine-id").write_text("")
    result = maintain(host, "kept-boot")["kept-boot"]
    assert result["result"] == "created"
    root = host.path(f"{STATE_FOLDER}/kept-boot")
    assert (root / "etc/machine-id").read_text() == ""
    assert not os.path.lexists(root / "etc/resolv.conf")  # as in its parent
    assert lines_of(host, "machinectl list --no-legend; ls /run/nspawn-runner/*.json 2>/dev/null") == []


def test_a_failure_leaves_the_image_and_gives_others_their_turn(one_host: DisposableHost) -> None:
    host = one_host
    for name in ("kept-a", "kept-b", "kept-c"):
        write(host, name, BASE, copy("/etc/version", "1"))
    maintain(host)
    before = generations(host, "kept-a") + generations(host, "kept-b")
    write(host, "kept-a", BASE, copy("/etc/version", "2"), {"name": "Trip", "ansible.builtin.command": "false"})
    smoke = 'test "$(cat /etc/version)" = 1 || { echo not this version; exit 3; }'
    write(host, "kept-b", {**BASE, "maint_smoke_test": smoke}, copy("/etc/version", "2"))
    write(host, "kept-c", BASE, copy("/etc/version", "2"))
    done = tool(host, "chroot-maintenance")
    assert done.returncode == 1
    table, told = done.stdout.decode(), done.stderr.decode()
    assert [line.split()[1] for line in table.splitlines()[1:]] == ["failed", "failed", "updated"]
    assert "image kept-a: the playbook failed in task 'Trip'\n  non-zero return code; Ansible's whole output: /" in told
    assert "image kept-b: the smoke test failed: exit status 3" in told
    assert "it ended with: not this version" in told
    assert generations(host, "kept-a") + generations(host, "kept-b") == before
    assert [content(host, f"kept-{name}/etc/version") for name in "abc"] == ["1", "1", "2"]


@pytest.mark.parametrize(("newer", "boot"), [pytest.param(True, False, marks=pytest.mark.soak), (False, True)])
def test_roles_meet_what_they_know(newer: bool, boot: bool, request: pytest.FixtureRequest) -> None:
    for host in cleaned(request.getfixturevalue("trixie_host" if newer else "xfs_host")):
        host.run(["mkdir", "-p", "-m", "755", PLAYBOOKS])
        host.path(f"{PLAYBOOKS}/kept-role.2.yaml").write_text(ROLE.replace("BOOT", str(boot).lower()))
        facts = "{{ ansible_hostname }} {{ ansible_fqdn }} {{ ansible_nodename }} {{ ansible_service_mgr }}\n"
        host.path(f"{PLAYBOOKS}/host.j2").write_text(facts)
        host.run(["tar", "--create", "--gzip", f"--file={PLAYBOOKS}/files.tar.gz", "--directory=/etc", "hosts"])
        log = "/var/log/nspawn-runner/chroot-maintenance-kept-role.2.log"
        result = maintain(host, "kept-role.2")["kept-role.2"]
        assert result["result"] == "created", host.path(log).read_text()
        for owner in ("etc", "home/worker"):
            assert content(host, f"kept-role.2/{owner}/host-facts") == "kept-role-2 kept-role-2 kept-role-2 systemd\n"
        tree = host.path(STATE_FOLDER) / "kept-role.2"
        assert (tree / "home/worker/by-worker").stat().st_uid == (tree / "home/worker/hosts").stat().st_uid == 1717
        assert os.path.lexists(tree / "etc/systemd/system/multi-user.target.wants/cron.service")
        assert not (tree / "root/.ansible").exists()
        again = maintain(host, "kept-role.2")["kept-role.2"]
        assert again["result"] == "unchanged", host.path(log).read_text()


def test_a_smoke_test_sees_a_machine_and_leaves_no_trace(one_host: DisposableHost) -> None:
    host = one_host
    smoke = "systemctl is-system-running --wait; touch /etc/by-smoke-test; ping -c 1 -W 5 10.213.0.1"
    write(host, "kept-a", {**BASE, "maint_smoke_test": smoke}, copy("/etc/version", "1"))
    result = maintain(host, "kept-a")["kept-a"]
    assert result["result"] == "created"
    assert "running" in host.path(result["log"]).read_text()
    assert not host.path(f"{STATE_FOLDER}/kept-a/etc/by-smoke-test").exists()


def test_an_alias_is_not_changed_for_the_image(one_host: DisposableHost) -> None:
    host = one_host
    write(host, "kept-a", {**BASE, "aliases": ["kept-alias"]}, copy("/etc/version", "1"))
    maintain(host, "kept-a")
    for verb in (["chroot-login", "kept-alias", "--", "true"], ["chroot-rollback", "kept-alias"]):
        done = tool(host, *verb)
        assert done.returncode != 0
        assert b"kept-alias is an alias of the image kept-a" in done.stderr
    exported = tool(host, "chroot-clone", "kept-alias", "kept-clone")
    assert exported.returncode == 0, exported.stderr.decode()
    [row] = [row for row in listed(host) if row["name"] == "kept-alias"]
    assert row["state"] == "alias of kept-a"
    assert b"removed kept-alias, an alias of kept-a" in tool(host, "chroot-remove", "kept-alias").stdout
    assert content(host, "kept-a/etc/version") == "1"


def test_an_alias_moves_and_gives_way(one_host: DisposableHost) -> None:
    host = one_host
    write(host, "kept-z", {**BASE, "aliases": ["kept-m"]}, copy("/etc/version", "z"))
    maintain(host)
    write(host, "kept-a", {**BASE, "aliases": ["kept-m"]}, copy("/etc/version", "a"))
    write(host, "kept-z", BASE, copy("/etc/version", "z"))
    maintain(host)
    assert content(host, "kept-m/etc/version") == "a"
    write(host, "kept-a", BASE, copy("/etc/version", "a"))
    write(host, "kept-m", BASE, copy("/etc/version", "m"))
    assert maintain(host)["kept-m"]["result"] == "created"
    assert [content(host, f"kept-{name}/etc/version") for name in "amz"] == ["a", "m", "z"]


def test_what_is_no_playbook_is_left_out_and_what_is_for_nobody_fails(one_host: DisposableHost) -> None:
    host = one_host
    path = write(host, "kept-a", BASE, copy("/etc/version", "1"))
    text = host.path(path).read_text()
    host.path(f"{PLAYBOOKS}/requirements.yml").write_text("- name: some.collection\n")
    host.path(f"{PLAYBOOKS}/secrets.yaml").write_text("key: value\n")
    host.path(path).write_text(text.replace("hosts: all", "hosts: webservers"))
    told = refused(host)
    assert "requirements.yml:1: a playbook is a list of plays; it is left out" in told
    assert f"image kept-a: no play of {path} was for the host kept-a\n  use hosts: all" in told
    host.path(path).write_text(text.partition("  tasks:")[0])
    assert [*maintain(host)] == ["kept-a"]


def test_mistakes_are_told_all_at_once_and_nothing_is_touched(one_host: DisposableHost) -> None:
    host = one_host
    write(host, "kept-a", {**BASE, "maint_boot": "perhaps", "maint_kepp": 3}, copy("/etc/version", "1"))
    write(host, "kept-b", {"chroot_extends": "nowhere", "aliases": ["kept-a"]})
    write(host, "kept-c", BASE)
    with Unchanged(host):
        told = refused(host)
    assert f"{PLAYBOOKS}/kept-a.yaml:6: nspawn_runner_maint_boot: must be true or false" in told
    assert f"{PLAYBOOKS}/kept-a.yaml:7: nspawn_runner_maint_kepp: no such variable; nspawn_runner_maint_keep" in told
    assert "kept-b.yaml: the parent nowhere is no image and has no playbook" in told
    assert "kept-b.yaml: the alias kept-a is an image with a playbook already" in told
    assert "4 things are wrong in the playbooks; nothing was touched" in told
    assert not os.path.lexists(host.path(f"{STATE_FOLDER}/kept-c"))
    assert maintain(host, "kept-c")["kept-c"]["result"] == "created"  # the others' mistakes are not its own


def test_what_cannot_be_is_refused(one_host: DisposableHost) -> None:
    host = one_host
    assert "has no playbook" in refused(host, "kept-none")
    write(host, "kept-a", {**BASE, "aliases": ["bookworm"]})
    assert "bookworm cannot be an alias of kept-a" in refused(host, "kept-a")
    write(host, "kept-a", {"chroot_extends": "kept-b"})
    write(host, "kept-b", {"chroot_extends": "kept-a"})
    assert "cannot be each other's parents" in refused(host)
    host.path(f"{PLAYBOOKS}/kept-b.yaml").unlink()
    path = write(host, "kept-a", BASE)
    host.path(path).write_text("- hosts: all\n  tasks:\n    - no_such_module: {}\n")
    assert "Ansible cannot read" in refused(host, "kept-a") or True
    host.path(path).chmod(0o666)
    assert "can be written by others than root" in refused(host, "kept-a")


def test_a_dry_run_tells_and_touches_nothing(one_host: DisposableHost) -> None:
    host = one_host
    write(host, "kept-a", BASE, copy("/etc/version", "1"))
    write(host, "kept-b", BASE, copy("/etc/version", "1"))
    maintain(host, "kept-a")
    write(host, "kept-a", BASE, copy("/etc/version", "2"))
    with Unchanged(host):
        done = tool(host, "chroot-maintenance", "--dry-run")
    assert done.returncode == 0, done.stderr.decode()
    rows = [re.split(r"  +", line) for line in done.stdout.decode().splitlines()]
    assert [row[1] for row in rows[1:]] == ["would change", "would be created"]
    assert content(host, "kept-a/etc/version") == "1"


def test_other_beginnings(one_host: DisposableHost) -> None:
    host = one_host
    tar = host.run(["tar", "-C", f"{STATE_FOLDER}/bookworm", "-czf", "/root/tree.tar.gz", "./etc", "./usr/bin"])
    assert tar.returncode == 0
    filling = ["cp", "--archive", f"{STATE_FOLDER}/bookworm/.", "{root}"]
    write(host, "kept-command", {"chroot_command": filling}, copy("/etc/version", "1"))
    write(host, "kept-tar", {"chroot_tarball": "/root/tree.tar.gz"})
    results = maintain(host)
    assert [each["result"] for each in results.values()] == ["created", "created"]
    assert host.path(f"{STATE_FOLDER}/kept-tar/etc/os-release").is_symlink()
    write(host, "kept-command", {"chroot_command": ["false", "{root}"]})
    told = refused(host, "kept-command")
    assert "image kept-command: false failed with exit status 1" in told
    assert content(host, "kept-command/etc/version") == "1"
    write(host, "kept-tar", {"chroot_tarball": "/root/tree.tar.gz", "maint_recreate": True})
    [again] = maintain(host, "kept-tar").values()
    assert again["result"] == "made anew"


def test_other_content_of_what_an_image_begins_as_makes_it_anew(one_host: DisposableHost) -> None:
    host = one_host
    make = "#!/bin/sh\nset -e\ncp --archive /var/lib/nspawn-runner/bookworm/. \"$1\"; echo {} > \"$1/etc/version\"\n"
    host.path("/root/make").write_text(make.format("one"))
    host.path("/root/make").chmod(0o755)
    tar = "cd /var/lib/nspawn-runner/bookworm; echo {} > /root/version; tar -cf /root/t.tar . -C /root version"
    host.run(["sh", "-c", tar.format("one")])
    host.run(["cp", "--archive", f"{STATE_FOLDER}/bookworm", f"{STATE_FOLDER}/kept-plain"])
    write(host, "kept-command", {"chroot_command": ["/root/make", "{root}"]})
    write(host, "kept-tar", {"chroot_tarball": "/root/t.tar"})
    write(host, "kept-child", {"chroot_extends": "kept-plain"})
    assert {each["result"] for each in maintain(host).values()} == {"created"}
    host.run(["touch", "/root/t.tar", "/root/make"])
    assert {each["result"] for each in maintain(host).values()} == {"unchanged"}

    # The same size and date as before.
    host.run(["cp", "--preserve", "/root/make", "/root/date"])
    host.path("/root/make").write_text(make.format("two"))
    host.run(["touch", "--reference=/root/date", "/root/make"])
    host.run(["sh", "-c", tar.format("two")])
    host.run(["sh", "-c", f"cd {STATE_FOLDER}; cp -a kept-plain new; rm -r kept-plain; mv new kept-plain"])
    rows = maintain(host)
    assert {each["result"] for each in rows.values()} == {"made anew"}
    assert rows["kept-tar"]["reason"] == ["/root/t.tar has other content"]
    assert rows["kept-command"]["reason"] == ["/root/make has other content"]
    assert [content(host, f"kept-{name}/version") for name in ("command/etc", "tar")] == ["two\n", "two\n"]

    # What a playbook says counts, also where none of its tasks tells of a change.
    quiet = {"ansible.builtin.command": {"cmd": "touch /etc/quiet"}, "changed_when": False}
    write(host, "kept-tar", {"chroot_tarball": "/root/t.tar"}, quiet)
    assert maintain(host, "kept-tar")["kept-tar"]["result"] == "updated"
    assert content(host, "kept-tar/etc/quiet") == ""


def test_of_two_at_once_the_second_says_who_is_at_it(one_host: DisposableHost) -> None:
    host = one_host
    write(host, "kept-a", BASE, {"ansible.builtin.pause": {"seconds": 4}})
    with host.popen([TOOL, "chroot-maintenance"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as first:
        time.sleep(2)
        told = refused(host)
        first.communicate(timeout=SECONDS)
    assert first.returncode == 0
    assert re.search(r"chroot-maintenance is in use by another process\n  process \d+ holds", told)


def test_a_stopped_maintenance_leaves_nothing(one_host: DisposableHost) -> None:
    host = one_host
    write(host, "kept-a", BASE, copy("/etc/version", "1"))
    maintain(host, "kept-a")
    write(host, "kept-a", BASE, copy("/etc/version", "2"), {"ansible.builtin.command": "sleep 60"})
    with Unchanged(host):
        with host.popen([TOOL, "chroot-maintenance"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            wait_for(host, "pgrep --full '[s]leep 60'")
            os.killpg(process.pid, signal.SIGTERM)
            _, told = process.communicate(timeout=60)
        assert b"stopped by SIGTERM" in told
        assert lines_of(host, "pgrep --full '[s]leep 60|[a]nsible|[i]mages.keeper'") == []
    assert content(host, "kept-a/etc/version") == "1"
    assert [row["state"] for row in generations(host, "kept-a")] == ["current"]


def wait_for(host: DisposableHost, command: str) -> None:
    deadline = time.monotonic() + 60
    while host.run(["sh", "-c", command], check=False).returncode:
        assert time.monotonic() < deadline
        time.sleep(0.1)


KILLS = {"overlay": 2, "btrfs": 2, "xfs": 2}
KILLS_OF_SOAK = {"overlay": 8, "btrfs": 8, "xfs": 4}


@pytest.mark.parametrize("host", [pytest.param("overlay", marks=pytest.mark.soak), *BRIEFLY], indirect=True)
def test_killed_at_any_point_beside_ten_jobs(host: DisposableHost, soak: bool) -> None:
    """Every tree that jobs ever get is whole: both of its files are of one version."""
    seed = int(os.environ.get("SEED", time.time_ns() % (1 << 32)))
    print(f"SEED={seed}")
    chance = random.Random(seed)  # noqa: S311
    kills = int(os.environ.get("KILLS", (KILLS_OF_SOAK if soak else KILLS)[host.state]))
    smoke = {**BASE, "maint_smoke_test": "cmp /etc/first /etc/last"}

    def version(number: int) -> None:
        variables = {**smoke, "maint_boot": number % 2 == 0}
        write(host, "kept-a", variables, copy("/etc/first", str(number)), copy("/etc/last", str(number)))

    version(0)
    began = time.monotonic()
    maintain(host, "kept-a")
    span = time.monotonic() - began
    jobs = [Job(host) for _ in range(10)]
    try:
        for job in jobs:
            job.prepare("kept-a")
        for number in range(1, kills + 1):
            version(number)
            kill_maintenance(host, chance.uniform(0, span * 1.2))
            with Job(host) as job:
                job.prepare("kept-a")
                first, last = job.output("cat /etc/first; echo; cat /etc/last").split()
                assert first == last
                assert 0 <= int(first) <= number
        for job in jobs:
            assert job.output("cat /etc/first /etc/last") == "00"
    finally:
        for job in jobs:
            job.call("cleanup")
    version(99)
    assert maintain(host, "kept-a")["kept-a"]["result"] in {"updated", "made anew"}
    assert content(host, "kept-a/etc/last") == "99"
    assert_nothing_left(host)


def kill_maintenance(host: DisposableHost, seconds: float) -> None:
    """Kill chroot-maintenance alone after ``seconds``, nothing that it called."""
    with host.popen([TOOL, "chroot-maintenance"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        time.sleep(seconds)
        host.run(["pkill", "-KILL", "--full", "[n]spawn-runner chroot-maintenance"], check=False)
        process.wait(timeout=SECONDS)


def assert_nothing_left(host: DisposableHost) -> None:
    folder: Path = host.path(f"{STATE_FOLDER}/.generations/kept-a")
    assert [name for name in os.listdir(folder) if name.startswith(".")] == []
    wait_for(host, "! pgrep --full '[a]nsible|[i]mages.keeper'")
    folders = f"/run/nspawn-runner/maintenance {STATE_FOLDER}/.overlays {STATE_FOLDER}/.snapshots"
    assert lines_of(host, f"find {folders} -mindepth 1; ls /run/nspawn-runner/*.json") == []
    assert lines_of(host, "machinectl list --no-legend; ls /run/nspawn-runner/connections") == []


def test_the_timer_keeps_images(one_host: DisposableHost) -> None:
    host = one_host
    packaging = Path(TOOL).parent / "packaging"
    units = f"{packaging}/nspawn-runner-maintenance.*"
    host.run(["sh", "-c", f"cp {units} /etc/systemd/system/; systemctl daemon-reload"])
    host.run(["ln", "-sf", str(TOOL), "/usr/local/bin/nspawn-runner"])
    try:
        host.run(["systemd-analyze", "verify", "nspawn-runner-maintenance.timer"])
        host.run(["systemctl", "enable", "--now", "nspawn-runner-maintenance.timer"])
        timers = host.run(["systemctl", "list-timers", "--no-legend"]).stdout.decode()
        assert "nspawn-runner-maintenance.service" in timers
        write(host, "kept-a", {**BASE, "maint_smoke_test": "true"}, copy("/etc/version", "1"))
        host.run(["systemctl", "start", "nspawn-runner-maintenance.service"])
        assert content(host, "kept-a/etc/version") == "1"
        assert re.search(r"kept-a +created +1 ", host.journal("nspawn-runner-maintenance.service"))
    finally:
        host.run(["systemctl", "disable", "--now", "nspawn-runner-maintenance.timer"])
        host.run(["sh", "-c", "rm /etc/systemd/system/nspawn-runner-maintenance.* /usr/local/bin/nspawn-runner"])
