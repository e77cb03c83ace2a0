"""Programs and libraries: what every machine needs, and what makes images."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec

from ..errors import HostError
from ..host import process
from ..images.ansible import playbooks
from ..images.build import bootstrap, suite_source
from . import Context, Finding, failed, ok, warning

_NEEDED = (
    "systemctl", "systemd-run", "journalctl", "systemd-nspawn", "machinectl", "nsenter", "unshare", "setpriv", "ip",
    "nft", "mount", "umount", "stat", "cp", "rm", "du", "sync",
)  # fmt: skip
_LIBRARIES = {"yaml": "python3-yaml", "toml": "python3-toml"}


def programs(context: Context) -> Iterator[Finding]:
    """All programs that machines need are installed."""
    del context
    missing = [name for name in _NEEDED if not _is_installed(name)]
    for name in missing:
        error = process.missing([name])
        yield failed(error.what, error.advice.removeprefix("install it: "))
    if not missing:
        yield ok("all that machines need are installed")


def libraries(context: Context) -> Iterator[Finding]:
    """The Python libraries that verbs other than stages need can be loaded."""
    del context
    missing = [package for name, package in _LIBRARIES.items() if not find_spec(name)]
    if missing:
        yield warning(f"exec, toml and playbooks need {', '.join(missing)}", f"apt install {' '.join(missing)}")
    else:
        yield ok("Python has yaml and toml")


def builder(context: Context) -> Iterator[Finding]:
    """There is a program that makes Debian trees."""
    del context
    try:
        yield ok(f"{bootstrap.find_builder()} makes images")
    except HostError as error:
        yield warning(f"{error.what}: images can only be imported", "apt install mmdebstrap")


def keyring(context: Context) -> Iterator[Finding]:
    """The keys that sign Debian are there."""
    del context
    try:
        yield ok(suite_source.keyring(suite_source.SuiteSource(suite="stable")))
    except HostError:
        yield warning("the keys that sign Debian's suites are not on this host", "apt install debian-archive-keyring")


def ansible(context: Context) -> Iterator[Finding]:
    """Ansible is there, if an image has a playbook."""
    wanted, _ = playbooks.find_all(context.settings.state_folder)
    there = _is_installed("ansible-playbook")
    if wanted and not there:
        yield failed(f"{len(wanted)} images have playbooks, but Ansible is not installed", "apt install ansible-core")
    else:
        yield ok("is installed" if there else "is not installed; only playbooks need it")


def _is_installed(program: str) -> bool:
    return shutil.which(program, path=process.environment()["PATH"]) is not None


CHECKS = (programs, libraries, builder, keyring, ansible)
