"""The parts that use a library, with its oldest version that is supported, Debian 12's, and with today's newest."""

import subprocess
import sys
from pathlib import Path

import pytest
from disposable_host import CHECKOUT

VERSIONS = {
    "oldest": ["pyyaml==6.0", "toml==0.10.2", "ansible-core==2.14.18", "jinja2==3.1.2"],
    "newest": ["pyyaml", "toml", "ansible-core", "jinja2"],
}
TOOLS = ("pytest", "pytest-xdist", "hypothesis")
USERS = ("ci_file", "ci_scripts", "fuzz", "playbooks", "runner_toml", "toml_cache")


@pytest.mark.soak
@pytest.mark.parametrize("age", VERSIONS)
def test_libraries_of_any_supported_version_do(tmp_path: Path, age: str) -> None:
    python = tmp_path / "venv/bin/python"
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    call([sys.executable, "-m", "venv", tmp_path / "venv"])
    call([*pip, *VERSIONS[age]])
    pinned = dict(line.split("==") for line in (CHECKOUT / "script/constraints.txt").read_text().splitlines()[1:])
    call([*pip, *(f"{tool}=={pinned[tool]}" for tool in TOOLS)])
    files = [CHECKOUT / f"tests/unit/test_{name}.py" for name in USERS]
    said = call([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files], folder=CHECKOUT)
    assert " passed" in said.splitlines()[-1], said


def call(argv: list[str | Path], *, folder: Path | None = None) -> str:
    done = subprocess.run(argv, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout
