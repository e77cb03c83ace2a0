"""What playbooks say of images: found, read with their lines, and all mistakes told at once."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nspawn_runner.errors import HostError
from nspawn_runner.images import spec
from nspawn_runner.images.ansible import playbooks
from nspawn_runner.images.ansible.playbooks import Playbook
from nspawn_runner.images.build.suite_source import SuiteSource

HEAD = "- hosts: all\n  vars:\n"


@pytest.fixture(autouse=True)
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that we made count as root's, whoever runs the tests."""
    monkeypatch.setattr(playbooks, "OWNER", os.getuid())


def write(folder: Path, text: str, name: str = "web.yaml") -> Playbook:
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    path = folder / name
    path.write_text(text)
    path.chmod(0o644)
    return Playbook(path.stem, str(path))


def no_problems(_: Mapping[str, Any]) -> list[str]:
    return []


def read(tmp_path: Path, *lines: str) -> spec.Spec:
    problems: list[str] = []
    made = spec.read(write(tmp_path / "p", HEAD + "".join(f"    {line}\n" for line in lines)), problems, no_problems)
    assert problems == []
    return made


def problems_of(tmp_path: Path, *lines: str) -> list[str]:
    problems: list[str] = []
    playbook = write(tmp_path / "p", HEAD + "".join(f"    {line}\n" for line in lines))
    spec.read(playbook, problems, no_problems)
    return [line.removeprefix(f"{playbook.path}:") for line in problems]


def test_an_image_without_variables_is_the_suite_of_its_name(tmp_path: Path) -> None:
    problems: list[str] = []
    made = spec.read(write(tmp_path / "p", "- hosts: all\n  tasks: []\n", "sid.yml"), problems, no_problems)
    assert (made.source.suite, made.keep, made.aliases, problems) == ("sid", 3, (), [])


def test_reads_every_variable(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/keys.gpg").write_bytes(b"keys")
    made = read(
        tmp_path,
        "nspawn_runner_chroot_suite: trixie",
        "nspawn_runner_chroot_mirror: http://mirror.example/debian",
        "nspawn_runner_chroot_keyring: keys.gpg",
        "nspawn_runner_chroot_variant: buildd",
        "nspawn_runner_chroot_arch: arm64",
        "nspawn_runner_chroot_packages: [nginx, g++]",
        "nspawn_runner_chroot_components: [main, contrib]",
        "nspawn_runner_chroot_builder: debootstrap",
        "nspawn_runner_maint_recreate: yes",
        "nspawn_runner_maint_boot: true",
        "nspawn_runner_maint_smoke_test: |",
        "  nginx -t",
        "  docker --format '{{.ID}}'",
        "nspawn_runner_maint_keep: 5",
        "nspawn_runner_maint_max_age: 2w",
        "nspawn_runner_aliases: [stable, '13']",
        "other: {{ nothing of ours }}",
    )
    source = made.source
    assert source[:4] == ("trixie", "http://mirror.example/debian", "buildd", "arm64")
    assert (source.packages, source.components) == (("nginx", "g++"), ("main", "contrib"))
    assert source.keyring == str(tmp_path / "p/keys.gpg")
    assert (made.builder, made.recreate, made.boot, made.keep) == ("debootstrap", True, True, 5)
    assert made.smoke_test == "nginx -t\ndocker --format '{{.ID}}'\n"
    assert (made.max_age_seconds, made.aliases) == (14 * 86400, ("stable", "13"))


def test_names_of_the_predecessor_work(tmp_path: Path) -> None:
    made = read(tmp_path, "nspawn_runner_chroot_suite: buster", "nspawn_runner_maint_recreate: true")
    assert (made.source.suite, made.recreate) == ("buster", True)


def test_only_the_first_play_counts_and_tags_of_ansible_do_no_harm(tmp_path: Path) -> None:
    text = (
        "- hosts: all\n  vars: {nspawn_runner_chroot_suite: sid}\n  tasks: []\n"
        "- hosts: all\n  vars: {nspawn_runner_chroot_suite: 7, secret: !vault x, raw: !unsafe '{{'}\n"
    )
    problems: list[str] = []
    assert spec.read(write(tmp_path / "p", text), problems, no_problems).source.suite == "sid"
    assert problems == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("nspawn_runner_chroot_siute: sid", "no such variable; nspawn_runner_chroot_suite is meant?"),
        ("nspawn_runner_chroot_suite: 12", "must be a text"),
        ("nspawn_runner_chroot_suite: Sid", "'Sid' is not a suite such as bookworm"),
        ("nspawn_runner_chroot_suite: '{{ suite }}'", "must be plain: templates are not read here"),
        ("nspawn_runner_chroot_suite: !vault abc", "must be a text"),
        ("nspawn_runner_chroot_suite:", "must be a text"),
        ("nspawn_runner_chroot_mirror: mirror.example", "is not an address such as http://mirror.example/debian"),
        ("nspawn_runner_chroot_packages: nginx", "must be a list of texts"),
        ("nspawn_runner_chroot_packages: [nginx, --evil]", "'--evil' is not the name of a package"),
        ("nspawn_runner_chroot_keyring: no.gpg", "there is no file"),
        ("nspawn_runner_chroot_builder: pacstrap", "must be mmdebstrap or debootstrap"),
        ("nspawn_runner_chroot_command: [pacstrap]", "needs {root}, the folder to fill"),
        ("nspawn_runner_chroot_extends: ../etc", "must be the name of an image"),
        ("nspawn_runner_maint_recreate: often", "must be true or false"),
        ("nspawn_runner_maint_keep: 1", "must be a whole number from 2 on"),
        ("nspawn_runner_maint_keep: true", "must be a whole number from 2 on"),
        ("nspawn_runner_maint_max_age: soon", 'must be an age such as "12h"'),
        ("nspawn_runner_maint_max_age: '30'", 'must be an age such as "12h"'),
        ("nspawn_runner_aliases: [ok, .no]", "must be a list of names"),
        ("nspawn_runner_run_cpu_weight: much", "must be a whole number"),
    ],
)
def test_tells_what_is_wrong_and_where(tmp_path: Path, line: str, told: str) -> None:
    [problem] = problems_of(tmp_path, "other: 1", line)
    assert problem.startswith(f"4: {line.partition(':')[0]}: ")
    assert told in problem


