"""What a tree says of the computer it comes from: its name and its id, which each machine has of its own."""

from __future__ import annotations

import stat

from ..host import beneath
from . import inside


def give_none(root: str) -> None:
    """Leave the tree ``root`` without a name and an id; raises HostError."""
    # Empty, not missing: systemd then takes the id that nspawn hands out afresh to each machine, and does not run
    # what is meant for the first start of a computer (machine-id(5)).
    inside.write(root, "etc/machine-id", b"", mode=0o444)
    inside.remove(root, "var/lib/dbus/machine-id")
    # The machine's own name counts where there is none in the image (hostname(5)).
    inside.remove(root, "etc/hostname")


def forget(root: str) -> None:
    """Take from the tree ``root``, of whatever kind, the name and the id that it has; nothing new is made in it.

    Raises HostError where a folder on the way is none.
    """
    if beneath.exists(root, "etc/machine-id") and inside.read(root, "etc/machine-id").content:
        inside.write(root, "etc/machine-id", b"", mode=0o444)
    for path in ("var/lib/dbus/machine-id", "etc/hostname"):
        if beneath.exists(root, path) and not stat.S_ISLNK(inside.read(root, path).mode):
            inside.remove(root, path)
