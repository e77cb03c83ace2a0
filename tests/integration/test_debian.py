"""A machine is what people call a Debian system: sessions, names, settings of the kernel, and what a job installs."""

import subprocess
from collections.abc import Iterator

import pytest
from by_hand import Job
from debian_tree import debian_tree
from disposable_host import CHECKOUT, STATE_FOLDER, DisposableHost

from nspawn_runner.images.build import identity
from nspawn_runner.images.build.suite_source import SuiteSource

PING = "router=$(ip route show default | cut -d ' ' -f 3 | head -n 1); ping -c 1 -W 5 -q $router"
NETWORK_WORKS = f"{PING} >/dev/null && getent hosts deb.debian.org >/dev/null && echo works"
INSTALL = "export DEBIAN_FRONTEND=noninteractive; apt-get update -qq; apt-get install -qq --yes >/dev/null 2>&1"
# Per package: the unit it brings, which is to be active in the end.
INSTALLED = {"systemd-resolved": "systemd-resolved", "network-manager": "NetworkManager", "resolvconf": "resolvconf"}


@pytest.fixture(scope="module", params=["bookworm on btrfs_host", "trixie on trixie_host"])
def debian(request: pytest.FixtureRequest) -> Iterator[tuple[DisposableHost, str]]:
    """A host and its image, with all that chroot-create does but for calling mmdebstrap."""
    suite, _, name = request.param.split()
    host: DisposableHost = request.getfixturevalue(name)
    root, image = f"{STATE_FOLDER}/debian-{suite}", f"debian-{suite}"
    host.run(["btrfs", "subvolume", "create", root] if host.state == "btrfs" else ["mkdir", root])
    tree = debian_tree("system", suite, ",".join(SuiteSource(suite).all_packages))
    subprocess.run(["cp", "--archive", f"{tree}/.", host.path(root)], check=True)  # noqa: S607
    identity.clean_up(str(host.path(root)), image)
    yield host, image
    host.run(["btrfs", "subvolume", "delete", root] if host.state == "btrfs" else ["rm", "--recursive", root])


@pytest.fixture
def job(debian: tuple[DisposableHost, str]) -> Iterator[Job]:
    host, image = debian
    with Job(host) as job:
        job.prepare(image)
        yield job


def test_users_have_sessions_and_a_bus(job: Job) -> None:
    assert (
        job.output("useradd --create-home joe; loginctl enable-linger joe; loginctl show-user joe -p Linger --value")
        == "yes\n"
    )
    asked = "echo $XDG_RUNTIME_DIR; systemctl --user is-system-running --wait; busctl --user call"
    bus = "org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus GetId | cut -c 1-3"
    assert job.output(f"su - joe -c '{asked} {bus}'").splitlines() == ["/run/user/1000", "running", 's "']
    unit = "systemd-run --quiet --wait --pipe --property=DynamicUser=yes --unit=made-up"
    assert job.output(f"{unit} sh -c 'getent passwd $(id -u)' | cut -d : -f 1") == "made-up\n"


def test_any_user_can_ping(job: Job) -> None:
    job.output("useradd joe; su joe -c 'ping -c 1 -W 5 -q 127.0.0.1'")


def test_a_tree_has_the_name_of_its_image(debian: tuple[DisposableHost, str]) -> None:
    host, image = debian
    assert host.path(f"{STATE_FOLDER}/{image}/etc/hostname").read_text() == f"{image}\n"
    tool = f"{CHECKOUT}/nspawn-runner"
    host.run([tool, "chroot-clone", image, "other.name"])
    try:
        assert host.run([tool, "chroot-login", "other.name", "--", "cat", "/etc/hostname"]).stdout == b"other-name\n"
    finally:
        host.run([tool, "chroot-remove", "other.name"])


