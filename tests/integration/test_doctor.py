"""What ``doctor`` says of healthy hosts, and of hosts broken on purpose: what is wrong, and what mends it."""

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from by_hand import TOOL, Job, Unchanged, write
from cgroups import version_2_controllers
from disposable_host import CHECKOUT, STATE_FOLDER, DisposableHost

RUNNER = """#!/bin/sh
echo "Version:      17.9.1"
"""
SERVICE = "[Service]\nExecStart=/usr/bin/sleep infinity\nUser="
CONFIG = "/etc/gitlab-runner/config.toml"


# What a sentence may begin with, that is also a word for a program.
PROSE = {"see", "use", "run", "install", "editor", "correct", "let", "and", "or", "the", "another", "upgrade"}


class Found(NamedTuple):
    """What a check said."""

    level: str
    text: str
    mend: str
    advice: str


def is_command(text: str) -> bool:
    """Tell whether a shell understands ``text``, and each command in it calls a program that there is on hosts."""
    subprocess.run(["/bin/bash", "-n", "-c", text], check=True)
    words = [command.split()[0] for command in text.split("; ") if command]
    return all(re.fullmatch(r"[a-z][a-z0-9-]+", word) and word not in PROSE for word in words)


class Report:
    """A report of doctor: exit status and findings by check."""

    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        self.status = done.returncode
        self.findings = [(each["check"], Found(each["level"], each["text"], each["mend"], each["advice"]))
                         for each in json.loads(done.stdout)]  # fmt: skip
        for _, found in self.findings:
            assert is_command(found.mend), found
            assert found.mend or found.advice or found.level == "ok", found

    def bad(self, check: str | None = None) -> list[Found]:
        return [found for name, found in self.findings if found.level != "ok" and check in {None, name}]

    def bad_checks(self) -> set[str]:
        return {name for name, found in self.findings if found.level != "ok"}

    def one(self, check: str) -> Found:
        (found,) = self.bad(check)
        return found


def doctor(host: DisposableHost, *arguments: str, settings: str | None = None, check: str = "") -> Report:
    options = [] if settings is None else ["--config", write(host, settings)]
    only = ["--check", check] if check else []
    return Report(host.run([TOOL, *options, "doctor", "--json", *only, *arguments], check=False))


def shell(host: DisposableHost, script: str) -> str:
    return host.run(["bash", "-euc", script]).stdout.decode()


@contextlib.contextmanager
def broken(host: DisposableHost, script: str, undo: str) -> Iterator[None]:
    try:
        shell(host, script)
        yield
    finally:
        shell(host, undo)


@pytest.fixture
def runner(overlay_host: DisposableHost) -> Iterator[DisposableHost]:
    """A host with something that looks like gitlab-runner."""
    yield from with_runner(overlay_host)


@pytest.fixture(params=["overlay_host", "btrfs_host", "trixie_host"])
def healthy(request: pytest.FixtureRequest) -> Iterator[DisposableHost]:
    yield from with_runner(request.getfixturevalue(request.param))


def with_runner(host: DisposableHost) -> Iterator[DisposableHost]:
    install_service(host, "root")
    host.path("/usr/bin/gitlab-runner").write_text(RUNNER)
    host.run(["chmod", "755", "/usr/bin/gitlab-runner"])
    configure(host)
    units = CHECKOUT / "packaging"
    host.run(["cp", *units.glob("nspawn-runner-gc.*"), "/etc/systemd/system"])
    host.run(["systemctl", "enable", "nspawn-runner-gc.timer"])
    # The tree may have been made long ago.
    host.run(["touch", f"{STATE_FOLDER}/bookworm/var/lib/dpkg/status"])
    yield host
    shell(
        host,
        "systemctl disable nspawn-runner-gc.timer; rm /etc/systemd/system/nspawn-runner-gc.*; "
        "systemctl stop gitlab-runner; rm -r /run/systemd/system/gitlab-runner.service /usr/bin/gitlab-runner "
        "/etc/gitlab-runner; systemctl daemon-reload",
    )


