"""How a tree that is not booted is entered."""

import pytest

from nspawn_runner.commands.chroot_login import _host_name
from nspawn_runner.nspawn import tree_shell, uid_ranges


def test_the_command_is_passed_word_by_word() -> None:
    argv = tree_shell.nspawn_argv("/tree", "m", ["sh", "-c", "exit $X"], user_namespace=True, interactive=False)
    assert argv[-4:] == ["--", "sh", "-c", "exit $X"]
    assert "--console=pipe" in argv
    assert "--private-users-ownership=map" in argv


def test_no_machine_has_the_uids() -> None:
    assert uid_ranges.OF_CHANGES == 0x7FFE0000
    argv = tree_shell.nspawn_argv("/tree", "m", [], user_namespace=False, interactive=True)
    assert argv[-1] == "--"
    assert "--console=interactive" in argv
    assert not [word for word in argv if word.startswith("--private-users")]


def test_proxies_reach_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("CUSTOM_ENV_SECRET", "s3cret")
    argv = tree_shell.nspawn_argv("/tree", "m", [], user_namespace=True, interactive=False)
    assert "--setenv=https_proxy" in argv, "the value is in nspawn's environment: arguments are public"
    assert "proxy.example" not in " ".join(argv)
    assert "SECRET" not in " ".join(argv)


def test_every_image_name_gives_a_legal_host_name() -> None:
    for name in ("a", "Debian_12.5", "x" * 64, "a" * 33 + "-.-"):
        made = _host_name(name)
        assert len(made) <= 40
        assert all(char.isalnum() or char == "-" for char in made)
        assert made[-1] != "-"
