"""Find a folder's owner and read it with that user's privileges."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

# For a uid without a passwd entry: its folder's group may be one that it is not in.
_NO_GROUP = 65534


class Owner(NamedTuple):
    """A user other than root, with the groups that a login gets."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def of(folder: str) -> Owner | None:
    """Return the user who controls ``folder`` or the git repository around it; None for root, or if we are not root.

    Searches upwards for the repository, so root's folder inside another user's counts as that user's, unless root's own
    repository begins there.
    """
    if os.geteuid() != 0:
        return None
    place = folder
    while True:
        uid = os.lstat(place).st_uid
        top = os.path.dirname(place) == place
        with suppress(FileNotFoundError, NotADirectoryError):
            uid = uid or os.lstat(os.path.join(place, ".git")).st_uid
            top = True
        if uid:
            return _owner(uid)
        if top:
            return None
        place = os.path.dirname(place)


def _owner(uid: int) -> Owner:
    import pwd

    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Owner(uid, _NO_GROUP, ())
    return Owner(uid, entry.pw_gid, tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)))


@contextmanager
def acting_as(owner: Owner | None) -> Iterator[None]:
    """Access files as ``owner`` inside the block; None changes nothing.

    Start no process inside, as it could become root again. /proc/self is out of reach meanwhile.
    """
    if owner is None:
        yield
        return
    gid, groups = os.getegid(), os.getgroups()
    try:
        os.setgroups(owner.groups)
        os.setegid(owner.gid)
        os.seteuid(owner.uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)