def install_service(host: DisposableHost, user: str) -> None:
    host.path("/run/systemd/system/gitlab-runner.service").write_text(f"{SERVICE}{user}\n")
    host.run(["systemctl", "daemon-reload"])
    host.run(["systemctl", "restart", "gitlab-runner"])


def configure(host: DisposableHost, *changes: tuple[str, str]) -> None:
    options = ["--name", "shed", "--url", "https://gitlab.example.com", "--token", "glrt-t0k3n", "--concurrent", "4"]
    text = host.run([TOOL, "toml", "bookworm", *options]).stdout.decode()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    host.run(["mkdir", "--parents", "/etc/gitlab-runner"])
    host.path(CONFIG).write_text(text)
    host.run(["chmod", "600", CONFIG])


def test_a_healthy_host_is_ok_and_stays_as_it_is(healthy: DisposableHost) -> None:
    # The trixie host has version 2 of the cgroups only, which may come without controllers.
    no_limits = healthy.suite == "trixie" and "memory" not in version_2_controllers()
    with Unchanged(healthy):
        report = doctor(healthy, "--job")
    assert report.bad_checks() == ({"unit limits"} if no_limits else set()), report.bad()
    assert report.status == int(no_limits)
    jobs = {name for name, _ in report.findings if name.startswith("job")}
    assert jobs == {"job on overlay", "job on tmpfs"} | ({"job on btrfs"} if healthy.state == "btrfs" else set())
    assert len(report.findings) > 25
    assert "t0k3n" not in str(report.findings)


def test_lines_for_people(runner: DisposableHost) -> None:
    done = runner.run([TOOL, "doctor"])
    lines = done.stdout.decode().splitlines()
    assert lines
    assert [line for line in lines if not line.startswith("ok       ")] == []
    with broken(runner, f"rm {CONFIG}", ":"):
        done = runner.run([TOOL, "doctor"], check=False)
    assert done.returncode == 1
    assert f"warning  runner configuration: there is no {CONFIG}\n         advice: " in done.stdout.decode()


NFT_DROP = "nft 'add table inet fw; add chain inet fw f { type filter hook forward priority 0; policy drop; }'"


def test_blocked_forwarding_and_its_mending(overlay_host: DisposableHost) -> None:
    with broken(overlay_host, NFT_DROP, "nft delete table inet fw"):
        report = doctor(overlay_host)
        found = report.one("firewall")
        assert report.status == 2
        assert found.level == "failed"
        assert "the chain f of the table inet fw" in found.text
        shell(overlay_host, found.mend)
        assert not doctor(overlay_host, check="firewall").bad("firewall")


def test_answers_that_are_dropped(overlay_host: DisposableHost) -> None:
    script = f"{NFT_DROP}; nft add rule inet fw f iifname nspr0 accept"
    with broken(overlay_host, script, "nft delete table inet fw"):
        found = doctor(overlay_host, check="firewall").one("firewall")
        assert (found.level, "drops the answers" in found.text) == ("warning", True)
        shell(overlay_host, found.mend)
        assert not doctor(overlay_host, check="firewall").bad("firewall")


FORWARD = "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"
FIREWALLS = [
    (f"nft '{FORWARD}; add chain ip filter DOCKER-USER'", "ip filter", "Docker", "iptables -I DOCKER-USER -i nspr0 -j"),
    (f"nft '{FORWARD}; add chain ip filter ufw-user-forward'", "ip filter", "ufw", "ufw route allow in on nspr0"),
    (f"nft '{FORWARD}'", "ip filter", "the FORWARD chain", "iptables -I FORWARD -i nspr0 -j ACCEPT; iptables -I"),
    (
        "nft 'add table inet firewalld; add chain inet firewalld c { type filter hook forward priority 10; }; "
        "add rule inet firewalld c reject'",
        "inet firewalld",
        "firewalld",
        "firewall-cmd --permanent --zone=trusted --add-interface=nspr0",
    ),
]


@pytest.mark.parametrize(("script", "table", "who", "mend"), FIREWALLS, ids=["docker", "ufw", "iptables", "firewalld"])
def test_known_firewalls(overlay_host: DisposableHost, script: str, table: str, who: str, mend: str) -> None:
    with broken(overlay_host, script, f"nft delete table {table}"):
        found = doctor(overlay_host, check="firewall").one("firewall")
    assert who in found.text
    assert mend in found.mend


def test_a_firewall_that_lets_machines_through_is_fine(overlay_host: DisposableHost) -> None:
    accept = "nft add rule inet fw f ct state established accept; nft add rule inet fw f iifname nspr0 accept"
    with broken(overlay_host, f"{NFT_DROP}; {accept}", "nft delete table inet fw"):
        assert not doctor(overlay_host, check="firewall").bad("firewall")


def test_locked_forwarding_and_its_mending(overlay_host: DisposableHost) -> None:
    lock = "sysctl -qw net.ipv4.ip_forward=0; mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys"
    undo = "umount /proc/sys; sysctl --quiet --write net.ipv4.ip_forward=1"
    with broken(overlay_host, lock, undo):
        found = doctor(overlay_host, check="forwarding").one("forwarding")
        assert found.level == "failed"
        shell(overlay_host, found.mend)
        assert not doctor(overlay_host, check="forwarding").bad("forwarding")


def test_no_network_where_none_is_wanted(overlay_host: DisposableHost) -> None:
    with broken(overlay_host, NFT_DROP, "nft delete table inet fw"):
        report = doctor(overlay_host, settings='network = {mode = "none"}')
    assert not {"firewall", "bridge"} & report.bad_checks()


def test_what_the_settings_close_is_no_fault(overlay_host: DisposableHost) -> None:
    for closed in ("private", "0.0.0.0/0"):
        settings = f'network = {{closed = ["{closed}"]}}'
        assert not doctor(overlay_host, settings=settings, check="firewall").bad("firewall")
    with Job(overlay_host) as job:
        job.prepare()  # with the usual rules again


def test_rules_that_were_removed(overlay_host: DisposableHost) -> None:
    with Job(overlay_host) as job:
        job.prepare()
    with broken(overlay_host, "nft delete table inet nspawn_runner", ":"):
        found = doctor(overlay_host).one("address translation")
        assert found.level == "warning"
        assert found.mend == "nspawn-runner gc"
        assert not doctor(overlay_host).bad("address translation")


@pytest.mark.parametrize(("options", "said"), [("size=50M", "GiB free"), ("size=8G,nr_inodes=2000", "inodes are free")])
def test_full_disk(overlay_host: DisposableHost, options: str, said: str) -> None:
    mount = f"mkdir /root/small; mount -t tmpfs -o {options},mode=755 tmpfs /root/small"
    with broken(overlay_host, mount, "umount /root/small; rmdir /root/small"):
        found = doctor(overlay_host, settings='state_folder = "/root/small"', check="room").one("room")
    assert found.level == "failed"
    assert said in found.text
    assert "chroot-remove" in found.advice


def test_completely_full_disk(overlay_host: DisposableHost) -> None:
    fill = "mkdir /root/small; mount -t tmpfs -o size=1M,nr_inodes=3 tmpfs /root/small; touch /root/small/{a,b}"
    with broken(overlay_host, fill, "umount /root/small; rmdir /root/small"):
        report = doctor(overlay_host, settings='state_folder = "/root/small"')
    assert {"room", "backend"} <= report.bad_checks()


