"""Set a tree's name and machine-id, and remove traces of the host that built it."""

from __future__ import annotations

import stat

from ...host import beneath, tree_files
from ...names import host_name

_NAME = "etc/hostname"
_HOSTS = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def clean_up(root: str, image: str) -> None:
    """Finish the new tree ``root`` of ``image``: names, resolver, locale, remains of apt; raises HostError."""
    give(root, image)
    # The builders copy the host's; a machine gets its own when it starts.
    tree_files.write(root, "etc/resolv.conf", b"")
    if not tree_files.read(root, "etc/hosts").mode:
        tree_files.write(root, "etc/hosts", _HOSTS)
    tree_files.write(root, "etc/locale.conf", b"LANG=C.UTF-8\n")
    tree_files.link(root, "etc/default/locale", "../locale.conf")
    # mmdebstrap leaves its dpkg options here; they were for the build only.
    tree_files.remove(root, "etc/dpkg/dpkg.cfg.d/99mmdebstrap")
    for folder in ("var/lib/apt/lists", "var/cache/apt/archives", "var/cache/apt", "var/log/apt"):
        tree_files.remove_files(root, folder)
    # Ansible's cache_valid_time goes by this date: empty lists must not look fresh.
    tree_files.set_old(root, "var/lib/apt/lists")
    tree_files.remove(root, "var/log/bootstrap.log")
    tree_files.remove(root, "var/log/dpkg.log")


def give(root: str, image: str) -> None:
    """Give the new tree ``root`` the name of its ``image`` and no id; raises HostError."""
    # Empty, not missing: systemd then takes the new id that nspawn gives to each machine, and skips the
    # first-boot units (machine-id(5)).
    tree_files.write(root, "etc/machine-id", b"", mode=0o444)
    tree_files.remove(root, "var/lib/dbus/machine-id")
    # Every system has one (hostname(5)); a machine gets its own.
    tree_files.write(root, _NAME, f"{host_name(image)}\n".encode())


def rename(root: str, image: str) -> None:
    """Name the tree ``root``, a copy of another, after ``image`` if it has a hostname file; raises HostError."""
    if beneath.exists(root, _NAME) and stat.S_ISREG(tree_files.read(root, _NAME).mode):
        tree_files.write(root, _NAME, f"{host_name(image)}\n".encode())


def forget(root: str) -> None:
    """Clear the name and the id of any tree ``root``, without creating anything in it.

    Raises HostError when something on the way to a file is not a folder.
    """
    if beneath.exists(root, "etc/machine-id") and tree_files.read(root, "etc/machine-id").content:
        tree_files.write(root, "etc/machine-id", b"", mode=0o444)
    for path in ("var/lib/dbus/machine-id", _NAME):
        if beneath.exists(root, path) and not stat.S_ISLNK(tree_files.read(root, path).mode):
            tree_files.remove(root, path)
