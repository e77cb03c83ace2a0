# ruff: noqa: S607
"""Completion in real shells: what is typed, a tab, and what comes of it."""

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Self

import pytest
from abilities import require
from by_hand import TOOL, Job
from disposable_host import CHECKOUT, DisposableHost

from nspawn_runner import cli

COMPLETION = CHECKOUT / "packaging/completion"
BASH = COMPLETION / "bash/nspawn-runner"
FILE = "unit:quick:\n  script: ['true']\nbuild all:\n  script: ['true']\ndeploy:\n  script: ['true']\n"
ASK = 'source "$1"; COMP_LINE=$2; COMP_POINT=${#2}; _nspawn_runner "$3"; printf "%s\\n" "${COMPREPLY[@]}"'


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a .gitlab-ci.yml, and nspawn-runner in bin."""
    folder = tmp_path_factory.mktemp("project")
    folder.joinpath(".gitlab-ci.yml").write_text(FILE)
    folder.joinpath("bin").mkdir()
    folder.joinpath("bin/nspawn-runner").symlink_to(TOOL)
    return folder


def bash(line: str, folder: Path) -> list[str]:
    """Return what bash offers for a line."""
    argv = ["bash", "-c", ASK, "ask", str(BASH), line, str(TOOL)]
    return subprocess.run(argv, cwd=folder, capture_output=True, check=True, text=True).stdout.splitlines()


def test_verbs_and_options(project: Path) -> None:
    assert {*cli.VERBS} == {*bash("nspawn-runner ", project)}
    assert bash("nspawn-runner chroot-lo", project) == ["chroot-login"]
    assert bash("nspawn-runner --verb", project) == ["--verbose"]
    assert bash("nspawn-runner --config x.toml doctor --ch", project) == ["--check"]
    assert bash("nspawn-runner doctor --check time", project) == ["timers"]
    assert bash("nspawn-runner login 7 -- ", project) == [""]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("exec ", ["unit:quick", "build\\ all", "deploy"]),
        ("exec b", ["build\\ all"]),
        ("exec build\\ a", ["build\\ all"]),
        ("exec unit:q", ["quick"]),  # for readline a word begins behind the colon
        ("exec --dirty dep", ["deploy"]),
        ("exec --variable dep", [""]),
        ("exec deploy ", ["unit:quick", "build\\ all"]),
        ("exec --par", ["--parallel"]),
    ],
)
def test_jobs_of_the_file(project: Path, typed: str, offered: list[str]) -> None:
    assert bash(f"nspawn-runner {typed}", project) == offered


def test_a_name_that_would_be_a_command_stays_a_word(tmp_path: Path) -> None:
    tmp_path.joinpath(".gitlab-ci.yml").write_text(
        "\"$(touch x)\": {script: ['true']}\n\"a\\e[2J\": {script: ['true']}\n"
    )
    assert bash("nspawn-runner exec ", tmp_path) == ["\\$\\(touch\\ x\\)"]
    assert not tmp_path.joinpath("x").exists()


def test_images_generations_and_machines(overlay_host: DisposableHost) -> None:
    host = overlay_host

    def offered(line: str) -> list[str]:
        return host.run(["bash", "-c", ASK, "ask", BASH, f"nspawn-runner {line}", TOOL]).stdout.decode().splitlines()

    host.run([TOOL, "chroot-clone", "bookworm", "copy"])
    try:
        generation = host.run(
            ["sh", "-c", "ls /var/lib/nspawn-runner/.generations/copy | grep -v json"]
        ).stdout.decode()
        assert offered("chroot-remove ") == ["bookworm", "copy"]
        assert offered("chroot-rollback copy ") == generation.split()
        assert offered("chroot-export --generation ") == [""]
        assert offered("prepare --default-image co") == ["copy"]
        with Job(host) as job:
            job.prepare()
            assert offered("login ") == [job.id, job.machine]
            assert offered("cleanup --id ") == [job.id]
    finally:
        host.run([TOOL, "chroot-remove", "copy"])


@pytest.fixture
def environment(project: Path) -> dict[str, str]:
    """Where a shell finds nspawn-runner first."""
    return {"PATH": f"{project}/bin:/usr/bin:/bin", "HOME": str(project), "TERM": "dumb", "LANG": "C.UTF-8"}


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], f"source {BASH}"),
    "zsh": (["zsh", "-f", "-i"], f"fpath=({COMPLETION}/zsh $fpath); autoload -Uz compinit; compinit -u -D"),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_tab(shell: str, project: Path, environment: dict[str, str]) -> None:
    argv, begin = SHELLS[shell]
    require(shutil.which(shell) is not None, f"{shell} is not installed: script/setup installs it")
    with Terminal(argv, project, environment) as terminal:
        terminal.type(f"{begin}; echo rea''dy\n")
        terminal.wait_for("ready")
        terminal.type("echo nspawn; nspawn-runner chroot-lo\t")
        terminal.wait_for("chroot-login")
        terminal.type("\x15nspawn-runner exec bui\t")
        terminal.wait_for("build\\ all")


def test_fish(project: Path, environment: dict[str, str]) -> None:
    require(shutil.which("fish") is not None, "fish is not installed: script/setup installs it")

    def offered(line: str) -> list[str]:
        script = f'source {COMPLETION}/fish/nspawn-runner.fish; complete --do-complete "{line}"'
        done = subprocess.run(["fish", "--no-config", "-c", script], cwd=project, env=environment, capture_output=True,
                              check=True, text=True)  # fmt: skip
        return [line.partition("\t")[0] for line in done.stdout.splitlines()]

    assert offered("nspawn-runner chroot-lo") == ["chroot-login"]
    assert sorted(offered("nspawn-runner exec ")) == ["build all", "deploy", "unit:quick"]
    assert "--dirty" in offered("nspawn-runner exec --d")
    assert offered("nspawn-runner --config b") == ["bin/"]


class Terminal:
    """A shell at a terminal."""

    def __init__(self, argv: list[str], folder: Path, environment: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            argv, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def wait_for(self, text: str) -> None:
        shown, deadline = "", time.monotonic() + 60
        while text not in shown:
            assert time.monotonic() < deadline, shown
            if select.select([self._ours], [], [], 1)[0]:
                shown += os.read(self._ours, 4096).decode(errors="replace")