def test_state_folder_that_cannot_be_used(overlay_host: DisposableHost) -> None:
    mount = "mkdir -m 777 /root/s; mount -t tmpfs -o ro,noexec,mode=777 tmpfs /root/s"
    with broken(overlay_host, mount, "umount /root/s; rmdir /root/s"):
        found = doctor(overlay_host, settings='state_folder = "/root/s"', check="state folder").bad("state folder")
        assert [each.level for each in found] == ["failed", "failed"]
        assert found[0].mend == "chown root /root/s; chmod 0700 /root/s"
        shell(overlay_host, found[1].mend)
        shell(overlay_host, found[0].mend)
        assert not doctor(overlay_host, settings='state_folder = "/root/s"', check="state folder").bad("state folder")


@pytest.mark.parametrize(
    ("program", "check", "mend"),
    [
        ("/usr/sbin/nft", "programs", "apt install nftables"),
        ("/usr/bin/systemd-nspawn", "programs", "apt install systemd-container"),
        ("/usr/bin/mmdebstrap /usr/sbin/debootstrap", "builder", "apt install mmdebstrap"),
        ("/usr/share/keyrings/debian-archive-keyring.gpg", "keyring", "apt install debian-archive-keyring"),
    ],
)
def test_missing_program(overlay_host: DisposableHost, program: str, check: str, mend: str) -> None:
    move = f"for file in {program}; do mv $file $file.away; done"
    with broken(overlay_host, move, f"for file in {program}; do mv $file.away $file; done"):
        report = doctor(overlay_host)
    assert report.one(check).mend == mend
    assert report.status == (2 if check == "programs" else 1)


def test_ansible_is_missed_where_there_are_playbooks(overlay_host: DisposableHost) -> None:
    playbook, program = "/etc/nspawn-runner/web.yaml", "/usr/bin/ansible-playbook"
    away = f"mkdir -p /etc/nspawn-runner; echo '- hosts: all' > {playbook}; mv {program} {program}.away"
    back = f"rm {playbook}; mv {program}.away {program}"
    with broken(overlay_host, away, back):
        report = doctor(overlay_host)
    assert report.one("ansible").mend == "apt install ansible-core"
    mends = [found.mend for found in report.bad("timers")]
    assert any("systemctl enable --now nspawn-runner-maintenance.timer" in mend for mend in mends)


IMAGES = [
    ("ln -s .generations/bad/20260101T000000Z bad", "failed", "is broken", "nspawn-runner chroot-remove bad; nspawn"),
    ("mkdir bad", "failed", "bad has no systemd", "apt-get update && apt-get install --yes systemd-sysv"),
    ("mkdir -p bad/usr/lib/systemd; touch bad/usr/lib/systemd/systemd", "failed", "bad has no /bin/bash", "--yes bash"),
    (
        "mkdir -p bad/usr/lib/systemd bad/bin; touch bad/usr/lib/systemd/systemd bad/bin/bash; touch -d 2026-01-01 bad",
        "warning",
        "was not brought up to date for",
        "nspawn-runner chroot-login bad -- sh -c 'apt-get update",
    ),
    ("mkdir -p .generations/bad/.20260101T000000Z.new", "warning", "half-made", "nspawn-runner chroot-remove bad"),
]


@pytest.mark.parametrize(("script", "level", "text", "mend"), IMAGES, ids=["link", "empty", "shell", "old", "half"])
def test_broken_image(overlay_host: DisposableHost, script: str, level: str, text: str, mend: str) -> None:
    undo = f"rm -rf {STATE_FOLDER}/bad {STATE_FOLDER}/.generations/bad"
    with broken(overlay_host, f"cd {STATE_FOLDER}; {script}", undo):
        found = [each for each in doctor(overlay_host, check="images").bad("images") if "bad" in each.text]
    assert [each.level for each in found] == [level]
    assert text in found[0].text
    assert mend in found[0].mend


