# ruff: noqa: S607
"""script/release makes a release of a clean checkout alone, and the package's changelog follows CHANGELOG.md."""

import re
import shutil
import subprocess
import time
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
from abilities import require

from nspawn_runner import __version__

CHECKOUT = Path(__file__).parents[2]
pytestmark = pytest.mark.starts_processes


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clean repository of this checkout's files, whose first section is not released."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, check=True, capture_output=True).stdout.split(b"\0")
    for name in filter(None, map(bytes.decode, names)):
        if (CHECKOUT / name).exists():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, tmp_path / name)
    changelog = (tmp_path / "CHANGELOG.md").read_text()
    text = re.sub(r"^## .*", f"## {__version__} (unreleased)", changelog, count=1, flags=re.MULTILINE)
    (tmp_path / "CHANGELOG.md").write_text(text)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "all")
    for key, value in {"user.name": "Test", "user.email": "test@example.com"}.items():
        git(tmp_path, "config", key, value)
    return tmp_path


def release(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["script/release", *words], cwd=folder, check=False, capture_output=True, text=True)


def test_a_release_with_a_signed_tag(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    require(shutil.which("ssh-keygen") is not None, "ssh-keygen is not installed: script/setup installs it")
    key = tmp_path_factory.mktemp("key") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    git(clone, "config", "gpg.format", "ssh")
    git(clone, "config", "user.signingkey", str(key))
    assert release(clone, "--check").stdout == f"{__version__} can be released\n"
    assert git(clone, "tag") == ""
    done = release(clone)
    assert done.returncode == 0, done.stderr
    assert "BEGIN SSH SIGNATURE" in git(clone, "cat-file", "tag", f"v{__version__}")
    assert f"## {__version__} ({time.strftime('%Y-%m-%d', time.gmtime())})\n" in (clone / "CHANGELOG.md").read_text()
    assert git(clone, "status", "--porcelain") == ""
    assert "there is a tag" in release(clone).stderr


def test_without_a_key_it_is_told(clone: Path) -> None:
    assert "the tag is not signed" in release(clone).stderr
    assert git(clone, "cat-file", "-t", f"v{__version__}") == "tag\n"


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("README.md", "", "x", "not committed"),
        ("nspawn_runner/__init__.py", f'"{__version__}"', '"77.0"', "is '## "),
        ("CHANGELOG.md", " (unreleased)", " (2020-01-01)", "is '## "),
        ("setup.cfg", "attr: nspawn_runner.__version__", f'"{__version__}"', "stands a second time"),
        ("docs/nspawn-runner.toml", "#", "##", "documents are stale"),
    ],
)
def test_what_is_not_ready_is_refused(clone: Path, name: str, old: str, new: str, said: str) -> None:
    text = (clone / name).read_text()
    (clone / name).write_text(text.replace(old, new, 1) if old else text + new)
    if "committed" not in said:
        git(clone, "commit", "--quiet", "--all", "--message", "change")
    before = git(clone, "rev-parse", "HEAD")
    done = release(clone)
    assert done.returncode == 1
    assert said in done.stderr
    assert (git(clone, "rev-parse", "HEAD"), git(clone, "tag")) == (before, "")


def test_changelog_of_the_package() -> None:
    loader = SourceFileLoader("packaging_build", str(CHECKOUT / "packaging/build"))
    spec = spec_from_loader("packaging_build", loader)
    assert spec is not None
    build = module_from_spec(spec)
    loader.exec_module(build)
    lines = build.changelog("trixie").splitlines()
    assert lines[0] == f"nspawn-runner ({__version__}~deb13) trixie; urgency=medium"
    assert all(len(line) <= 80 for line in lines if not line.startswith(" -- "))
    assert sum(line.startswith("  * ") for line in lines) >= 5
