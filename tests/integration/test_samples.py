# ruff: noqa: S607
"""The samples in playbooks/ become images whose machines run; the role in examples/ansible-role is tested in one."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from abilities import require_host
from by_hand import TOOL, Job
from debian_tree import apt_settings
from disposable_host import CHECKOUT, DisposableHost

PLAYBOOKS = "/etc/nspawn-runner"
ROLE = CHECKOUT / "examples/ansible-role"
SAMPLES = ("bookworm", "trixie")
LONG = ("ansible", "sid", "toolchain")
IN_SOAK = [pytest.param(image, marks=pytest.mark.soak) for image in (*LONG, "unstable")]
OTHERS = ("fedora", "noble")
UPGRADE = "Upgrade all packages"
SECONDS = 900
Row = dict[str, Any]

# Its trees reach the mirrors as this machine does (where a mirror stands still, sid is expired), and their dpkg
# does not wait for the disk.
BUILDER = '#!/bin/sh\nexec /usr/bin/mmdebstrap {} "$@"\n'
IMPATIENT = """--customize-hook='echo force-unsafe-io > "$1/etc/dpkg/dpkg.cfg.d/impatient"'"""


@pytest.fixture(scope="module")
def host() -> Iterator[DisposableHost]:
    """A host without any image. Not bookworm: the systemd of sid does not start beside version 1 cgroups."""
    require_host()
    with DisposableHost(suite="trixie", state="btrfs") as host:
        builder = host.path("/usr/local/bin/mmdebstrap")
        options = [*(f"--aptopt='{setting}'" for setting in apt_settings()), IMPATIENT]
        builder.write_text(BUILDER.format(" ".join(options)))
        builder.chmod(0o755)
        yield host


@pytest.fixture(scope="module")
def samples(soak: bool) -> list[str]:
    """The samples that become images here."""
    return [*SAMPLES, *LONG] if soak else [*SAMPLES]


@pytest.fixture(scope="module")
def created(host: DisposableHost, samples: list[str]) -> dict[str, Row]:
    """What maintenance made of the samples, by image."""
    install(host, *samples)
    return maintained(host)


def install(host: DisposableHost, *samples: str) -> None:
    host.run(["rm", "-rf", PLAYBOOKS])
    host.run(["install", "-D", "--mode=644", f"--target-directory={PLAYBOOKS}", *map(sample, samples)])


def sample(name: str) -> Path:
    return CHECKOUT / f"playbooks/{name}.yaml"


def maintained(host: DisposableHost, *options: str) -> dict[str, Row]:
    done = host.run([TOOL, "chroot-maintenance", "--json", *options], check=False, timeout=SECONDS)
    assert done.returncode == 0, done.stderr.decode()
    return {row["image"]: row for row in json.loads(done.stdout)}


def changed_tasks(host: DisposableHost, row: Row) -> set[str]:
    """Give the names of the tasks that changed something, as Ansible's output in the log says."""
    changed, task = set(), ""
    for line in host.path(row["log"]).read_text().splitlines():
        if begun := re.match(r"TASK \[(.*)\]", line):
            task = begun[1]
        elif line.startswith("changed: ["):
            changed.add(task)
    return changed


def test_no_sample_is_left_out() -> None:
    assert sorted(path.name for path in (CHECKOUT / "playbooks").glob("*.yaml")) == sorted(
        f"{name}.yaml" for name in (*SAMPLES, *LONG, *OTHERS)
    )


def test_a_sample_that_is_not_tested_says_so() -> None:
    for name in OTHERS:
        head = sample(name).read_text().partition("---")[0]
        assert re.search("not tested", head, re.IGNORECASE)


def test_all_samples_can_be_read(host: DisposableHost) -> None:
    install(host, *SAMPLES, *LONG, *OTHERS)
    rows = maintained(host, "--dry-run")
    assert {name: row["result"] for name, row in rows.items()} == dict.fromkeys([*SAMPLES, *LONG, *OTHERS], "created")


def test_each_becomes_an_image(created: dict[str, Row], samples: list[str]) -> None:
    assert {name: row["result"] for name, row in created.items()} == dict.fromkeys(samples, "created")


@pytest.mark.parametrize("image", [*SAMPLES, "debian-12", *IN_SOAK])
def test_its_machines_run(host: DisposableHost, created: dict[str, Row], image: str) -> None:
    with Job(host) as job:
        job.prepare(image)
        assert job.output("systemctl is-system-running --wait") == "running\n"
        assert job.output("systemctl list-units --failed --no-legend") == ""
        assert job.output("find /var/cache/apt /var/lib/apt/lists -type f ! -empty") == ""


def test_the_next_maintenance_does_nothing_but_upgrades(
    host: DisposableHost, created: dict[str, Row], samples: list[str]
) -> None:
    rows = maintained(host)
    assert sorted(rows) == sorted(samples)
    for row in rows.values():
        if row["result"] == "made anew":
            assert rows["trixie"]["result"] == "updated", row
        else:
            assert changed_tasks(host, row) <= {UPGRADE}
            assert row["result"] == ("updated" if row["changed"] else "unchanged"), row


def copied_role(host: DisposableHost, name: str) -> str:
    """Copy the example to a folder that is in no repository and return its path in the host."""
    folder = f"/root/{name}"
    subprocess.run(["cp", "--recursive", ROLE, host.path(folder)], check=True)
    return folder


class Roles(dict[str, tuple[int, str]]):
    """How the job ended and what its log says, for the role as it is and for two that are wrong."""


@pytest.fixture(scope="module")
def roles(host: DisposableHost, created: dict[str, Row]) -> Roles:
    """The three jobs, at the same time."""
    folders = {name: copied_role(host, name) for name in ("good", "broken", "restless")}
    tasks = host.path(f"{folders['restless']}/roles/web/tasks/main.yml")
    restless = "\n- name: Look at the clock\n  ansible.builtin.command: date\n  changed_when: true\n"
    tasks.write_text(tasks.read_text() + restless)
    options = {"broken": ["--variable", "WEB_PORT=99999"]}
    running = {
        name: host.popen(
            [TOOL, "exec", "role", *options.get(name, [])], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for name, folder in folders.items()
    }
    logs = {name: job.communicate(timeout=SECONDS)[0].decode() for name, job in running.items()}
    return Roles({name: (running[name].returncode, log) for name, log in logs.items()})


@pytest.mark.soak
def test_a_good_role_passes(roles: Roles) -> None:
    status, log = roles["good"]
    assert status == 0, log
    assert "0 failure(s), 0 warning(s)" in log
    recaps = re.findall(r"^localhost .* changed=(\d+) .* failed=(\d+)", log, re.MULTILINE)
    assert recaps == [("3", "0"), ("0", "0"), ("0", "0")]
    assert "PLAY [Check what the role promises]" in log
    assert "The journal of" not in log


@pytest.mark.soak
def test_the_journal_tells_what_is_wrong_with_a_role(roles: Roles) -> None:
    status, log = roles["broken"]
    assert status != 0, log
    _, found, journal = log.partition("The journal of nginx.service:\n")
    assert found, log
    assert 'invalid port in "99999" of the "listen" directive' in journal
    assert "Failed to start nginx.service" in journal
    assert len(journal.splitlines()) < 40


@pytest.mark.soak
def test_a_role_that_changes_something_each_time_fails(roles: Roles) -> None:
    status, log = roles["restless"]
    assert status != 0, log
    assert "the second run changed something" in log
    assert "PLAY [Check what the role promises]" not in log