@pytest.mark.parametrize("image", ["bookworm", "bad"])
def test_half_made_tree_and_its_mending(btrfs_host: DisposableHost, image: str) -> None:
    folder = f"{STATE_FOLDER}/.generations/{image}"
    with broken(btrfs_host, f"mkdir -p {folder}/.20260101T000000Z.new/usr", f"rm -rf {folder}"):
        mend = next(each.mend for each in doctor(btrfs_host, check="images").bad("images") if "half-made" in each.text)
        shell(btrfs_host, mend.replace("nspawn-runner", str(TOOL), 1))
        assert not [each for each in doctor(btrfs_host, check="images").bad("images") if "half-made" in each.text]


def test_playbook_that_is_not_understood(overlay_host: DisposableHost) -> None:
    file = "/etc/nspawn-runner/web.yaml"
    wrong = "- hosts: all\n  vars: {nspawn_runner_chroot_siute: trixie}\n  tasks: []"
    with broken(overlay_host, f"mkdir -p /etc/nspawn-runner; echo '{wrong}' > {file}; chmod 644 {file}", f"rm {file}"):
        found = doctor(overlay_host, check="image playbooks").one("image playbooks")
    assert found.level == "failed"
    assert f"{file}:2: nspawn_runner_chroot_siute" in found.text
    assert found.mend == "nspawn-runner chroot-maintenance --dry-run"


def test_no_images_and_images_that_the_settings_want(overlay_host: DisposableHost) -> None:
    empty = 'state_folder = "/root/no-images"\ndefault_image = "web"\nimages = {"python:*" = "snake"}'
    with broken(overlay_host, "mkdir /root/no-images", "rm -r /root/no-images"):
        report = doctor(overlay_host, settings=empty)
    assert report.one("images").mend == "nspawn-runner chroot-create bookworm"
    mends = {each.mend for each in report.bad("images of settings")}
    assert mends == {"nspawn-runner chroot-create web", "nspawn-runner chroot-create snake"}


def test_broken_settings(overlay_host: DisposableHost) -> None:
    report = doctor(overlay_host, settings="shel = 1\nbackend = 2")
    found = report.one("settings file")
    assert report.status == 2
    assert "shel: no such setting" in found.text
    assert "backend: must be a text" in found.text
    assert found.advice.startswith("correct /")
    assert len(report.findings) > 15
    assert len(overlay_host.run([TOOL, "--config", "/nowhere", "doctor"], check=False).stdout.splitlines()) > 15


def test_settings_that_others_may_write(overlay_host: DisposableHost) -> None:
    file = "/etc/nspawn-runner/nspawn-runner.toml"
    with broken(overlay_host, f"mkdir -p /etc/nspawn-runner; touch {file}; chmod 666 {file}", f"rm {file}"):
        shell(overlay_host, doctor(overlay_host, check="settings file").one("settings file").mend)
        assert not doctor(overlay_host, check="settings file").bad("settings file")


def test_a_check_can_be_asked_for_alone(overlay_host: DisposableHost) -> None:
    report = doctor(overlay_host, "--check", "clock", "--check", "name servers")
    assert {name for name, _ in report.findings} == {"clock", "name servers"}
    done = overlay_host.run([TOOL, "doctor", "--check", "firewal"], check=False)
    assert done.returncode == 2
    assert b"did you mean firewall?" in done.stderr


def test_backend_that_the_file_system_cannot_do(overlay_host: DisposableHost) -> None:
    found = doctor(overlay_host, settings='backend = "btrfs"', check="backend").one("backend")
    assert 'backend = "auto"' in found.advice


@pytest.mark.parametrize("host_name", ["overlay_host", "btrfs_host"])
def test_kernel_without_idmapped_mounts(request: pytest.FixtureRequest, host_name: str) -> None:
    host: DisposableHost = request.getfixturevalue(host_name)
    old_kernel = ["strace", "--follow-forks", "--output=/dev/null", "--trace=mount_setattr",
                  "--inject=mount_setattr:error=EINVAL"]  # fmt: skip
    found = Report(host.run([*old_kernel, TOOL, "doctor", "--json"], check=False)).one("backend")
    assert "mount_setattr(idmap): Invalid argument" in found.text
    assert "user_namespace = false" in found.advice
    assert not doctor(host, settings="user_namespace = false", check="backend").bad("backend")


