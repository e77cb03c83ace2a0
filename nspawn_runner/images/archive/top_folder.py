"""Archives with a single top folder, such as Arch Linux's: the folder's content becomes the tree."""

from __future__ import annotations

import os
import stat

from .unpack import Report

# The folders at the top of every tree.
_OF_A_TREE = ("etc", "usr")
_ASIDE = ".top"


def move_up(root: str, report: Report) -> Report:
    """If ``root`` holds a single folder with a tree, make that ``root``; remove files beside it, such as lists.

    Return ``report`` with the folder's name, or unchanged. Follows no links.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    outer = os.open(root, flags)
    try:
        modes = {name: os.lstat(name, dir_fd=outer).st_mode for name in os.listdir(outer)}
        folders = [name for name, mode in modes.items() if not stat.S_ISREG(mode)]
        if len(folders) != 1 or not stat.S_ISDIR(modes[folders[0]]):
            return report
        inner = os.open(folders[0], flags, dir_fd=outer)
        try:
            if not set(_OF_A_TREE) <= set(os.listdir(inner)):
                return report
            for name in modes.keys() - {*folders}:
                os.unlink(name, dir_fd=outer)
            # Otherwise nothing in it could have its name.
            os.rename(folders[0], _ASIDE, src_dir_fd=outer, dst_dir_fd=outer)
            there = os.fstat(inner)
            for name in os.listdir(inner):
                if name != _ASIDE:
                    os.rename(name, name, src_dir_fd=inner, dst_dir_fd=outer)
            _dress(outer, inner, there)
        finally:
            os.close(inner)
        os.rmdir(_ASIDE, dir_fd=outer)
        os.utime(outer, ns=(there.st_mtime_ns, there.st_mtime_ns))
    finally:
        os.close(outer)
    return report._replace(top=folders[0], beside_top=len(modes) - 1)


def _dress(outer: int, inner: int, there: os.stat_result) -> None:
    """Give the folder ``outer`` the owner, mode and attributes of ``inner``."""
    os.fchown(outer, there.st_uid, there.st_gid)
    os.fchmod(outer, stat.S_IMODE(there.st_mode))
    for name in os.listxattr(inner):
        os.setxattr(outer, name, os.getxattr(inner, name))
