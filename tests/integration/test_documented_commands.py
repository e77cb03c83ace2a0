"""Every command that README, docs, examples and help texts show does what it says, as it stands there.

They are read out of the documents (documented.py) and run one after the other on a plain Debian host, as somebody would
who begins with the README: a new command in a document needs no test of its own. What a document takes as given is in
``given``.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from abilities import require_host
from by_hand import Done
from debian_tree import apt_settings
from disposable_host import CHECKOUT, PLAIN_PACKAGES, DisposableHost
from documented import Block, blocks

PLACE = "/opt/nspawn-runner"
FOLDER = "/root/project"
SECONDS = 900

# What is not run here, and why.
ELSEWHERE = {
    "script/test": "it is what runs these tests",
    "script/test tests/unit": "it is what runs these tests",
    "script/test --soak": "it is what runs these tests",
    "script/constraints": "it writes what the tests are to install tomorrow",
    "python3 tests/emulated_host.py": "it needs qemu, and a quarter of an hour",
    "apt install ./nspawn-runner_*.deb": "test_package.py does that",
    "nspawn-runner setup --url https://gitlab.example.com --token-file /root/token": "test_setup.py does that",
    "nspawn-runner setup": "test_setup.py does that",
    "nspawn-runner setup --print": "test_setup.py does that",
    "nspawn-runner setup --undo": "test_setup.py does that",
    "systemctl reboot": "of a job, in its machine",
    "systemctl isolate": "of a job, in its machine",
    "systemctl --user": "of a user, in a machine; test_debian.py calls it",
    "systemctl edit gitlab-runner": "it needs an editor",
    "systemctl restart nftables": "what others do; attacks.py does it",
    "sysctl kernel.modules_disabled=1": "it is for the whole machine and cannot be undone",
    "apt install systemd-resolved": "the network of this host tells it no name servers; test_name_servers.py has it",
    "apt install podman crun netavark iptables": "in an image; test_job_profiles.py does that",
    "install -D --mode=644 --target-directory=/etc/nspawn-runner playbooks/trixie.yaml playbooks/ansible.yaml":
        "it takes minutes; test_samples.py makes these images",
    "nspawn-runner chroot-maintenance ansible": "it takes minutes; test_samples.py makes these images",
    "nspawn-runner exec role": "test_samples.py runs it",
    "sudo nspawn-runner exec 'test: [3.11, pg]'": "test_local_pipeline.py runs a job of a matrix",
    "sudo nspawn-runner exec --pipeline --event merge_request --target main": "the jobs here are in none",
    "sudo nspawn-runner exec --include-map group/ci=$HOME/src/ci --include-map https://example.com=$HOME/src/web":
        "test_includes.py has such folders",
    "nspawn-runner exec role --variable WEB_PORT=99999": "test_samples.py runs it",
    "nspawn-runner chroot-export bookworm - | ssh other 'cat > bookworm.tar'": "it needs another host",
    "nspawn-runner chroot-rollback bookworm 20250601T101500Z": "a generation has another name on each host",
    "nspawn-runner list --watch": "it ends when it is interrupted; test_list.py does that",
    "nspawn-runner toml bookworm > template.toml; gitlab-runner register --template-config template.toml":
        "it needs a GitLab",
}  # fmt: skip
# Another way to do what was done before: on a host of its own, in this order.
OTHER_WAY = (
    "python3 -m venv /opt/nspawn-runner",
    "/opt/nspawn-runner/bin/pip install .",
    "ln -s /opt/nspawn-runner/bin/nspawn-runner /usr/local/bin/nspawn-runner",
)
# These count on what others have made, or take it away: they come last, in this order.
LAST = (
    "script/demo",
    "nspawn-runner chroot-remove bookworm",
    "nspawn-runner uninstall",
    "nspawn-runner uninstall --yes",
    "rm -rf /etc/nspawn-runner /usr/local/bin/nspawn-runner",
)
# The statuses that are no failure besides 0.
FINE = {"nspawn-runner doctor": (1,), "nspawn-runner doctor --job": (1,)}  # 1: a warning

ALL = blocks()
PROJECT = """
test:
  image: bookworm
  script:
    - systemctl is-system-running --wait
    - test "${LEVEL:-1}" = "$(cat level)"
