"""The state folder: its owner, its file system, its free space."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator

from ..host import files, locks, process, signals, trees
from ..machines import launcher
from ..nspawn import uid_ranges
from ..settings import paths
from ..settings.paths import RUN_FOLDER
from . import Context, Finding, failed, ok, warning

# A job that installs a few packages writes some hundred MiB and some ten thousand files.
_FEW_BYTES, _TOO_FEW_BYTES = 5 << 30, 500 << 20
_FEW_INODES, _TOO_FEW_INODES = 200_000, 20_000
_FEW_BYTES_OF_RUN = 4 << 20
# Of no machine: the first slot is 2.
_UID_BASE = uid_ranges.base(0)
_OWN_MOUNTS = ["unshare", "--mount", "--propagation=private", "--"]
LOCK = f"{RUN_FOLDER}/doctor.lock"
_SHIFT = """
import sys
_, place, source, target, uid_base = sys.argv
sys.path.insert(0, place)
from launcher import mount_idmapped
mount_idmapped(source, target, int(uid_base))
"""


def state_folder(context: Context) -> Iterator[Finding]:
    """The state folder is root's, and what lies there can be run."""
    folder = context.settings.state_folder
    try:
        there = os.stat(folder)
    except FileNotFoundError:
        yield warning(f"there is no {folder}", "nspawn-runner chroot-create bookworm")
        return
    if there.st_uid != 0 or there.st_mode & 0o022:
        yield failed(f"{folder} can be written by others than root", f"chown root {folder}; chmod 0700 {folder}")
    elif there.st_mode & 0o077:
        text = f"{folder} can be entered by others than root: to them a setuid program of an image is a way to root"
        yield warning(text, f"chmod 0700 {folder}")
    flags = os.statvfs(folder).f_flag
    wrong = {"ro": os.ST_RDONLY, "noexec": os.ST_NOEXEC, "nosuid": os.ST_NOSUID, "nodev": os.ST_NODEV}
    options = [name for name, flag in wrong.items() if flags & flag]
    if options:
        ask = ["findmnt", "--json", "--output=TARGET", f"--target={folder}"]
        point = json.loads(process.run(ask).stdout)["filesystems"][-1]["target"]
        better = ",".join({"ro": "rw"}.get(name, name.removeprefix("no")) for name in options)
        tell = failed if {"ro", "noexec"} & {*options} else warning
        mend = f"mount --options=remount,{better} {point}"
        yield tell(f"{folder} is mounted {','.join(options)}", mend, advice="and in /etc/fstab, for the next boot")
    elif there.st_uid == 0 and not there.st_mode & 0o077:
        yield ok(f"{folder} on {files.file_system(folder)}")


def backend(context: Context) -> Iterator[Finding]:
    """What a machine's root is made of works here: it is made once, with an empty tree."""
    settings = context.settings
    if not os.path.isdir(settings.state_folder) or os.statvfs(settings.state_folder).f_flag & os.ST_RDONLY:
        return  # reported already
    on_btrfs = files.file_system(settings.state_folder) == "btrfs"
    if settings.backend == "btrfs" and not on_btrfs:
        yield failed(
            f'backend = "btrfs", but {settings.state_folder} is not on btrfs',
            advice=f'backend = "auto" in the settings, or mount a btrfs on {settings.state_folder}',
        )
        return
    files.make_private_folder(RUN_FOLDER)
    # The name is always the same, so that what a killed doctor left goes with the next one.
    trial, folder = trial_places(settings.state_folder)
    with locks.locked(LOCK, what="doctor's trial of the backend"):
        try:
            remove_trial(settings.state_folder)
            files.make_private_folder(trial)
            snapshots = on_btrfs and settings.backend in {"auto", "btrfs"}
            yield _try_btrfs(trial, folder, context) if snapshots else _try_overlay(trial, folder, context)
        finally:
            with signals.held():
                remove_trial(settings.state_folder)