def test_where_tasks_run_is_not_the_playbooks_to_say(tmp_path: Path) -> None:
    [problem] = problems_of(tmp_path, "ansible_connection: local")
    assert problem == "3: ansible_connection: where tasks run is the inventory's to say"


def test_tells_all_mistakes_at_once(tmp_path: Path) -> None:
    found = problems_of(tmp_path, "nspawn_runner_chroot_suite: 1", "nspawn_runner_x: 2", "nspawn_runner_maint_boot: 3")
    assert [problem.partition(":")[0] for problem in found] == ["3", "4", "5"]


def test_what_it_begins_as_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/tree.tar").write_bytes(b"tar")
    lines = ("chroot_tarball: tree.tar", "chroot_extends: base", "chroot_packages: [git]", "chroot_suite: sid")
    found = problems_of(tmp_path, *(f"nspawn_runner_{line}" for line in lines))
    assert [problem.partition(":")[0] for problem in found] == ["4", "5"]
    assert all("has no meaning beside nspawn_runner_chroot_" in problem for problem in found)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ":1: a playbook is a list of plays"),
        ("hosts: all\n", ":1: a playbook is a list of plays"),
        ("- hosts: all\n  vars: [\n", ":3: not valid YAML"),
        ("- hosts: all\n  vars: text\n", ":2: vars must be a mapping"),
        ("- text\n", ":1: a playbook is a list of plays"),
        ("- name: a.collection\n", ":1: a playbook is a list of plays"),
        ("- hosts: all\n  vars: {<<: 5}\n", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        ("- hosts: \x07\n", "not valid YAML"),
    ],
)
def test_refuses_what_is_no_playbook(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(HostError) as caught:
        playbooks.variables(write(tmp_path / "p", text))
    assert told in str(caught.value)


@pytest.mark.parametrize(("folder_mode", "file_mode"), [(0o755, 0o664), (0o777, 0o644)])
def test_refuses_what_others_may_write(tmp_path: Path, folder_mode: int, file_mode: int) -> None:
    playbook = write(tmp_path / "p", "[]")
    (tmp_path / "p/web.yaml").chmod(file_mode)
    (tmp_path / "p").chmod(folder_mode)
    with pytest.raises(HostError, match="can be written by others than root"):
        playbooks.variables(playbook)


def test_the_first_of_a_name_wins_and_the_other_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playbooks, "FOLDER", str(tmp_path / "etc"))
    for path in ("etc/a.yml", "etc/a.yaml", "state/a.yaml", "state/b.yml", "etc/.h.yml"):
        write(tmp_path / os.path.dirname(path), "[]", os.path.basename(path))
    write(tmp_path / "etc", "[]", "no name.yml")
    found, notes = playbooks.find_all(str(tmp_path / "state"))
    assert [each.path for each in found.values()] == [str(tmp_path / "etc/a.yaml"), str(tmp_path / "state/b.yml")]
    assert len(notes) == 3


def test_parents_come_first() -> None:
    assert playbooks.in_order({"a": "c", "b": "", "c": "b", "d": "elsewhere"}) == ["b", "c", "a", "d"]


def test_images_cannot_be_each_others_parents() -> None:
    with pytest.raises(HostError, match="a extends b extends a"):
        playbooks.in_order({"a": "b", "b": "a"})


def test_a_digest_tells_what_an_image_begins_as(tmp_path: Path) -> None:
    plain = read(tmp_path)
    smoke = read(tmp_path, "nspawn_runner_maint_smoke_test: id")
    suite = read(tmp_path, "nspawn_runner_chroot_suite: sid")
    assert plain.base_digest == smoke.base_digest != suite.base_digest
    assert len({plain.digest, smoke.digest, suite.digest}) == 3


def test_digest_is_what_it_was_in_the_first_version() -> None:
    made = spec.Spec("web", "/web.yaml", source=SuiteSource("trixie", packages=("a", "b")))
    assert made.digest == "c4453633a03a011f"