def test_it_has_a_name_and_an_id_of_its_own(job: Job) -> None:
    said = job.output(
        "cat /etc/hostname; hostname; cat /etc/machine-id; systemctl is-system-running --wait"
    ).splitlines()
    assert said[:2] == [job.machine, job.machine]
    assert (len(said[2]), said[3]) == (32, "running")
    job.output(
        "apt-get update -qq; apt-get install -qq systemd-timesyncd >/dev/null 2>&1; hostnamectl set-hostname other"
    )
    assert job.output("cat /etc/hostname") == "other\n"
    job.script("systemctl reboot; sleep 60")
    assert job.output("cat /etc/hostname; hostname; stat -c %U:%a /etc /etc/hostname") == (
        "other\nother\nroot:755\nroot:644\n"
    )


def test_a_machine_in_memory_has_its_own_name(debian: tuple[DisposableHost, str]) -> None:
    host, image = debian
    with Job(host, settings='backend = "tmpfs"\n') as job:
        job.prepare(image)
        assert job.output("cat /etc/hostname; locale 2>&1 | grep ^LANG=") == f"{job.machine}\nLANG=C.UTF-8\n"


def test_settings_of_the_kernel_are_those_that_a_debian_sets(job: Job) -> None:
    """Of its own namespaces: the rest is the host's."""
    read = "/usr/lib/systemd/systemd-sysctl --cat-config | grep -v '^[#;]' | grep ="
    differs = """while IFS='=' read -r key value; do
        file=/proc/sys/$(echo "$key" | tr -d ' -' | tr . /); value=$(echo $value)
        case $file in /proc/sys/net/*) ;; *) continue;; esac
        if [ -w "$file" ] && [ "$(echo $(cat "$file"))" != "$value" ]; then echo "$key: $(echo $(cat "$file"))"; fi
    done"""
    wrong = job.output(f"{read} | {differs}").splitlines()
    # All groups that a machine has: the kernel refuses others.
    assert [line for line in wrong if "net.ipv4.ping_group_range" not in line] == []


@pytest.mark.parametrize("package", INSTALLED)
def test_what_a_job_installs_for_the_network_works(job: Job, package: str) -> None:
    unit = INSTALLED[package]
    job.output(f"{INSTALL.replace('--yes', f'--yes {package}')}; systemctl is-active {unit}")
    for _ in range(2):
        assert job.output(NETWORK_WORKS) == "works\n"
        job.output(f"systemctl daemon-reload; systemctl restart {unit}")
    assert job.output("systemctl is-system-running --wait") == "running\n"


def test_networkd_takes_over_what_is_there(job: Job) -> None:
    job.output(
        "systemctl enable --now systemd-networkd 2>/dev/null; /lib/systemd/systemd-networkd-wait-online --timeout=20"
    )
    assert job.output(NETWORK_WORKS) == "works\n"
    job.output("systemctl restart systemd-networkd; /lib/systemd/systemd-networkd-wait-online --timeout=20")
    assert job.output(NETWORK_WORKS) == "works\n"


def test_what_an_image_starts_by_itself_sleeps_until_it_is_wanted(debian: tuple[DisposableHost, str]) -> None:
    host, image = debian
    units = ["systemd-networkd.service", "systemd-networkd.socket", "apt-daily.timer"]
    tree = f"{STATE_FOLDER}/{image}"
    host.run(["systemctl", f"--root={tree}", "enable", *units])
    try:
        with Job(host) as job:
            job.prepare(image)
            states = job.script(f"systemctl is-active {' '.join(units)}; true")
            assert states.out.split() == [b"inactive"] * 3
            refused = job.script("systemctl start systemd-networkd")
            assert b"masked" in refused.err
            job.output("systemctl unmask systemd-networkd; systemctl start systemd-networkd apt-daily.timer")
            assert job.output(NETWORK_WORKS) == "works\n"
            job.output("systemctl daemon-reload; systemctl is-active systemd-networkd apt-daily.timer")
    finally:
        host.run(["systemctl", f"--root={tree}", "disable", *units])
