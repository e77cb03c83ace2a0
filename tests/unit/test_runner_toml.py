"""The section for gitlab-runner's config.toml, read back."""

import tomllib
from pathlib import Path

import pytest

from nspawn_runner.commands.runner_toml import tool_path
from nspawn_runner.gitlab.config_toml import Runner, section

TOOL = Runner(tool="/usr/bin/nspawn-runner", state_folder="/var/lib/nspawn-runner")


def test_what_is_given_comes_back_unharmed() -> None:
    awkward = 'a "b" \\ c # d \t é'
    text = section(TOOL._replace(name=awkward, url="https://git.example/?a=b", token="t'o\"k", limit=3, concurrent=7))
    parsed = tomllib.loads(text)
    assert parsed["concurrent"] == 7
    [runner] = parsed["runners"]
    assert (runner["name"], runner["url"]) == (awkward, "https://git.example/?a=b")
    assert (runner["token"], runner["limit"]) == ("t'o\"k", 3)


def test_a_token_is_never_made_up() -> None:
    text = section(TOOL)
    assert "token" not in tomllib.loads(text)["runners"][0]
    assert "\n# token =" in text


def test_every_stage_calls_the_tool() -> None:
    text = section(TOOL._replace(default_image="bookworm", config_file="/a b.toml"))
    custom = tomllib.loads(text)["runners"][0]["custom"]
    for stage in ("config", "prepare", "run", "cleanup"):
        assert custom[f"{stage}_exec"] == TOOL.tool
        assert custom[f"{stage}_args"][:3] == ["--config", "/a b.toml", stage]
    for stage in ("config", "prepare"):
        assert custom[f"{stage}_args"][3:] == ["--default-image", "bookworm"]


def test_a_stopped_script_ends_before_the_clean_up_starts() -> None:
    runner = tomllib.loads(section(TOOL))["runners"][0]
    assert runner["executor"] == "custom"
    assert runner["custom"]["graceful_kill_timeout"] + runner["custom"]["force_kill_timeout"] < 300


def test_the_tool_is_named_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nspawn-runner"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tool_path("./nspawn-runner") == tool_path("nspawn-runner") == str(program)
