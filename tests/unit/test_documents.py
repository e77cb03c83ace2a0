"""README.md and the manual page say what the code does."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from abilities import require

from nspawn_runner import cli, settings

CHECKOUT = Path(__file__).parents[2]
README = (CHECKOUT / "README.md").read_text()
PAGE = CHECKOUT / "docs/nspawn-runner.8"


def readme_settings() -> dict[str, object]:
    """Give key → default of the README's table, as TOML and JSON both write them."""
    section = README.partition("\n## Settings\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(?:\[(\w+)\] )?(\w+)` \| `(.+?)` \|", section, re.MULTILINE)
    return {f"{table}.{key}" if table else key: json.loads(value) for table, key, value in rows}


def all_settings() -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in settings.Settings()._asdict().items():
        if key == "images":
            continue
        inner = value._asdict() if isinstance(value, tuple) else None  # type: ignore[attr-defined]
        found |= {key: value} if inner is None else {f"{key}.{name}": default for name, default in inner.items()}
    return found


def test_readme_lists_every_setting_with_its_default() -> None:
    assert readme_settings() == all_settings()


def test_readme_sample_is_accepted() -> None:
    sample = re.search(r"^For example:\n\n((?:    .*\n|\n)+)", README, re.MULTILINE)
    assert sample
    loaded = settings.parse(re.sub(r"^    ", "", sample[1], flags=re.MULTILINE).encode(), "README.md")
    assert loaded.limits.memory_max == "4G"
    assert loaded.images


@pytest.mark.parametrize("verb", cli.VERBS)
def test_verbs_are_documented(verb: str) -> None:
    if verb != "gitlab-config":
        assert f"`{verb}" in README
    assert verb in PAGE.read_text().replace("\\-", "-")


def test_files_that_readme_links_to_are_there() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)]+)\)", README)
    assert links
    assert [link for link in links if not (CHECKOUT / link).exists()] == []


@pytest.mark.starts_processes
def test_manual_page_has_no_warnings() -> None:
    groff = shutil.which("groff")
    require(groff is not None, "groff is not installed: script/setup installs it")
    shown = subprocess.run([groff or "", "-man", "-ww", "-z", PAGE], capture_output=True, text=True, check=True)
    assert shown.stderr == ""