def test_too_many_machines_for_the_kernel(overlay_host: DisposableHost) -> None:
    report = doctor(overlay_host, "--machines", "1000000000")
    assert not report.bad("inotify")  # a machine lifts it
    assert "kernel.pty.max" in report.one("terminals").mend


def test_name_servers_that_machines_cannot_reach(overlay_host: DisposableHost) -> None:
    with broken(
        overlay_host,
        "cp /etc/resolv.conf /root/kept; echo nameserver 127.0.0.1 > /etc/resolv.conf",
        "cat /root/kept > /etc/resolv.conf",
    ):
        assert "[network] dns" in doctor(overlay_host, check="name servers").one("name servers").advice


def test_no_systemd(overlay_host: DisposableHost) -> None:
    hidden = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /run/systemd; exec "$0" doctor --json', str(TOOL)]
    report = Report(overlay_host.run(hidden, check=False))
    assert "systemd-sysv" in report.one("init").advice


def test_rights(overlay_host: DisposableHost) -> None:
    less = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", str(TOOL), "doctor", "--json"]
    assert "CAP_SYS_ADMIN" in Report(overlay_host.run(less, check=False)).one("rights").text


def test_clock_that_is_behind(overlay_host: DisposableHost) -> None:
    folder = f"{STATE_FOLDER}/.generations/ahead"
    stamp = f"{folder}/20990101T000000Z.json"
    with broken(overlay_host, f"mkdir -p {folder}; touch -d 2099-01-01 {stamp}", f"rm -r {folder}"):
        assert doctor(overlay_host, check="clock").one("clock").mend == "timedatectl set-ntp true"


def test_leftovers(overlay_host: DisposableHost) -> None:
    run = "/run/nspawn-runner"
    leave = f"mkdir -p {run} {STATE_FOLDER}/.overlays/run-77/upper; echo x > {run}/run-78.json"
    with broken(overlay_host, leave, ":"):
        found = doctor(overlay_host, check="leftovers").bad("leftovers")
        assert [each.mend for each in found] == ["nspawn-runner gc"] * 2
        shell(overlay_host, f"{TOOL} gc")
        assert not doctor(overlay_host, check="leftovers").bad("leftovers")


def test_beside_a_running_job(overlay_host: DisposableHost) -> None:
    with Job(overlay_host) as job:
        job.prepare()
        before = job.output("cat /proc/net/route /proc/net/arp; echo kept > /root/file")
        assert not doctor(overlay_host, "--job").bad("leftovers")
        assert job.output("cat /proc/net/route /proc/net/arp") == before
        assert job.output("cat /root/file") == "kept\n"


def test_no_gitlab_runner(overlay_host: DisposableHost) -> None:
    assert doctor(overlay_host, check="gitlab runner").one("gitlab runner").level == "warning"
    assert not doctor(overlay_host, settings='gitlab_runner = ""', check="gitlab runner").bad("gitlab runner")
    found = doctor(overlay_host, settings='gitlab_runner = "/nowhere"', check="gitlab runner").one("gitlab runner")
    assert found.level == "failed"


@pytest.mark.parametrize(("version", "level"), [("13.12.0", "failed"), ("16.0.0", "warning"), ("18.1.0", "ok")])
def test_versions_of_gitlab_runner(runner: DisposableHost, version: str, level: str) -> None:
    runner.path("/usr/bin/gitlab-runner").write_text(RUNNER.replace("17.9.1", version))
    assert [found.level for name, found in doctor(runner).findings if name == "gitlab runner"] == [level]


def test_service_of_gitlab_runner(runner: DisposableHost) -> None:
    install_service(runner, "nobody")
    assert "User=root" in doctor(runner, check="service").one("service").mend
    install_service(runner, "root")
    runner.run(["systemctl", "stop", "gitlab-runner"])
    assert doctor(runner, check="service").one("service").mend == "systemctl enable --now gitlab-runner"