"""
RUNNER = '#!/bin/sh\necho "Version:      17.9.1"\n'
SERVICE = "[Service]\nExecStart=/usr/bin/sleep infinity\nUser=root\n[Install]\nWantedBy=multi-user.target\n"
# As somebody would who answers yes, and whose mirrors are those of this machine.
APT = 'APT::Get::Assume-Yes "true";\n'
BUILDER = '#!/bin/sh\nexec /usr/bin/mmdebstrap {} "$@"\n'
IMPATIENT = """--customize-hook='echo force-unsafe-io > "$1/etc/dpkg/dpkg.cfg.d/impatient"'"""


def in_order() -> list[Block]:
    """Return the blocks without what runs elsewhere, those that come last at the end."""
    left = {*ELSEWHERE, *OTHER_WAY, *LAST}
    kept = [Block(each.document, tuple(line for line in each.commands if line not in left)) for each in ALL]
    return [each for each in kept if each.commands] + [Block("at the end", (line,)) for line in LAST]


def plain(suite: str) -> Iterator[DisposableHost]:
    require_host()
    with DisposableHost(suite="trixie" if suite == "trixie" else "bookworm", packages=PLAIN_PACKAGES) as host:
        host.path("/etc/apt/apt.conf.d/10yes").write_text(APT)
        host.path("/usr/local/bin/mmdebstrap").write_text(
            BUILDER.format(" ".join([*(f"--aptopt='{setting}'" for setting in apt_settings()), IMPATIENT]))
        )
        host.run(["chmod", "755", "/usr/local/bin/mmdebstrap"])
        host.run(["apt-get", "update"])
        yield host


@pytest.fixture(scope="module")
def host() -> Iterator[DisposableHost]:
    """A plain host with the checkout in the README's place, gitlab-runner, and a project."""
    for host in plain("bookworm"):
        copy_checkout(host, PLACE)
        write(host, "/usr/bin/gitlab-runner", RUNNER, mode="755")
        write(host, "/etc/systemd/system/gitlab-runner.service", SERVICE)
        write(host, "/etc/gitlab-runner/config.toml", "concurrent = 4\n", mode="600")
        host.run(["systemctl", "enable", "--now", "gitlab-runner"])
        hello = (CHECKOUT / "examples/hello/.gitlab-ci.yml").read_text()
        write(host, f"{FOLDER}/.gitlab-ci.yml", hello + PROJECT)
        for name, content in {"hello.service": None, "level": "1\n", "script": "id\n"}.items():
            write(host, f"{FOLDER}/{name}", content or (CHECKOUT / "examples/hello" / name).read_text())
        write(host, "/root/playbooks/web.yaml", web_playbook())
        write(host, "/root/playbooks/child.yaml", "- hosts: all\n  vars: {nspawn_runner_chroot_extends: web}\n")
        write(host, "/root/playbooks/bookworm.yaml", "- hosts: all\n  tasks: []\n")
        write(host, f"{FOLDER}/site.yml", "- hosts: all\n  gather_facts: false\n  tasks: [{command: id}]\n")
        yield host


def web_playbook() -> str:
    """Return the playbook that docs/playbooks.md shows."""
    text = (CHECKOUT / "docs/playbooks.md").read_text().partition("    # /etc/nspawn-runner/web.yaml\n")[2]
    return "\n".join(line[4:] for line in text.partition("\nAny valid")[0].splitlines())


