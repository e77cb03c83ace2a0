"""The scripts of a local job, run by real shells on this machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nspawn_runner.pipeline import scripts
from nspawn_runner.pipeline.ci_job import CiJob

BASH, SH = "/bin/bash", "/bin/sh"


def ci_job(*script: str, before: tuple[str, ...] = (), after: tuple[str, ...] = (), **variables: str) -> CiJob:
    return CiJob("job", "test", None, (), tuple(variables.items()), before, script, after, ())


def run(script: bytes, folder: Path, shell: str = BASH) -> subprocess.CompletedProcess[bytes]:
    """Run ``script`` as the machine does: on stdin from a file that goes on behind the script."""
    memory = os.memfd_create("script")
    try:
        os.write(memory, script + b"echo what follows is not for the shell\n")
        os.lseek(memory, 0, os.SEEK_SET)
        return subprocess.run([shell], stdin=memory, capture_output=True, cwd=folder, check=False, timeout=30)
    finally:
        os.close(memory)


def output(job: CiJob, folder: Path, shell: str = BASH) -> list[str]:
    done = run(scripts.build_script(job, str(folder)), folder, shell)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().splitlines()


@pytest.mark.parametrize("shell", [BASH, SH])
def test_commands_are_shown_and_run_in_the_project_folder(tmp_path: Path, shell: str) -> None:
    job = ci_job("pwd", "for n in 1 2\ndo echo $n; done", before=("x=before",), after=())
    assert output(job, tmp_path, shell) == [
        "$ x=before",
        "$ pwd",
        str(tmp_path),
        "$ for n in 1 2 # collapsed multi-line command",
        "1",
        "2",
    ]


def test_before_script_and_script_share_one_shell(tmp_path: Path) -> None:
    assert output(ci_job('echo "$x"', before=("x=shared",)), tmp_path)[-1] == "shared"


@pytest.mark.parametrize("shell", [BASH, SH])
def test_a_command_finds_nothing_on_its_stdin_and_cannot_eat_the_script(tmp_path: Path, shell: str) -> None:
    assert output(ci_job("cat", "read line || echo nothing", "echo end"), tmp_path, shell)[-2:] == ["$ echo end", "end"]


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("false", 1),
        ("(exit 7)", 7),
        ("exit 7", 7),
        ("kill -TERM $$", -15),
        ("false | cat", 1),
        ("no-such-command", 127),
        ("if", 2),
    ],
)
def test_a_failing_command_ends_the_script_with_its_status(tmp_path: Path, command: str, status: int) -> None:
    done = run(scripts.build_script(ci_job("echo one", command, "echo two"), str(tmp_path)), tmp_path)
    assert done.returncode == status
    assert b"two\n" not in done.stdout.replace(b"$ echo two", b"")


@pytest.mark.parametrize("command", ["echo 'open", "cat <<END", "echo $(", "{", "echo )", "#", "\\"])
def test_no_command_swallows_or_escapes_the_end_of_the_script(tmp_path: Path, command: str) -> None:
    done = run(scripts.build_script(ci_job(command), str(tmp_path)), tmp_path)
    assert b"not for the shell" not in done.stdout


def test_exit_zero_ends_the_job_well(tmp_path: Path) -> None:
    assert output(ci_job("exit 0", "echo never"), tmp_path) == ["$ exit 0"]


@given(st.binary(max_size=200).map(lambda value: value.replace(b"\0", b"")))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_of_a_variable_arrives(tmp_path: Path, value: bytes) -> None:
    job = ci_job('printf %s "$A" >out', A=value.decode(errors="surrogateescape"))
    assert run(scripts.build_script(job, str(tmp_path)), tmp_path).returncode == 0
    assert (tmp_path / "out").read_bytes() == value


def test_the_status_is_known_to_script_and_after_script(tmp_path: Path) -> None:
    job = ci_job("echo $CI_JOB_STATUS", after=("echo $CI_JOB_STATUS", "exit 3"))
    assert output(job, tmp_path)[-1] == "running"
    done = run(scripts.after_script(job, str(tmp_path), "failed"), tmp_path)
    assert (done.returncode, done.stdout.splitlines()[1]) == (3, b"failed")


def test_a_background_process_does_not_hold_the_script(tmp_path: Path) -> None:
    assert output(ci_job("sleep 20 >/dev/null 2>&1 &", "echo end"), tmp_path)[-1] == "end"


def test_a_missing_project_folder_is_an_error(tmp_path: Path) -> None:
    done = run(scripts.build_script(ci_job("echo here"), str(tmp_path / "gone")), tmp_path)
    assert done.returncode != 0
    assert b"here" not in done.stdout


def test_without_sources_the_folder_is_empty(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "old").touch()
    script = scripts.get_sources("/nowhere", str(project), sha="0" * 40, ref="main", strategy="none")
    assert run(script, tmp_path).returncode == 0
    assert list(project.iterdir()) == []


def test_an_image_without_git_is_said(tmp_path: Path) -> None:
    for name in ("rm", "mkdir"):
        (tmp_path / name).symlink_to(f"/bin/{name}")
    script = f"PATH={tmp_path}\n".encode() + scripts.get_sources("/b", str(tmp_path / "p"), sha="0" * 40, ref="main")
    done = run(script, tmp_path)
    assert (done.returncode, b"no git in this image" in done.stdout) == (1, True)
