"""The command line: calls of gitlab-runner read without argparse mean the same as with it."""

import pytest

from nspawn_runner import cli
from nspawn_runner.errors import UsageError

PLAIN = [
    ["config"],
    ["gitlab-config"],
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


MISTAKES = [[], ["nothing"], ["run"], ["prepare", "a", "b"], ["cleanup", "--id"], ["--bogus"]]


@pytest.mark.parametrize("arguments", MISTAKES)
def test_mistakes_are_told_in_two_lines(arguments: list[str]) -> None:
    with pytest.raises(UsageError) as raised:
        cli.parse(arguments)
    assert len(raised.value.lines()) == 2
