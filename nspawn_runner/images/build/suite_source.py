"""Suite, mirror and packages that an image is built from, checked before a builder sees them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from ...errors import HostError, UsageError

# What jobs and their machine expect: an init with a bus, git for the runner's scripts, Python with apt's module for
# Ansible, user sessions with their own bus, names for systemd's dynamic users, and the small programs that every
# tutorial takes for granted.
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "git", "ca-certificates", "python3", "python3-apt", "iproute2", "iputils-ping",
    "netbase", "passwd", "mount", "procps", "libpam-systemd", "dbus-user-session", "libnss-systemd",
)  # fmt: skip

# The kernel settings that were part of Debian's systemd package until bookworm.
_SINCE_TRIXIE = ("linux-sysctl-defaults",)

_DEBIAN = (
    "jessie", "stretch", "buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid", "unstable", "testing",
    "stable", "oldstable", "oldoldstable",
)  # fmt: skip
_UNTIL_BOOKWORM = ("jessie", "stretch", "buster", "bullseye", "bookworm", "oldstable", "oldoldstable")
_UBUNTU = (
    "trusty", "xenial", "bionic", "focal", "jammy", "kinetic", "lunar", "mantic", "noble", "oracular", "plucky",
    "questing", "devel",
)  # fmt: skip
# Package → its file of keys; the builders know the same paths.
_KEYRINGS = {
    "debian-archive-keyring": (
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "/usr/share/keyrings/debian-archive-keyring.pgp",
    ),
    "ubuntu-keyring": (
        "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
        "/usr/share/keyrings/ubuntu-archive-keyring.pgp",
    ),
}


class SuiteSource(NamedTuple):
    """What to build. Empty texts leave the choice to the builder, such as the mirror it takes for a suite."""

    suite: str
    mirror: str = ""
    variant: str = "minbase"
    arch: str = ""
    packages: tuple[str, ...] = ()
    components: tuple[str, ...] = ("main",)
    keyring: str = ""

    @property
    def all_packages(self) -> list[str]:
        """The packages that every image of the suite gets, and the requested ones, each once."""
        base = self.suite.partition("-")[0]
        newer = _SINCE_TRIXIE if base in _DEBIAN and base not in _UNTIL_BOOKWORM else ()
        return list(dict.fromkeys([*PACKAGES, *newer, *self.packages]))


_SHAPES: Mapping[str, tuple[re.Pattern[str], str]] = {
    "suite": (re.compile(r"[a-z][a-z0-9.-]*"), "a suite such as bookworm"),
    "mirror": (re.compile(r"(https?|file|tor\+https?)://?[!-~]+"), "an address such as http://mirror.example/debian"),
    "variant": (re.compile(r"-|[a-z][a-z-]*"), "a variant such as minbase"),
    "arch": (re.compile(r"[a-z0-9][a-z0-9-]*"), "an architecture such as arm64"),
    "packages": (re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?"), "the name of a package"),
    "components": (re.compile(r"[a-z][a-z0-9/-]*"), "a component such as main"),
}


def checked(source: SuiteSource) -> SuiteSource:
    """Return ``source``; raises UsageError for the first thing in it that a builder could misunderstand."""
    for field in _SHAPES:
        value = getattr(source, field)
        for text in value if isinstance(value, tuple) else [value] if value else []:
            if wrong := problem(field, text):
                raise UsageError(f"--{field}: {wrong}")
    if source.keyring and not os.path.isfile(source.keyring):
        raise UsageError(f"--keyring: there is no file {source.keyring}")
    if source.keyring and not os.path.getsize(source.keyring):
        raise UsageError(f"--keyring: {source.keyring} is empty")
    return source


def facts(source: SuiteSource) -> dict[str, object]:
    """Return the facts to record about an image built from ``source``."""
    return {
        "suite": source.suite,
        "arch": source.arch,
        "variant": source.variant,
        "mirror": source.mirror,
        "packages": list(source.packages),
    }


def problem(field: str, text: str) -> str:
    """Return what is wrong with ``text`` as a source's ``field``, or as one of its words; empty if nothing is."""
    shape, wanted = _SHAPES.get(field, (None, ""))
    return "" if shape is None or shape.fullmatch(text) else f"{text!r} is not {wanted}"


def keyring(source: SuiteSource) -> str:
    """Return the file of keys to check ``source`` with; empty to leave the choice to the builder.

    Raises HostError naming the package with the keys of a Debian or Ubuntu suite when it is not installed.
    """
    if source.keyring:
        return os.path.abspath(source.keyring)
    package = "debian-archive-keyring" if family(source.suite) == "Debian" else "ubuntu-keyring"
    if not family(source.suite):
        return ""
    for file in _KEYRINGS[package]:
        if os.path.isfile(file):
            return file
    raise HostError(
        f"the keys that sign {family(source.suite)}'s {source.suite} are not on this host",
        advice=f"install them: apt install {package}; or name a file that has them: --keyring FILE",
    )


def family(suite: str) -> str:
    """Return the distribution that has ``suite``, Debian or Ubuntu; empty if unknown."""
    base = suite.partition("-")[0]
    return "Debian" if base in _DEBIAN else "Ubuntu" if base in _UBUNTU else ""
