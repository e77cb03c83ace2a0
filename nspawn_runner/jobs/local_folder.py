"""The folder in a project where a run leaves logs and artifacts: .nspawn-runner, which git ignores.

It belongs to the project's owner, and is made and filled as that user. A project may come with anything in its place:
nothing is written through a link.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat

from ..errors import JobError
from ..host import owners, process
from ..host.owners import Owner
from . import artifact_files

NAME = ".nspawn-runner"
LOG = "job.log"
_MOST_NAME = 100


class LocalFolder:
    """The folder ``path``, made if it is missing; raises JobError if it cannot be used."""

    def __init__(self, path: str, owner: Owner | None) -> None:
        self.path = os.path.abspath(path)
        self.owner = owner
        self._jobs: dict[str, str] = {}  # whose each folder is
        with owners.acting_as(owner):
            self._make(self.path)
            self._write(os.path.join(self.path, ".gitignore"), b"*\n")

    def begin(self, job: str) -> int:
        """Make an empty folder for ``job`` and return a descriptor of its log, open for writing."""
        folder = self.of(job)
        # An earlier run's: rm follows no link.
        process.run(["rm", "--recursive", "--force", "--one-file-system", "--", folder], owner=self.owner, cwd="/")
        with owners.acting_as(self.owner):
            self._make(folder)
            return self._open(os.path.join(folder, LOG), os.O_EXCL)

    def of(self, job: str) -> str:
        """Return the folder of ``job``, which is no other job's in this run."""
        name = re.sub(r"[^\w.+-]+", "-", job, flags=re.ASCII).strip("-.")[:_MOST_NAME] or "job"
        if not job.isascii() or self._jobs.setdefault(name, job) != job:
            name = f"{name}-{hashlib.sha256(job.encode(errors='surrogateescape')).hexdigest()[:8]}"
        return os.path.join(self.path, name)

    def keep(self, job: str, results: str) -> list[str]:
        """Unpack what ``job`` left in the folder ``results``; return what went wrong."""
        problems = []
        for archive, name in ((artifact_files.FILES, "artifacts"), (artifact_files.REPORTS, "reports")):
            if os.path.exists(f"{results}/{archive}"):
                problem = self.unpack(job, f"{results}/{archive}", name)
                problems += [f"not all {name} could be unpacked: {problem}"] if problem else []
        return problems

    def unpack(self, job: str, archive: str, name: str) -> str:
        """Unpack ``archive``, which the job made, to a folder ``name`` in the job's; return what went wrong, or "".

        tar runs as the project's owner, makes no device, and follows no link of the archive while it unpacks.
        """
        folder = os.path.join(self.of(job), name)
        try:
            with owners.acting_as(self.owner):
                os.mkdir(folder)
        except OSError as error:  # somebody may tidy up meanwhile
            return f"cannot make {folder}: {error.strerror}"
        bounded = ["setpriv", "--bounding-set=-mknod,-setfcap", "--inh-caps=-mknod,-setfcap", "--"]
        how = ["--no-same-owner", "--no-same-permissions", "--delay-directory-restore", "--exclude=.git"]
        argv = ["tar", "--extract", "--file=-", f"--directory={folder}", *how]
        fd = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
        try:
            prefix = [] if self.owner else bounded
            done = process.run([*prefix, *argv], stdin=fd, check=False, owner=self.owner, cwd="/")
        finally:
            os.close(fd)
        return done.stderr.decode(errors="replace").strip().partition("\n")[0] if done.returncode else ""

    def log_of(self, job: str) -> int:
        """Return a descriptor of the log of ``job``, open for reading; raises OSError."""
        with owners.acting_as(self.owner):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            return os.open(os.path.join(self.of(job), LOG), flags)

    def _make(self, path: str) -> None:
        try:
            os.mkdir(path, mode=0o755)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise JobError(f"{path} is not a folder", advice="remove it: runs leave their logs there") from None
        except OSError as error:
            raise JobError(f"cannot make {path}: {error.strerror}") from None

    def _write(self, path: str, content: bytes) -> None:
        fd = self._open(path, os.O_TRUNC)
        try:
            os.write(fd, content)
        finally:
            os.close(fd)

    def _open(self, path: str, flags: int) -> int:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | flags, 0o644)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                raise OSError(0, "it is not a file")
        except OSError as error:
            raise JobError(f"cannot write {path}: {error.strerror}") from None
        return fd