CONFIGURATIONS = [
    (("graceful_kill_timeout = 200", "graceful_kill_timeout = 600"), "are 630 s: at most 300 s"),
    (("graceful_kill_timeout = 200", "graceful_kill_timeout = 5"), "less than stop_grace_seconds"),
    (("prepare_exec_timeout = 300", "prepare_exec_timeout = 20"), "prepare_exec_timeout is 20 s: at least 120 s"),
    (("cleanup_exec_timeout = 300", "cleanup_exec_timeout = 1"), "cleanup_exec_timeout is 1 s"),
    ((f'run_exec = "{TOOL}"', 'run_exec = "/bin/run"'), "run_exec is not nspawn-runner"),
    ((f'run_exec = "{TOOL}"', 'run_exec = "/nowhere/nspawn-runner"'), "no program /nowhere/nspawn-runner"),
    (('run_args = [ "run",]', 'run_args = [ "cleanup",]'), "run_args does not say run"),
    (('"bookworm"', '"nowhere"'), "there is no image nowhere"),
]


@pytest.mark.parametrize(("change", "text"), CONFIGURATIONS, ids=[text for _, text in CONFIGURATIONS])
def test_configuration_of_gitlab_runner(runner: DisposableHost, change: tuple[str, str], text: str) -> None:
    configure(runner, change)
    report = doctor(runner)
    assert report.status == 2
    assert text in report.bad("runner configuration")[0].text
    assert f"correct {CONFIG}" in report.bad("runner configuration")[0].advice


def test_configuration_that_is_of_no_use(runner: DisposableHost) -> None:
    configure(runner, ('executor = "custom"', 'executor = "shell"'))
    assert "calls nspawn-runner" in doctor(runner, check="runner configuration").one("runner configuration").text
    runner.path(CONFIG).write_text("token = 'glrt-t0k3n\n[")
    found = doctor(runner, check="runner configuration").one("runner configuration")
    assert "is not valid TOML" in found.text
    assert "t0k3n" not in found.text
    configure(runner)
    runner.run(["chmod", "644", CONFIG])
    assert doctor(runner, check="runner configuration").one("runner configuration").mend == f"chmod 600 {CONFIG}"


def test_job_that_fails_is_told(overlay_host: DisposableHost) -> None:
    with broken(overlay_host, f"mkdir {STATE_FOLDER}/empty", f"rmdir {STATE_FOLDER}/empty"), Unchanged(overlay_host):
        report = doctor(overlay_host, "--job", "--image", "empty")
    assert {"job on overlay", "job on tmpfs"} <= report.bad_checks()
    assert "did not start from image empty" in report.one("job on overlay").text
    assert doctor(overlay_host, "--job", "--image", "nowhere").one("job").mend == "nspawn-runner chroot-create nowhere"


class Harm(NamedTuple):
    """A way to break a host so that doctor's command mends it: the check that sees it, and a word of what that says."""

    check: str
    text: str
    script: str
    undo: str = ":"


INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes >/dev/null "


def without(*packages: str) -> str:
    return f"apt-get update -qq; dpkg --remove --force-depends {' '.join(packages)} >/dev/null 2>&1 || true"


