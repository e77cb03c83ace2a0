"""README.md, the pages in docs and the manual pages say what the code does."""

import argparse
import importlib
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from abilities import require

from nspawn_runner import cli, errors
from nspawn_runner.gitlab import exit_status
from nspawn_runner.host import signals
from nspawn_runner.settings import parse, policy, profiles, schema, tables

CHECKOUT = Path(__file__).parents[2]
SETTINGS = (CHECKOUT / "docs/settings.md").read_text()
COMMANDS = (CHECKOUT / "docs/commands.md").read_text()
PAGE = CHECKOUT / "docs/nspawn-runner.8"
SETTINGS_PAGE = CHECKOUT / "docs/nspawn-runner.toml.5"
GENERATED = sorted((CHECKOUT / "docs/man").glob("*.[1-9]"))
SAMPLE = (CHECKOUT / "docs/nspawn-runner.toml").read_text()


def told_settings() -> dict[str, object]:
    """Give key → default of the table in docs/settings.md, as TOML and JSON both write them."""
    section = SETTINGS.partition("\n## ")[0]
    rows = re.findall(r"^\| `(?:\[(\w+)\] )?(\w+)` \| `(.+?)` \|", section, re.MULTILINE)
    return {f"{table}.{key}" if table else key: json.loads(value) for table, key, value in rows}


def all_settings() -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in tables.Settings()._asdict().items():
        if key in {"images", "environment", "policy", "profiles"}:
            continue
        inner = value._asdict() if hasattr(value, "_asdict") else None
        found |= {key: value} if inner is None else {f"{key}.{name}": default for name, default in inner.items()}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def test_docs_list_every_setting_with_its_default() -> None:
    assert told_settings() == all_settings()


def test_documents_are_as_the_schema_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT / "script"))
    write_docs = importlib.import_module("write_docs")
    assert write_docs.stale() == [], "run script/write_docs.py"


def test_every_setting_is_described_and_checked() -> None:
    described = {setting.key for setting in schema.SETTINGS if setting.help and setting.check}
    assert described == {*all_settings(), "images", "environment"}


def test_sample_in_docs_is_accepted() -> None:
    sample = re.search(r"^For example:\n\n((?:    .*\n|\n)+)", SETTINGS, re.MULTILINE)
    assert sample
    loaded = parse.parse(re.sub(r"^    ", "", sample[1], flags=re.MULTILINE).encode(), "settings.md")
    assert loaded.limits.memory_max == "4G"
    assert loaded.images


def test_policy_in_docs_is_accepted() -> None:
    part = SETTINGS.partition("\n## Which job may use which image\n")[2].partition("\nEvery job")[0]
    assert parse.parse(re.sub(r"^    ", "", part, flags=re.MULTILINE).encode(), "settings.md").policy


def test_settings_page_tells_every_key_with_its_default() -> None:
    table, found, rule = "", {}, set()
    for line in SETTINGS_PAGE.read_text().replace("\\-", "-").splitlines():
        if line.startswith(".S"):
            table = line.partition("[")[2].rstrip("]")
        elif key := re.fullmatch(r"\\fB(\w+)\\fR = (.+)", line):
            found[f"{table}.{key[1]}" if table else key[1]] = json.loads(key[2])
        elif key := re.fullmatch(r"\\fB(\w+)\\fR", line):
            rule.add(key[1])
            assert table == "[policy"
    assert found == all_settings()
    assert rule == set(policy.Rule._fields)


def test_example_of_the_settings_page_is_accepted() -> None:
    example = SETTINGS_PAGE.read_text().partition("\n.nf\n")[2].partition("\n.fi\n")[0].replace("\\-", "-")
    assert parse.parse(example.encode(), "page").policy[0].images == ("release-*",)


def test_sample_of_settings_has_every_default() -> None:
    assert parse.parse(SAMPLE.encode(), "sample") == tables.Settings()
    keys = re.sub(r"^#(?=[\w\[])", "", SAMPLE, flags=re.MULTILINE)
    assert parse.parse(keys.encode(), "sample") == tables.Settings()
    found: dict[str, object] = {}
    for key, value in tomllib.loads(keys).items():
        found |= {f"{key}.{name}": inner for name, inner in value.items()} if isinstance(value, dict) else {key: value}
    assert found == all_settings()


