"""A tree's name and machine-id, and traces of the host that built it."""

from __future__ import annotations

import stat

from ...host import beneath, tree_files
from ...names import host_name

_NAME = "etc/hostname"
_HOSTS = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def clean_up(root: str, image: str) -> None:
    """Settle the new tree ``root`` of ``image``: names, resolver, locale, what apt left; raises HostError."""
    give(root, image)
    # The builders copy the host's; machines get one at their start.
    tree_files.write(root, "etc/resolv.conf", b"")
    if not tree_files.read(root, "etc/hosts").mode:
        tree_files.write(root, "etc/hosts", _HOSTS)
    tree_files.write(root, "etc/locale.conf", b"LANG=C.UTF-8\n")
    tree_files.link(root, "etc/default/locale", "../locale.conf")
    # mmdebstrap keeps the options it was given; they were for the building only.
    tree_files.remove(root, "etc/dpkg/dpkg.cfg.d/99mmdebstrap")
    for folder in ("var/lib/apt/lists", "var/cache/apt/archives", "var/cache/apt", "var/log/apt"):
        tree_files.remove_files(root, folder)
    # Ansible's cache_valid_time goes by this date: empty lists must not look fresh.
    tree_files.set_old(root, "var/lib/apt/lists")
    tree_files.remove(root, "var/log/bootstrap.log")
    tree_files.remove(root, "var/log/dpkg.log")


def give(root: str, image: str) -> None:
    """Give the new tree ``root`` the name of its ``image`` and no id; raises HostError."""
    # Empty, not missing: systemd then takes the id that nspawn hands out afresh to each machine, and does not run
    # what is meant for the first start of a computer (machine-id(5)).
    tree_files.write(root, "etc/machine-id", b"", mode=0o444)
    tree_files.remove(root, "var/lib/dbus/machine-id")
    # As every system has it (hostname(5)); in a machine it is the machine's.
    tree_files.write(root, _NAME, f"{host_name(image)}\n".encode())


def rename(root: str, image: str) -> None:
    """Give the tree ``root``, a copy of another image's, the name of ``image`` where it has one; raises HostError."""
    if beneath.exists(root, _NAME) and stat.S_ISREG(tree_files.read(root, _NAME).mode):
        tree_files.write(root, _NAME, f"{host_name(image)}\n".encode())


def forget(root: str) -> None:
    """Take from the tree ``root``, of whatever kind, the name and the id that it has; nothing new is made in it.

    Raises HostError where a folder on the way is none.
    """
    if beneath.exists(root, "etc/machine-id") and tree_files.read(root, "etc/machine-id").content:
        tree_files.write(root, "etc/machine-id", b"", mode=0o444)
    for path in ("var/lib/dbus/machine-id", _NAME):
        if beneath.exists(root, path) and not stat.S_ISLNK(tree_files.read(root, path).mode):
            tree_files.remove(root, path)