PLAYBOOK = "mkdir -p /etc/nspawn-runner; echo '- hosts: all' > /etc/nspawn-runner/mends.yaml; "
HARMS = {
    "bridge": Harm("bridge", "has not the address", "ip address flush dev nspr0"),
    "forwarding": Harm("forwarding", "is 0: something turned it off", "sysctl -w net.ipv4.ip_forward=0"),
    "of bridge": Harm("forwarding", "does not forward", "sysctl -w net.ipv4.conf.nspr0.forwarding=0"),
    "rules": Harm("address translation", "is missing", "nft flush ruleset"),
    "waiting": Harm("ports", "is up: machines that boot", "ip link set dev nspr-waiting up"),
    "port": Harm("ports", "is not cut off", "bridge link set dev $(ls /sys/class/net | grep vb-run) isolated off"),
    "machined": Harm("machined", "does not answer", "systemctl stop dbus.socket dbus.service"),
    "no mmdebstrap": Harm(
        "builder", "can only be imported", without("mmdebstrap", "debootstrap"), undo=INSTALL + "debootstrap mmdebstrap"
    ),
    "no keys": Harm("keyring", "keys that sign", without("debian-archive-keyring")),
    "no ansible": Harm(
        "ansible", "is not installed", PLAYBOOK + without("ansible-core"), undo="rm /etc/nspawn-runner/mends.yaml"
    ),
    "timer": Harm(
        "timers",
        "maintenance.timer is not enabled",
        PLAYBOOK,
        undo="rm /etc/nspawn-runner/mends.yaml; rm -f /etc/systemd/system/nspawn-runner*",
    ),
}


@pytest.mark.soak
@pytest.mark.parametrize("kind", HARMS)
def test_what_doctor_says_mends_it(overlay_host: DisposableHost, kind: str) -> None:
    harm = HARMS[kind]

    def found() -> list[Found]:
        return [each for each in doctor(overlay_host).bad(harm.check) if harm.text in each.text]

    with Job(overlay_host) as job:
        job.prepare()
        assert not found()
        with broken(overlay_host, harm.script, harm.undo):
            (bad,) = found()
            mend = re.sub("^nspawn-runner ", f"{TOOL} ", bad.mend)
            # A person answers apt's question.
            overlay_host.run(["bash", "-euc", mend], stdin=b"y\n")
            assert not found()


REAL_FIREWALLS = {
    "ufw": ("ufw --force enable", "ufw reload", "ufw --force disable"),
    "firewalld": (
        "systemctl start firewalld; firewall-cmd --reload",
        "firewall-cmd --complete-reload",
        "systemctl stop firewalld",
    ),
}


@pytest.mark.soak
@pytest.mark.parametrize("kind", REAL_FIREWALLS)
def test_real_firewalls(overlay_host: DisposableHost, kind: str) -> None:
    """Each drops what machines send until it is told; its reload changes nothing of our isolation."""
    begin, again, end = REAL_FIREWALLS[kind]
    apt = "export DEBIAN_FRONTEND=noninteractive; nft list ruleset > /root/rules; apt-get update -qq; apt-get"
    # A package may start its service.
    as_before = f"{end}; nft flush ruleset; nft --file /root/rules"
    shell(overlay_host, f"{apt} install -qq -y {kind} >/dev/null 2>&1; {as_before}")
    clean = f"{as_before}; rm /root/rules; apt-get purge -qq -y {kind} >/dev/null 2>&1"
    out = "timeout 5 bash -c 'exec 3<>/dev/tcp/deb.debian.org/80'"
    gateway = "$(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p')"
    to_host = f"timeout 2 bash -c 'exec 3<>/dev/tcp/{gateway}/8765'"
    listener = overlay_host.popen(["python3", "-m", "http.server", "8765"], stdout=subprocess.DEVNULL)
    with Job(overlay_host) as job, contextlib.ExitStack() as stack:
        stack.callback(listener.wait)
        stack.callback(listener.kill)
        stack.callback(shell, overlay_host, clean)
        job.prepare()
        assert (job.script(out).status, job.script(to_host).status) == (0, 91)
        with broken(overlay_host, begin, end):
            assert job.script(out).status != 0
            found = doctor(overlay_host, check="firewall").one("firewall")
            assert f"{kind} drops" in found.text
            shell(overlay_host, found.mend)
            for step in (":", again):
                shell(overlay_host, step)
                assert (job.script(out).status, job.script(to_host).status) == (0, 91)
                assert not {"firewall", "ports", "address translation"} & doctor(overlay_host).bad_checks()
