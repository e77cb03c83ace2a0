"""The command line: calls of gitlab-runner read without argparse mean the same as with it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from disposable_host import CHECKOUT

from nspawn_runner import cli
from nspawn_runner.errors import UsageError
from nspawn_runner.host import signals

PLAIN = [
    ["config"],
    ["gitlab-config"],
    ["config", "--default-image", "bookworm"],
    ["cleanup"],
    ["prepare"],
    ["prepare", "--default-image", "bookworm"],
    ["run", "/tmp/script1/script.", "build_script"],
]
OTHER = [
    [],
    ["run"],
    ["run", "--shell", "/bin/sh"],
    ["run", "-x", "build_script"],
    ["run", "script"],
    ["prepare", "bookworm"],
    ["prepare", "--default-image", "--help"],
    ["config", "--default-image", "--help"],
    ["cleanup", "--id"],
    ["config", "--help"],
    ["--version"],
    ["chroot-list"],
]


@pytest.mark.parametrize("arguments", PLAIN)
def test_plain_calls_mean_what_argparse_says(arguments: list[str]) -> None:
    plain = cli.plain_call(arguments)
    assert plain is not None
    assert vars(plain) == vars(cli.parse(arguments))


@pytest.mark.parametrize("arguments", OTHER)
def test_all_else_is_left_to_argparse(arguments: list[str]) -> None:
    assert cli.plain_call(arguments) is None


COMMANDS: list[tuple[list[str], list[str]]] = [
    (["image", "--", "ls", "--debug"], ["ls", "--debug"]),
    (["image", "--discard", "--", "ls", "-l"], ["ls", "-l"]),
    (["--discard", "image", "--", "sh", "-c", "--", "x"], ["sh", "-c", "--", "x"]),
    (["image", "--discard", "--", "--discard"], ["--discard"]),
    (["image", "--", "chroot-list"], ["chroot-list"]),
    (["image", "git", "checkout", "--", "file"], ["git", "checkout", "--", "file"]),
    (["image", "ls"], ["ls"]),
    (["image", "--"], []),
    (["image"], []),
]


@pytest.mark.parametrize(("arguments", "command"), COMMANDS)
def test_what_follows_two_dashes_is_the_command(arguments: list[str], command: list[str]) -> None:
    args = cli.parse(["chroot-login", *arguments])
    assert (args.name, args.command) == ("image", command)
    assert args.discard is ("--discard" in cli.before_dashes(arguments))
    assert not args.debug


def test_debug_is_ours_only_before_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> int:
        raise UsageError("a mistake")

    monkeypatch.setattr(cli, "_run", fail)
    monkeypatch.setattr(signals, "heed", lambda: None)
    assert cli.main(["chroot-login", "image", "--", "ls", "--debug"]) != 0
    with pytest.raises(UsageError):
        cli.main(["--debug", "chroot-login", "image"])


@pytest.mark.parametrize(
    ("words", "what", "advice"),
    [
        ("exce test", "there is no verb exce", "did you mean exec? see: nspawn-runner --help"),
        ("--config /f exce", "there is no verb exce", "did you mean exec? see: nspawn-runner --help"),
        ("xyzzy", "there is no verb xyzzy", "see: nspawn-runner --help"),
        ("gc --dryrun", "--dryrun", "did you mean --dry-run? see: nspawn-runner gc --help"),
        ("--verbos gc", "--verbos", "did you mean --verbose? see: nspawn-runner gc --help"),
        ("exec job --img=x", "--img=x", "did you mean --image? see: nspawn-runner exec --help"),
        ("login", "JOB", "see: nspawn-runner login --help"),
    ],
)
def test_what_is_misspelt_is_told_with_what_was_meant(words: str, what: str, advice: str) -> None:
    with pytest.raises(UsageError) as refused:
        cli.parse(words.split())
    assert what in refused.value.what
    assert refused.value.advice == advice


@pytest.mark.parametrize("arguments", [["reap"], ["reap", "a", "b"]])
def test_reap_takes_one_machine(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) != 0
    assert "takes the name of a machine" in capsys.readouterr().err


def test_a_job_whose_name_is_like_an_option() -> None:
    assert cli.parse(["exec", "--", "--odd"]).jobs == ["--odd"]


HELPS = [["--version"], ["--help"], *([verb, "--help"] for verb in cli.VERBS)]


@pytest.mark.starts_processes
@pytest.mark.parametrize("arguments", HELPS, ids=" ".join)
def test_output_that_cannot_be_written(arguments: list[str]) -> None:
    called = [str(CHECKOUT / "nspawn-runner"), *arguments]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(called, stdout=full, stderr=subprocess.PIPE, check=False)
    said = b"nspawn-runner: cannot write to standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, said)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(called, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (2, b"")


@pytest.mark.starts_processes
def test_streams_that_are_closed() -> None:
    def call(script: str) -> subprocess.CompletedProcess[bytes]:
        argv = ["/bin/sh", "-c", script, str(CHECKOUT / "nspawn-runner")]
        return subprocess.run(argv, capture_output=True, check=False, timeout=60)

    for closed in ("<&- >&- 2>&-", ">&-", "2>&-", "<&-"):
        assert call(f'exec "$0" --version {closed}').returncode == 0
    done = call('exec "$0" --bogus 2>&-')
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


MISTAKES = [[], ["nothing"], ["run"], ["prepare", "a", "b"], ["cleanup", "--id"], ["--bogus"]]


@pytest.mark.parametrize("arguments", MISTAKES)
def test_mistakes_are_told_in_two_lines(arguments: list[str]) -> None:
    with pytest.raises(UsageError) as raised:
        cli.parse(arguments)
    assert len(raised.value.lines()) == 2


@pytest.mark.starts_processes
@pytest.mark.parametrize("content", ["", "half of a li", "raise OSError(5, 'Input/output error')"])
def test_a_program_that_cannot_be_loaded_does_not_blame_the_job(tmp_path: Path, content: str) -> None:
    shutil.copy(CHECKOUT / "nspawn-runner", tmp_path)
    (tmp_path / "nspawn_runner").mkdir()
    (tmp_path / "nspawn_runner/cli.py").write_text(content)
    environment = {"BUILD_FAILURE_EXIT_CODE": "1", "SYSTEM_FAILURE_EXIT_CODE": "92"}
    done = subprocess.run([tmp_path / "nspawn-runner", "prepare"], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (92, b"", 1)
    assert done.stderr.startswith(b"nspawn-runner: cannot load itself: ")
