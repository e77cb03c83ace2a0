"""What an image says of its machines, over the settings of the host."""

import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from nspawn_runner.commands import config
from nspawn_runner.errors import HostError
from nspawn_runner.images.ansible import playbooks, specs
from nspawn_runner.images.store import Image
from nspawn_runner.jobs import job_image
from nspawn_runner.jobs.accounting import StageEntry
from nspawn_runner.settings.machine_settings import for_machines, problems_of
from nspawn_runner.settings.parse import parse
from nspawn_runner.settings.tables import Limits, Settings

ALL: dict[str, Any] = {
    "profile": "nesting",
    "shell": "/bin/sh",
    "user": "ci",
    "network": "none",
    "memory_max": "2G",
    "cpu_weight": 7,
    "tasks_max": 100,
    "backend": "tmpfs",
}
FILE = b"""
user = "somebody"
state_folder = "/srv/ci"
limits = { memory_max = "1G", tasks_max = 70 }
network = { mode = "host" }
"""


def test_the_image_stands_over_the_file_over_the_defaults() -> None:
    file = parse(FILE, "file")
    assert (file.user, file.network.mode, file.limits.cpu_weight) == ("somebody", "host", 50)
    changed = for_machines(file, {"memory_max": "2G", "user": ""}, "web")
    assert changed == for_machines(file)._replace(user="", limits=file.limits._replace(memory_max="2G"))
    changed = for_machines(file, ALL, "web")
    assert (changed.shell, changed.user, changed.network.mode, changed.backend) == ("/bin/sh", "ci", "none", "tmpfs")
    assert changed.limits == Limits(cpu_weight=7, memory_max="2G", tasks_max=100)
    assert changed.network.bridge == "nspr0"


@pytest.mark.parametrize("nothing", [None, {}])
def test_an_image_may_say_nothing(nothing: object) -> None:
    assert for_machines(Settings(), nothing, "web") == for_machines(Settings())


WRONG = [
    ("profile", "a b"), ("profile", "nonesuch"), ("profile", ["nesting"]),
    ("shell", "bash"), ("shell", "/bin/sh -x"), ("user", "-x"), ("user", "a b"), ("user", "1000"), ("user", "x" * 32),
    ("user", "ci\n"), ("user", None), ("network", "bridge"), ("network", ["none"]), ("network", {"mode": "none"}),
    ("memory_max", "lots"), ("memory_max", 4), ("cpu_weight", 0), ("cpu_weight", True), ("cpu_weight", "50"),
    ("tasks_max", 1), ("tasks_max", 100.0), ("backend", "zfs"), ("state_folder", "/srv"), ("network.mode", "none"),
    ("", ""),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_what_is_wrong_is_named(key: str, value: object) -> None:
    [problem] = problems_of({**ALL, key: value}, {})
    assert problem.startswith(f"{key}: ")
    with pytest.raises(HostError) as caught:
        for_machines(Settings(), {**ALL, key: value}, "web")
    assert "web" in caught.value.what
    assert caught.value.facts == problem


def test_all_that_is_wrong_is_named() -> None:
    assert len(problems_of(dict(WRONG), {})) == len(dict(WRONG))
    assert problems_of(ALL, {}) == []


@pytest.mark.parametrize("value", ["none", [], 3, ["shell"], False])
def test_no_table_is_wrong(value: object) -> None:
    assert problems_of(value, {}) == ["must be a table"]


@pytest.fixture
def state(tmp_path: Path) -> Settings:
    """A state folder with an image `web` whose generation says which shell its machines have."""
    generation = tmp_path / ".generations/web/20260101T000000Z"
    generation.mkdir(parents=True)
    (tmp_path / "web").symlink_to(generation.relative_to(tmp_path))
    Path(f"{generation}.json").write_text(json.dumps({"run": {"shell": "/bin/sh"}}))
    return Settings(state_folder=str(tmp_path))


def test_what_is_said_is_the_generations(state: Settings) -> None:
    image = job_image.find("web", state)
    assert job_image.settings_of(image, state) == for_machines(state)._replace(shell="/bin/sh")  # noqa: S604
    assert job_image.settings_of(Image("plain", "", f"{state.state_folder}/plain"), state) == for_machines(state)


@pytest.mark.parametrize(
    ("default", "wrong", "shell"),
    [("web", False, "sh"), ("x", False, "bash"), (None, False, "bash"), ("web", True, "bash")],
)
def test_gitlab_runner_is_told_the_shell_of_the_image(
    state: Settings, capsys: pytest.CaptureFixture[str], default: str | None, wrong: bool, shell: str
) -> None:
    if wrong:  # which is for prepare to tell
        Path(f"{job_image.find('web', state).root}.json").write_text(json.dumps({"run": {"shell": "sh"}}))
    assert config.main(Namespace(id="1", default_image=default, entry=StageEntry("config")), state) == 0
    assert json.loads(capsys.readouterr().out)["shell"] == shell


def test_playbooks_are_read_with_the_same_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(playbooks, "OWNER", os.getuid())
    monkeypatch.setattr(playbooks, "FOLDER", str(tmp_path / "none"))
    said = {"run_user": "a b", "run_memory_max": "2G", "run_network": "bridge", "run_tasks_max": 3, "run_profile": "x"}
    lines = [f"    nspawn_runner_{name}: {value}\n" for name, value in said.items()]
    (tmp_path / "web.yaml").write_text("- hosts: all\n  vars:\n" + "".join(lines))
    (tmp_path / "web.yaml").chmod(0o644)
    with pytest.raises(HostError, match="4 things are wrong"):
        specs.read(Settings(state_folder=str(tmp_path)))
    told = capsys.readouterr().err
    for line, name in ((3, "run_user"), (5, "run_network"), (6, "run_tasks_max")):
        assert f"/web.yaml:{line}: nspawn_runner_{name}: must be " in told
    assert "/web.yaml:7: nspawn_runner_run_profile: there is no profile x (there are default, nesting, trusted)" in told
