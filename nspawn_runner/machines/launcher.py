"""The main process of an overlay machine's unit: mounts its tree in the unit's own namespace, becomes systemd-nspawn.

    launcher.py ROOT LAYER FOLDER UID_BASE NSPAWN ARGUMENT...

ROOT is the image's tree, LAYER holds upper and work directory, the mount points are made in FOLDER; with a UID_BASE
other than 0 the lower directory is ROOT with its ids 0 to 65535 shifted there. It runs with nothing but the standard
library (python3 -I -S) and imports little: its time is part of every job's start. System calls: open_tree(2),
mount_setattr(2), move_mount(2); numbers from the kernel's generic table, the same on all architectures.
"""

from __future__ import annotations

import ctypes
import os
import sys

OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOUNT_ATTR_IDMAP = 0x00100000
CLONE_NEWUSER = 0x10000000
UID_COUNT = 65536


class MountAttr(ctypes.Structure):
    """struct mount_attr of mount_setattr(2)."""

    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def main(root: str, layer: str, folder: str, uid_base: int, command: list[str]) -> None:
    """Mount the machine's tree on FOLDER/merged and become ``command``; does not return."""
    lower, merged = f"{folder}/lower", f"{folder}/merged"
    for path in (lower, merged):
        os.makedirs(path, mode=0o700, exist_ok=True)
    mount_idmapped(root, lower, uid_base)
    mount_overlay(lower, f"{layer}/upper", f"{layer}/work", merged)
    os.execvp(command[0], command)  # noqa: S606  (an argument list, no shell)


def mount_idmapped(source: str, target: str, uid_base: int) -> None:
    """Bind ``source`` to ``target`` with its ids shifted by ``uid_base``."""
    tree = check("open_tree", libc.syscall(OPEN_TREE, AT_FDCWD, source.encode(), OPEN_TREE_CLONE | os.O_CLOEXEC))
    if uid_base:
        namespace = user_namespace(uid_base)
        attributes = MountAttr(MOUNT_ATTR_IDMAP, 0, 0, namespace)
        size = ctypes.sizeof(attributes)
        check(
            "mount_setattr(idmap)",
            libc.syscall(MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, ctypes.byref(attributes), size),
        )
        os.close(namespace)
    check("move_mount", libc.syscall(MOVE_MOUNT, tree, b"", AT_FDCWD, target.encode(), MOVE_MOUNT_F_EMPTY_PATH))
    os.close(tree)


def user_namespace(uid_base: int) -> int:
    """Return a descriptor of a new user namespace whose ids 0 to 65535 are ``uid_base`` and up outside."""
    ready_reader, ready_writer = os.pipe()
    done_reader, done_writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(done_writer)
        failed = libc.unshare(CLONE_NEWUSER)
        os.write(ready_writer, b"0" if failed else b"1")
        os.read(done_reader, 1)  # ends when the parent has what it wants, or has died
        os._exit(0)
    os.close(done_reader)
    try:
        if os.read(ready_reader, 1) != b"1":
            raise OSError("cannot make a user namespace; see sysctl user.max_user_namespaces")
        for ids in ("uid_map", "gid_map"):
            with open(f"/proc/{child}/{ids}", "w") as file:
                file.write(f"0 {uid_base} {UID_COUNT}")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for fd in (ready_reader, ready_writer, done_writer):
            os.close(fd)
        os.waitpid(child, 0)


def mount_overlay(lower: str, upper: str, work: str, target: str) -> None:
    """Mount the overlay of ``lower``, ``upper`` and ``work`` directory on ``target``."""
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    check("mount overlay", libc.mount(b"overlay", target.encode(), b"overlay", 0, options.encode()))


def check(what: str, result: int) -> int:
    """Return ``result``; raises OSError that names the call when it is -1."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return int(result)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5:])
    except OSError as error:
        sys.exit(f"nspawn-runner: cannot mount the machine's tree: {error.strerror or error}")