def test_examples_in_the_sample_are_accepted() -> None:
    examples = "\n".join(re.findall(r"^#     (.*)", SAMPLE, re.MULTILINE))
    loaded = parse.parse(examples.encode(), "sample")
    assert len(loaded.policy) == examples.count("[[policy]]") == 2
    assert loaded.images
    assert loaded.environment
    assert loaded.allowed_images == ("bookworm", "trixie*")
    assert loaded.profiles["packages"].system_calls == ("@keyring",)


def test_profiles_are_documented() -> None:
    content = (CHECKOUT / "docs/profiles.md").read_text()
    own = content.partition("\n## Your own\n")[2]
    assert set(re.findall(r"^\| `(\w+)` \|", own, re.MULTILINE)) == set(profiles.Profile._fields)
    assert set(re.findall(r"^\| `(\w+)` \|", content.replace(own, ""), re.MULTILINE)) == set(profiles.BUILT_IN)
    sample = re.sub(r"^    ", "", own.partition("A profile is")[0], flags=re.MULTILINE)
    assert parse.parse(sample.encode(), "profiles.md").profiles["packages"].devices == ("/dev/kvm",)
    page = SETTINGS_PAGE.read_text().partition(".SH PROFILES")[2]
    assert [name for name in profiles.Profile._fields if name not in page] == []


@pytest.mark.parametrize("verb", cli.VERBS)
def test_verbs_are_documented(verb: str) -> None:
    if verb != "gitlab-config":
        assert f"`{verb}" in COMMANDS
    assert verb in PAGE.read_text().replace("\\-", "-")


def test_statuses_on_the_page_are_those_of_errors() -> None:
    section = PAGE.read_text().partition("\n.SH EXIT STATUS\n")[2].partition("\nThe stages that")[0]
    told = {
        int(number) for line in re.findall(r"^\.BR? (.*)", section, re.MULTILINE) for number in re.findall(r"\d+", line)
    }
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Error)]
    assert len(kinds) > 4
    ours = {exit_status.of_error(kind("a mistake"), {}) for kind in kinds}
    assert told == {0, *ours, *(128 + number for number in signals.ASKING)}


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (CHECKOUT / "docs").glob("*.md"))])
def test_files_that_are_linked_to_are_there(page: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)]+)\)", (CHECKOUT / page).read_text())
    assert links or page != "README.md"
    assert [link for link in links if not (CHECKOUT / page).parent.joinpath(link).exists()] == []


@pytest.mark.starts_processes
@pytest.mark.parametrize("page", [PAGE, SETTINGS_PAGE, *GENERATED], ids=lambda page: page.name)
def test_manual_page_has_no_warnings(page: Path) -> None:
    for argv in (["groff", "-man", "-ww", "-z"], ["mandoc", "-T", "lint", "-W", "warning"]):
        require(shutil.which(argv[0]) is not None, f"{argv[0]} is not installed: script/setup installs it")
        shown = subprocess.run([*argv, page], capture_output=True, text=True, check=False)
        assert (shown.returncode, shown.stdout, shown.stderr) == (0, "", "")


@pytest.mark.parametrize("verb", sorted({*cli.VERBS} - {"gitlab-config"}))
def test_page_of_a_verb_has_all_its_options(verb: str) -> None:
    page = (CHECKOUT / f"docs/man/nspawn-runner-{verb}.8").read_text().replace("\\-", "-")
    parser = argparse.ArgumentParser()
    cli._command(verb).add_arguments(parser)
    options = [name for action in parser._actions for name in action.option_strings]
    assert [name for name in options if f"\\fB{name}\\fR" not in page] == []
    assert ".SH EXIT STATUS" in page


def test_tests_that_security_names_are_there() -> None:
    """docs/security.md promises what tests check."""
    promised = re.findall(r"`(test_\w+)`", (CHECKOUT / "docs/security.md").read_text())
    there = "".join(path.read_text() for path in (CHECKOUT / "tests/integration").glob("test_*.py"))
    assert len(promised) > 10
    assert [name for name in promised if f"def {name}(" not in there] == []
