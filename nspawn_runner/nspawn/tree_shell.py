"""A shell or command in a tree that is not booted, to change an image by hand."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..host import files, process, pump, tree_files
from . import options, uid_ranges

_RESOLVER = "etc/resolv.conf"
_MACHINE_ID = "etc/machine-id"
# What nspawn's --resolv-conf=replace-host and replace-uplink put there.
_HOST_RESOLVERS = (f"/{_RESOLVER}", "/run/systemd/resolve/resolv.conf")
_END_SECONDS = 10


def run(root: str, name: str, command: Sequence[str], *, user_namespace: bool) -> int:
    """Run ``command``, or a login shell, as root of the tree ``root`` and return its exit status.

    It has the host's network and name servers, and ``name`` as its host name. The name servers do not stay in the
    tree, unless the command itself changed them.
    """
    interactive = os.isatty(0) and os.isatty(1)
    argv = nspawn_argv(root, name, command, user_namespace=user_namespace, interactive=interactive)
    env = {"TERM": os.environ.get("TERM", "dumb")}
    with resolver_taken_back(root):
        if not interactive:
            status = pump.call(argv, env=env)
        else:
            child = process.spawn(argv, stdin=0, env=env)
            try:
                status = child.wait()
            finally:
                # On SIGTERM nspawn kills what is inside and removes its mounts.
                process.end(child, _END_SECONDS)
    return status if status >= 0 else 128 - status


@contextmanager
def resolver_taken_back(root: str) -> Iterator[None]:
    """On exit, undo what nspawn wrote to the resolv.conf of the tree ``root``, unless it was changed inside."""
    before = tree_files.read(root, _RESOLVER)
    given = [_content(path) for path in _HOST_RESOLVERS]
    try:
        yield
    finally:
        after = tree_files.read(root, _RESOLVER)
        if after != before and after.content in given:
            tree_files.put_back(root, _RESOLVER, before)


@contextmanager
def machine_id_taken_back(root: str) -> Iterator[None]:
    """On exit, remove the machine ID that systemd writes at its first boot if the tree had none (machine-id(5))."""
    before = tree_files.read(root, _MACHINE_ID)
    try:
        yield
    finally:
        if before.content in {b"", b"uninitialized\n"} and tree_files.read(root, _MACHINE_ID) != before:
            tree_files.put_back(root, _MACHINE_ID, before)


def uid_options(*, user_namespace: bool) -> list[str]:
    """Return the options of nspawn that give a tree its own uids; its files keep theirs on disk."""
    return uid_ranges.mapped(uid_ranges.OF_CHANGES) if user_namespace else []


def nspawn_argv(
    root: str,
    name: str,
    command: Sequence[str],
    *,
    user_namespace: bool,
    interactive: bool,
    death_signal: str = "KILL",
) -> list[str]:
    """Return the systemd-nspawn call for ``command`` in the tree ``root``; it gets ``death_signal`` when we die."""
    # By name only: a proxy's address may hold a password, and everyone can read arguments. nspawn has the values.
    passed = [f"--setenv={key}" for key in process.environment() if key.lower().endswith("_proxy")]
    return [
        "setpriv", "--pdeathsig", death_signal, "--",
        "systemd-nspawn", "--quiet", f"--directory={root}", f"--machine={name}", f"--hostname={name}", "--as-pid2",
        # Neither registered with machined nor in its own unit: it belongs to our caller.
        "--register=no", "--keep-unit",
        *uid_options(user_namespace=user_namespace),
        # No host settings are written into the tree, except the resolver, which run() takes back.
        "--settings=no", "--link-journal=no", "--timezone=off", "--resolv-conf=replace-host",
        f"--console={'interactive' if interactive else 'pipe'}",
        "--setenv=LANG=C.UTF-8", "--setenv=HISTFILE=/dev/null",
        *passed,
        "--", *command,
    ]  # fmt: skip


def boot_argv(root: str, name: str, hostname: str, more: Sequence[str], *, user_namespace: bool) -> list[str]:
    """Return the systemd-nspawn call that boots the tree ``root`` with the options ``more``; it ends when we die."""
    return [
        "setpriv", "--pdeathsig", "TERM", "--",
        "systemd-nspawn", "--quiet", f"--directory={root}", f"--machine={name}", f"--hostname={hostname}", "--boot",
        "--notify-ready=yes", *more, *uid_options(user_namespace=user_namespace),
        "--settings=no", "--link-journal=no", "--timezone=off", "--resolv-conf=replace-host", "--console=read-only",
        *options.mask_words(options.ASLEEP),
    ]  # fmt: skip


def _content(path: str) -> bytes:
    try:
        return files.read_head(path, 1 << 20)
    except OSError:
        return b""
