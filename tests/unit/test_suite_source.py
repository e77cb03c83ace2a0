"""What images are made from: checked before a builder sees it, then handed over word by word."""

from pathlib import Path
from typing import Any

import pytest

from nspawn_runner.errors import HostError, UsageError
from nspawn_runner.images.build import bootstrap, failure, suite_source
from nspawn_runner.images.build.suite_source import PACKAGES, SuiteSource


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("suite", "--setup-hook=reboot"),
        ("suite", "../bookworm"),
        ("suite", "bookworm\n"),
        ("mirror", "--include=x"),
        ("mirror", "/etc/passwd"),
        ("mirror", "http://a.example/ b"),
        ("variant", "--hook"),
        ("arch", "amd64,i386"),
        ("packages", ("./evil.deb",)),
        ("packages", ("git", "?essential")),
        ("packages", ("",)),
        ("components", ("main --verbose",)),
    ],
)
def test_refuses_what_a_builder_could_misunderstand(field: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"--{field}"):
        suite_source.checked(SuiteSource("bookworm")._replace(**{field: value}))


def test_accepts_what_people_ask_for() -> None:
    wanted = SuiteSource(
        "trixie-backports",
        mirror="https://mirror.example/debian",
        variant="-",
        arch="arm64",
        packages=("g++", "libc6:i386", "python3.11-venv"),
        components=("main", "non-free-firmware"),
    )
    assert suite_source.checked(wanted) is wanted


def test_nothing_that_was_checked_looks_like_an_option() -> None:
    argv = bootstrap.builder_argv("mmdebstrap", SuiteSource("sid", mirror="http://m.example/d"), "/tree", keyring="")
    assert [word for word in argv[-3:] if word.startswith("-")] == []


def test_each_package_is_asked_for_once() -> None:
    assert SuiteSource("bookworm", packages=("git", "tree")).all_packages == [*PACKAGES, "tree"]
    assert SuiteSource("sid", packages=("git",)).all_packages == [*PACKAGES, "linux-sysctl-defaults"]


def test_names_the_package_with_the_keys_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.isfile", lambda _path: False)
    with pytest.raises(HostError) as raised:
        suite_source.keyring(SuiteSource("bookworm"))
    assert "apt install debian-archive-keyring" in raised.value.advice
    with pytest.raises(HostError) as raised:
        suite_source.keyring(SuiteSource("noble"))
    assert "apt install ubuntu-keyring" in raised.value.advice
    assert suite_source.keyring(SuiteSource("unheard-of")) == ""


def test_a_keyring_that_is_not_there_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        suite_source.checked(SuiteSource("bookworm", keyring=str(tmp_path / "keys.gpg")))


def test_the_builders_default_mirror_counts_without_mirror() -> None:
    for builder in ("mmdebstrap", "debootstrap"):
        argv = bootstrap.builder_argv(builder, SuiteSource("bookworm"), "/tree", keyring="/keys.gpg")
        assert argv[-2:] == ["bookworm", "/tree"]
        argv = bootstrap.builder_argv(
            builder, SuiteSource("bookworm", mirror="http://m.example/d"), "/tree", keyring="/k"
        )
        assert argv[-3:] == ["bookworm", "/tree", "http://m.example/d"]


def test_debootstrap_never_goes_on_unchecked() -> None:
    argv = bootstrap.builder_argv("debootstrap", SuiteSource("bookworm", arch="i386"), "/tree", keyring="/keys.gpg")
    assert {"--force-check-gpg", "--keyring=/keys.gpg", "--arch=i386", "--variant=minbase"} <= set(argv)


def test_no_keys_count_beside_those_that_were_named(tmp_path: Path) -> None:
    argv = bootstrap.builder_argv(
        "mmdebstrap", SuiteSource("bookworm", keyring="/keys.gpg"), "/tree", keyring="/keys.gpg"
    )
    assert {"--keyring=/keys.gpg", "--keyring=/tree.keys", "--skip=check/signed-by"} <= set(argv)
    (tmp_path / "keys.gpg").touch()
    with pytest.raises(UsageError, match="is empty"):
        suite_source.checked(SuiteSource("bookworm", keyring=str(tmp_path / "keys.gpg")))


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("W: GPG error: ... NO_PUBKEY 6ED0E7B82643E131", "keyring"),
        ("E: gpgv not installed, but required for Release verification", "apt install gpgv"),
        ("E: The repository 'http://m nosuch Release' does not have a Release file.", "--suite"),
        ("E: Unable to locate package nosuch", "--packages"),
        ("Err:1 http://m Temporary failure resolving 'm'", "network"),
        ("  Could not resolve 'no-such-host.invalid'", "network"),
        ("  Could not connect to 127.0.0.1:1 (127.0.0.1). - connect (111: Connection refused)", "http_proxy"),
        ("  407  Proxy Authentication Required [IP: 192.0.2.1 3128]", "password"),
        ("E: Failed getting release file http://m/debian/dists/buster/Release", "archive.debian.org"),
        ("E: The repository 'http://m buster Release' does not have a Release file.", "archive.debian.org"),
        ("E: arm64 can neither be executed natively nor via qemu user emulation with binfmt_misc", "qemu-user-static"),
        ("E: Unable to execute target architecture", "qemu-user-static"),
        ("  Hash Sum mismatch", "try again"),
        ("E: Failed to fetch http://m/x  File has unexpected size (1 != 2). Mirror sync in progress?", "another"),
        ("E: Release file for http://m is not valid yet (invalid for another 3h). Updates are not applied.", "clock"),
        ("E: Couldn't find these debs: nosuchpkg", "--packages"),
    ],
)
def test_a_failure_says_what_to_do(said: str, advice: str) -> None:
    last = [said, "E: it broke", "E: mmdebstrap failed to run"]
    error = failure.failure("mmdebstrap", SuiteSource("bookworm"), 25, last, "/log")
    assert advice in error.advice
    assert "/log" in error.facts
    assert "failed to run" not in error.what
    assert (said if said.startswith("E: ") else "it broke").removeprefix("E: ") in error.what


def test_keys_that_mmdebstrap_cannot_find_want_gpg(monkeypatch: pytest.MonkeyPatch) -> None:
    last = ["W: GPG error: ... NO_PUBKEY 6ED0E7B82643E131"]
    monkeypatch.setattr("shutil.which", lambda program, **_: None if program == "gpg" else program)
    assert "apt install gpg" in failure.failure("mmdebstrap", SuiteSource("noble"), 25, last, "/log").advice
    named = SuiteSource("noble", keyring="/k")
    assert "/k holds no key" in failure.failure("mmdebstrap", named, 25, last, "/log").advice
    assert "--keyring" in failure.failure("debootstrap", SuiteSource("noble"), 1, last, "/log").advice
