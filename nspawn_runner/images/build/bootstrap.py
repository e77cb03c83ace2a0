"""Build a Debian tree with mmdebstrap or debootstrap: show progress, log output, leave no process behind."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from ...errors import HostError
from ...host import process
from ...settings.package_proxy import PackageProxy
from .. import program_log
from ..progress import BuilderOutput, Progress
from . import failure, suite_source
from .suite_source import SuiteSource

_PROXY_SECONDS = 3
# The builder dies with us, its children die with it, and nobody else sees its mounts.
_CONFINED = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--mount", "--pid", "--fork", "--kill-child",
             "--mount-proc", "--"]  # fmt: skip


def build(
    source: SuiteSource,
    root: str,
    *,
    log: str,
    progress: Progress,
    builder: str = "",
    proxy: PackageProxy | None = None,
) -> str:
    """Build ``source`` in the empty tree ``root`` and return the builder's name; its output goes to the file ``log``.

    ``builder`` names it; by default it is the one the host has. Packages come through the ``proxy``, if it answers.
    Raises HostError with the reason, if known. No process of the builder is left on failure or cancellation.
    """
    builder = builder or find_builder()
    output = BuilderOutput()

    def heard(line: str) -> None:
        output.feed(line)
        progress.heard(line)
        progress.show(output.phase, output.done, output.total)

    argv = builder_argv(builder, source, root, keyring=suite_source.keyring(source))
    with _no_keys(root):
        ended = _run(argv, log, heard, _through(proxy))
    progress.end()
    if ended.status:
        progress.conclude(ended.last)
        raise failure.failure(builder, source, ended.status, ended.last, log)
    return builder


@contextmanager
def _no_keys(root: str) -> Iterator[None]:
    """Keep an empty folder beside ``root`` as apt's key folder, so that it trusts no keys but the requested ones."""
    folder = _no_keys_folder(root)
    os.mkdir(folder)
    try:
        yield
    finally:
        os.rmdir(folder)


def _no_keys_folder(root: str) -> str:
    return f"{root}.keys"


def run_command(command: Sequence[str], root: str, *, log: str, progress: Progress) -> None:
    """Fill the empty tree ``root`` with ``command``, in which {root} stands for its path; append output to ``log``.

    Raises HostError when it fails. No process of it is left on failure or cancellation.
    """
    argv = [word.replace("{root}", root) for word in command]
    program = process.quoted(argv[:1])

    def heard(line: str) -> None:
        progress.heard(line)
        progress.show(f"running {program}")

    ended = _run(argv, log, heard)
    progress.end()
    if ended.status:
        progress.conclude(ended.last)
        raise HostError(f"{program} failed with exit status {ended.status}", facts=f"its whole output: {log}")


def _through(proxy: PackageProxy | None) -> dict[str, str]:
    """Return the environment by which a builder fetches packages through ``proxy``, where that answers now."""
    if proxy is None or "http_proxy" in process.environment():
        return {}
    try:
        socket.create_connection((proxy.host, proxy.port), _PROXY_SECONDS).close()
    except OSError:
        return {}
    return {"http_proxy": f"http://{proxy.host}:{proxy.port}"}


def _run(
    argv: Sequence[str], log: str, heard: Callable[[str], None], more: Mapping[str, str] | None = None
) -> program_log.EndedProgram:
    if not _is_installed(argv[0]):
        raise process.missing(argv)
    env = {"DEBIAN_FRONTEND": "noninteractive", **(more or {})}
    return program_log.run([*_CONFINED, *argv], log=log, heard=heard, end=process.end_confined, env=env)


def find_builder() -> str:
    """Return the builder that this host has; raises HostError when it has none."""
    for builder in ("mmdebstrap", "debootstrap"):
        if _is_installed(builder):
            return builder
    raise HostError("no program that builds Debian trees is installed", advice="install one: apt install mmdebstrap")


def _is_installed(program: str) -> bool:
    return shutil.which(program, path=process.environment()["PATH"]) is not None


def builder_argv(builder: str, source: SuiteSource, root: str, *, keyring: str) -> list[str]:
    """Return the command line of ``builder`` for ``source``.

    No eatmydata: around the whole builder, every program in the tree complains about the missing library, and through
    mmdebstrap's own hook it gained nothing (27 s instead of 18 s). Instead, dpkg does not sync each file, and
    the tree is synced once at the end.
    """
    options = [f"--variant={source.variant}", f"--include={','.join(source.all_packages)}",
               f"--components={','.join(source.components)}"]  # fmt: skip
    mirror = [source.mirror] if source.mirror else []
    if builder == "mmdebstrap":
        options += ["--mode=root", "--format=directory", "--verbose", "--dpkgopt=force-unsafe-io"]
        options += [f"--architectures={source.arch}"] if source.arch else []
        # Without one, it finds the usual file itself and names it in the image's list of sources, as apt there needs.
        # Keys from a file are used in addition to the host's trusted folder and to the usual file, if found.
        if source.keyring:
            options += [f"--keyring={keyring}", f"--keyring={_no_keys_folder(root)}", "--skip=check/signed-by"]
    else:
        options += ["--force-check-gpg"]  # without keys it would continue unchecked
        options += [f"--arch={source.arch}"] if source.arch else []
        options += [f"--keyring={keyring}"] if keyring else []
    # debootstrap does not support "--" before the rest; none of it starts with a dash (source.checked).
    return [builder, *options, source.suite, root, *mirror]