def copy_checkout(host: DisposableHost, place: str) -> None:
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=CHECKOUT, capture_output=True, check=True).stdout.split(b"\0")
    for name in {name.decode() for name in names if name}:
        target = host.path(f"{place}/{name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / name, target)


def write(host: DisposableHost, path: str, content: str, *, mode: str = "644") -> None:
    host.path(path).parent.mkdir(parents=True, exist_ok=True)
    host.path(path).write_text(content)
    host.run(["chmod", mode, path])


def given(host: DisposableHost, command: str) -> None:
    """Make what the document takes as given for this command."""
    scripts = {
        "chroot-maintenance": "mkdir -p /etc/nspawn-runner; cp /root/playbooks/* /etc/nspawn-runner",
        "exec": "echo 1 > level; git init -q; git add -A; git -c user.name=a -c user.email=a@example.com commit -qm x",
        "exec test --dirty": "echo 2 > level",
        "--id 4711 bookworm": "nspawn-runner cleanup --id 4711",
        "login 4711": "nspawn-runner cleanup --id 4711; nspawn-runner prepare --id 4711 bookworm",
        "--id 1 ./script": "nspawn-runner prepare --id 1 bookworm",
        "chroot-create web": "rm -rf /etc/nspawn-runner; "
        "nspawn-runner chroot-remove child; nspawn-runner chroot-remove web",
        "chroot-clone bookworm web": "nspawn-runner chroot-remove child; nspawn-runner chroot-remove web",
        "chroot-import web": "mv bookworm.tar.zst web.tar.zst; nspawn-runner chroot-remove web",
        "chroot-import tools": "nspawn-runner chroot-export bookworm layer.tar; "
        """echo '{"rootfs":{"diff_ids":["sha256:'$(sha256sum layer.tar | cut -d " " -f 1)'"]}}' > c.json; """
        """echo '[{"Config":"c.json","RepoTags":["registry.example.com/tools:2"],"Layers":["layer.tar"]}]' """
        "> manifest.json; tar -cf saved.tar manifest.json c.json layer.tar; rm layer.tar",
        "chroot-remove bookworm": "nspawn-runner cleanup --id 1; nspawn-runner cleanup --id 4711",
        "DOCKER-USER -i": "apt-get install -qq iptables; iptables -N DOCKER-USER",
        "ufw route": "apt-get install -qq ufw",
        "firewall-cmd": "apt-get install -qq firewalld",
        # a file system that can be idmapped
        "ansible-playbook": "mkdir -p /var/lib/nspawn-runner/.trees /srv/trees; "
        "mount --bind /var/lib/nspawn-runner/.trees /srv/trees; "
        "cp -a $(readlink -f /var/lib/nspawn-runner/bookworm) /srv/trees/web",
        "uninstall": "nspawn-runner cleanup --id 1; nspawn-runner cleanup --id 4711; umount /srv/trees",
    }  # fmt: skip
    for part, script in scripts.items():
        if f" {part}" in f" {command}":
            host.run(["bash", "-xc", f"{script}"], cwd=FOLDER, check=False, timeout=SECONDS)


def run(host: DisposableHost, script: str, folder: str) -> Done:
    # pip in a virtual environment knows the keys of this machine's mirror as the machine does
    env = {"PIP_CERT": os.environ["PIP_CERT"]} if "PIP_CERT" in os.environ else {}
    done = host.run(["bash", "-euc", script], cwd=folder, env=env, check=False, timeout=SECONDS)
    return Done(done.returncode, done.stdout, done.stderr)


def test_what_runs_elsewhere_still_stands_in_a_document() -> None:
    there = {line for block in ALL for line in block.commands}
    assert [line for line in (*ELSEWHERE, *OTHER_WAY, *LAST) if line not in there] == []


@pytest.mark.soak
@pytest.mark.parametrize("block", in_order(), ids=lambda block: f"{block.document}: {block.commands[0][:60]}")
def test_it_runs_as_it_stands(host: DisposableHost, block: Block) -> None:
    exported = ""
    for command in block.commands:
        if command.startswith("export "):
            exported += f"{command}; "
            continue
        given(host, command)
        of_checkout = any(f" {name}" in f" {command}".replace("./", "") for name in ("packaging/", "docs/", "script/"))
        done = run(host, exported + command, PLACE if of_checkout else FOLDER)
        assert done.status in (0, *FINE.get(command, ())), (command, done.out.decode()[-2000:], done.message[-3000:])


@pytest.mark.soak
def test_the_other_way_to_install_it(tmp_path: Path) -> None:
    for host in plain("trixie"):
        copy_checkout(host, "/root/checkout")
        first = next(line for block in ALL for line in block.commands if line.startswith("apt install --no-install"))
        for command in (first, *OTHER_WAY, "nspawn-runner --version", "nspawn-runner doctor"):
            done = run(host, command, "/root/checkout")
            assert done.status == 0 or command.endswith("doctor"), (command, done.message[-3000:])
            assert "Traceback" not in done.message
        assert b"images: there are none" in done.out
