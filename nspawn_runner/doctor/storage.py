"""The state folder: its owner, its file system, its free space."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

from ..errors import HostError
from ..host import files, locks, process, signals, trees
from ..machines import backends
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
LOCK = f"{RUN_FOLDER}/doctor.lock"


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
    files.make_private_folder(RUN_FOLDER)
    kind = files.file_system(settings.state_folder)
    # The name is always the same, so that what a killed doctor left goes with the next one.
    trial, folder = trial_places(settings.state_folder)
    with locks.locked(LOCK, what="doctor's trial of the backend"):
        try:
            remove_trial(settings.state_folder)
            files.make_private_folder(trial)
            trees.make(f"{trial}/root")
            try:
                name = backends.choose(settings.backend, f"{trial}/root", limited_disk=False)
            except HostError:
                yield failed(
                    f'backend = "{settings.backend}", but {settings.state_folder} is on {kind}',
                    advice=f'backend = "auto" in the settings, or mount a {settings.backend} there',
                )
                return
            yield _try(name, trial, folder, context)
        finally:
            with signals.held():
                remove_trial(settings.state_folder)


def _try(name: str, trial: str, folder: str, context: Context) -> Finding:
    uid_base = _UID_BASE if context.own.user_namespace else 0
    try:
        return ok(backends.named(name).try_out(f"{trial}/root", f"{trial}/layer", folder, uid_base))
    except HostError as error:
        if "user namespace" in error.what:
            return failed(error.what, "sysctl --write user.max_user_namespaces=100000")
        return failed(error.what, advice=error.advice)


def trial_places(state_folder: str) -> tuple[str, str]:
    """Return the folder of the trees that are tried, and that of their mount points."""
    return f"{state_folder}/{paths.TRIALS}", f"{RUN_FOLDER}/doctor"


def remove_trial(state_folder: str) -> None:
    """Remove what the trial of the backend makes; to be called with the lock."""
    trial, folder = trial_places(state_folder)
    for name in ("root", "layer"):
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
