"""The host's side of handing on a job's files: what the machine wrote, taken without trusting it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping

from ..errors import JobError
from ..host import beneath, files
from ..pipeline import artifact_choice, artifact_scripts
from ..pipeline.artifact_choice import ChosenFiles
from ..pipeline.ci_job import Artifacts

FILES, REPORTS = "artifacts.tar", "reports.tar"


def make_shared(results: str) -> str:
    """Make the folder in ``results`` that the machine writes to, and return its path.

    Any user of the machine may write there; no other user of the host reaches it, as ``results`` is private.
    """
    files.make_private_folder(results)
    folder = shared(results)
    os.mkdir(folder)
    os.chmod(folder, 0o777)  # noqa: S103  (see above)
    return folder


def shared(results: str) -> str:
    """Return the path of the folder that the machine writes to."""
    return f"{results}/shared"


def choose(kept: Artifacts, folder: str, variables: Mapping[str, str]) -> ChosenFiles:
    """Return which of the files that the machine listed in ``folder`` are kept; raises JobError if it did not."""
    there = _names(folder, artifact_scripts.ALL)
    untracked = _names(folder, artifact_scripts.UNTRACKED) if kept.untracked else []
    return artifact_choice.choose(kept, map(os.fsdecode, there), map(os.fsdecode, untracked), variables)


def _names(folder: str, name: str) -> list[bytes]:
    """Return the names in the list ``name``; raises JobError if there are more than we take."""
    content = _read(folder, name)
    # Counted before it is split: the job may have written nothing but NULs.
    if len(content) == artifact_scripts.MOST_BYTES or content.count(b"\0") > artifact_choice.MAX_FILES:
        raise JobError(
            f"the project's folder has more than {artifact_choice.MAX_FILES} files, too many to choose artifacts from",
            advice="remove what is not needed in after_script",
        )
    return content.split(b"\0")


def _read(folder: str, name: str) -> bytes:
    try:
        fd = beneath.open_file(folder, name)
    except OSError:
        raise JobError("the list of the job's files is gone", advice="nothing else may write below /run") from None
    with os.fdopen(fd, "rb") as file:
        return file.read(artifact_scripts.MOST_BYTES)


def take(results: str) -> list[tuple[str, int]]:
    """Move what the machine packed out of its reach; return each archive's name and size in bytes."""
    taken = []
    for name in (FILES, REPORTS, artifact_scripts.DOTENV):
        target = f"{results}/{name}"
        try:
            os.rename(f"{shared(results)}/{name}", target)
        except FileNotFoundError:
            continue
        # Only now nobody can put anything else in its place.
        found = os.lstat(target)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            files.remove_tree(target)
            raise JobError("the job put something else in the place of its artifacts")
        os.chown(target, 0, 0)
        os.chmod(target, 0o644)
        if name != artifact_scripts.DOTENV:
            taken.append((name, found.st_size))
    return taken


def dotenv(results: str) -> tuple[dict[str, str], list[str]]:
    """Return the variables that a job hands on, and what is wrong with its report; none without one."""
    path = f"{results}/{artifact_scripts.DOTENV}"
    if not os.path.exists(path):
        return {}, []
    return artifact_choice.dotenv_variables(files.read_head(path, artifact_choice.MAX_DOTENV_BYTES + 1))


def gather(folder: str, results: Iterable[str]) -> str:
    """Put the archives of earlier jobs in a new ``folder``, in their order; return it, or nothing if there are none."""
    archives = [path for each in results if os.path.exists(path := f"{each}/{FILES}")]
    if not archives:
        return ""
    os.makedirs(folder, mode=0o755)
    for number, path in enumerate(archives):
        os.link(path, f"{folder}/{number:05d}.tar")
    return folder


def archives(folder: str) -> list[str]:
    """Return the names of the archives in ``folder`` in their order."""
    return sorted(os.listdir(folder))
