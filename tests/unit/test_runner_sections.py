"""Sections of config.toml: what is added and removed, and that nothing else changes."""

import tomllib

import pytest
import toml

from nspawn_runner.errors import HostError
from nspawn_runner.gitlab import config_toml
from nspawn_runner.installation import runner_sections

OURS = config_toml.section(config_toml.Runner("/usr/bin/nspawn-runner", "/var/lib/nspawn-runner", token="glrt-1"))
OTHER = """# by hand
concurrent = 3   # three

[session_server]
  session_timeout = 1800

[[runners]]
  name = "shell"
  token = 'glrt-0'
  executor = "shell"
  [runners.cache]
    MaxUploadedArchiveSize = 0
  [[runners.machines]]
    x = 1
"""
SERVER_BEHIND = '\n[log]\nlevel = "[[runners]]"\n'


@pytest.mark.parametrize("before", [OTHER, "concurrent = 1", OTHER + SERVER_BEHIND, 'listen_address = ":9252"\n'])
def test_what_was_added_is_removed_to_the_byte(before: str) -> None:
    text = runner_sections.added(before, OURS)
    assert text.startswith(before)
    number = len(runner_sections.runners(text)) - 1
    assert runner_sections.is_ours(runner_sections.runners(text)[number])
    left = runner_sections.without(text, number, path="config.toml")
    assert left == before.rstrip("\n") + "\n"


def test_one_between_others_and_as_gitlab_runner_writes_it() -> None:
    text = runner_sections.added(runner_sections.added(OTHER, OURS), OTHER.partition("\n[[")[2].join(["[[", ""]))
    for form in (text, toml.dumps(tomllib.loads(text))):
        left = runner_sections.without(form, 1, path="config.toml")
        assert [each["name"] for each in runner_sections.runners(left)] == ["shell", "shell"]
        assert tomllib.loads(left)["concurrent"] == 3


@pytest.mark.parametrize(
    "text",
    [
        'runners = [{name = "x", custom = {run_exec = "/usr/bin/nspawn-runner"}}]\n',
        'a = """\n[[runners]]\n"""\n[[runners]]\nname = "x"\n[runners.custom]\nrun_exec = "nspawn-runner"\n',
    ],
)
def test_what_cannot_be_told_apart_is_left_alone(text: str) -> None:
    with pytest.raises(HostError) as refused:
        runner_sections.without(text, 0, path="config.toml")
    assert "config.toml" in refused.value.what


def test_tokens_are_not_shown() -> None:
    shown = runner_sections.masked(OTHER + OURS)
    assert "glrt" not in shown
    assert tomllib.loads(shown.replace("…", '""'))["concurrent"] == 3