def _try_overlay(trial: str, folder: str, context: Context) -> Finding:
    """Let the launcher of machines mount a tree as it does for them, in a mount namespace of its own."""
    uid_base = _UID_BASE if context.own.user_namespace else 0
    trees.make(f"{trial}/root")
    for name in ("upper", "work"):
        os.makedirs(f"{trial}/layer/{name}")
        os.chown(f"{trial}/layer/{name}", uid_base, uid_base)
    ask = ["stat", "--format=%u", f"{folder}/merged"]
    launch = [sys.executable, "-I", "-S", launcher.__file__, f"{trial}/root", f"{trial}/layer", folder, str(uid_base)]
    done = process.run([*_OWN_MOUNTS, *launch, *ask], check=False)
    if done.returncode or int(done.stdout) != uid_base:
        return _no_layers("overlay", done.stderr)
    return ok("overlay works" + (", with users of its own for each machine" if uid_base else ""))


def _try_btrfs(trial: str, folder: str, context: Context) -> Finding:
    """Make a snapshot, and shift its users as systemd-nspawn does for machines."""
    trees.make(f"{trial}/root")
    trees.copy(f"{trial}/root", f"{trial}/snapshot")
    if not trees.is_subvolume(f"{trial}/snapshot"):
        return failed("btrfs makes no snapshots here", advice="dmesg may say why")
    if not context.own.user_namespace:
        return ok("btrfs makes snapshots")
    os.makedirs(folder)
    place = [os.path.dirname(launcher.__file__), f"{trial}/snapshot", folder, str(_UID_BASE)]
    done = process.run([*_OWN_MOUNTS, sys.executable, "-I", "-S", "-c", _SHIFT, *place], check=False)
    if done.returncode:
        return _no_layers("btrfs", done.stderr)
    return ok("btrfs makes snapshots, with users of its own for each machine")


def _no_layers(name: str, said: bytes) -> Finding:
    lines = said.decode(errors="replace").strip().splitlines()
    reason = lines[-1].rpartition("nspawn-runner: ")[2] if lines else "the owner is not shifted"
    if "user namespace" in reason:
        return failed(f"{name}: {reason}", "sysctl --write user.max_user_namespaces=100000")
    return failed(
        f"{name} does not work here, kernel {os.uname().release}: {reason}",
        advice="a kernel from 5.19 on, or user_namespace = false in the settings where jobs may be root on the host",
    )


def trial_places(state_folder: str) -> tuple[str, str]:
    """Return the folder of the trees that are tried, and that of their mount points."""
    return f"{state_folder}/{paths.TRIALS}", f"{RUN_FOLDER}/doctor"


def remove_trial(state_folder: str) -> None:
    """Remove what the trial of the backend makes; to be called with the lock."""
    trial, folder = trial_places(state_folder)
    for name in ("root", "snapshot"):
        trees.remove(f"{trial}/{name}")
    files.remove_tree(trial)
    files.remove_tree(folder)


def room(context: Context) -> Iterator[Finding]:
    """There is room for what jobs write, in bytes and in inodes."""
    folder = context.settings.state_folder
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    there = os.statvfs(folder)
    free_bytes = there.f_bavail * there.f_frsize
    text = f"{free_bytes / 2**30:.1f} GiB free on the disk of {folder}"
    advice = "nspawn-runner chroot-list --generations shows what images take: chroot-remove those that nobody needs"
    if free_bytes < _TOO_FEW_BYTES:
        yield failed(text, advice=advice)
    elif free_bytes < _FEW_BYTES:
        yield warning(text, advice=advice)
    if there.f_files and there.f_favail < _FEW_INODES:  # btrfs counts none
        tell = failed if there.f_favail < _TOO_FEW_INODES else warning
        yield tell(f"only {there.f_favail} inodes are free on the disk of {folder}", advice=advice)
    elif free_bytes >= _FEW_BYTES:
        yield ok(text)
    run = os.statvfs("/run")
    if run.f_bavail * run.f_frsize < _FEW_BYTES_OF_RUN or (run.f_files and run.f_favail < 1000):
        yield failed(
            "/run is full, where the records of machines are", advice="du --summarize /run/* shows what fills it"
        )


CHECKS = (state_folder, backend, room)
