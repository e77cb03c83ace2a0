"""What a tree says of the computer it comes from: its name and its id, which each machine has of its own."""

from __future__ import annotations

import stat

from ..host import beneath
from ..names import host_name
from . import inside

_NAME = "etc/hostname"


def give(root: str, image: str) -> None:
    """Give the new tree ``root`` the name of its ``image`` and no id; raises HostError."""
    # Empty, not missing: systemd then takes the id that nspawn hands out afresh to each machine, and does not run
    # what is meant for the first start of a computer (machine-id(5)).
    inside.write(root, "etc/machine-id", b"", mode=0o444)
    inside.remove(root, "var/lib/dbus/machine-id")
    # As every system has it (hostname(5)); in a machine it is the machine's.
    inside.write(root, _NAME, f"{host_name(image)}\n".encode())


def rename(root: str, image: str) -> None:
    """Give the tree ``root``, a copy of another image's, the name of ``image`` where it has one; raises HostError."""
    if beneath.exists(root, _NAME) and stat.S_ISREG(inside.read(root, _NAME).mode):
        inside.write(root, _NAME, f"{host_name(image)}\n".encode())


def forget(root: str) -> None:
    """Take from the tree ``root``, of whatever kind, the name and the id that it has; nothing new is made in it.

    Raises HostError where a folder on the way is none.
    """
    if beneath.exists(root, "etc/machine-id") and inside.read(root, "etc/machine-id").content:
        inside.write(root, "etc/machine-id", b"", mode=0o444)
    for path in ("var/lib/dbus/machine-id", _NAME):
        if beneath.exists(root, path) and not stat.S_ISLNK(inside.read(root, path).mode):
            inside.remove(root, path)
