"""Pack what a local job may see of a folder into one git bundle, without touching the folder or its repository.

The folder may belong to another user. When root calls this, git and all reads of project files run as that user (see
owners.of): no link, alternate or gitdir: line shows the job what the user cannot read, and the repository's
configuration, which the user controls, never acts as root. The configuration must not run anything either, not even in
root's own folders: the user's repository is only asked for names (HEAD, tags, the files git knows), with hooks and
monitors off and no protocol allowed; objects and files are read through a repository of our own, without configuration.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import JobError
from ..host import files, owners, process
from ..host.owners import Owner
from . import repository
from .scripts import BUNDLE_REF, OTHER_BRANCHES

MAX_TAGS = 1000  # their names are arguments of git

_AUTHOR = {"NAME": "nspawn-runner exec", "EMAIL": "exec@localhost"}
_GITLINK = "160000"


class Checkout(NamedTuple):
    """What the bundle holds: the commit, the ref's name, the branch or tag if known, and notes for the log.

    ``shallow`` lists the commits whose parents are not in the bundle; ``remote`` is the URL of origin, if any. The
    tags of the history and the default branch are in it too, the latter below OTHER_BRANCHES.
    """

    sha: str
    ref: str
    branch: str | None
    tag: str | None
    shallow: tuple[str, ...]
    notes: tuple[str, ...]
    remote: str = ""


class _Source(NamedTuple):
    """The user's repository around the folder: its git folder, the folder's path in it, and HEAD's commit or ""."""

    common_dir: str
    prefix: str
    head: str


def pack(folder: str, bundle: str, *, dirty: bool) -> Checkout:
    """Write a git bundle of the project in ``folder`` to ``bundle`` and return what is in it.

    At the top of a repository: HEAD with its history. In a subfolder: that folder at HEAD, as a commit of its own.
    Outside a repository: the files as they are. With ``dirty``: the folder's current files except ignored ones, as a
    commit on top. Submodules are not included. Raises JobError if there is nothing to pack or the folder's owner may
    not read it.
    """
    folder = os.path.realpath(folder)
    owner = owners.of(folder)
    _need_access(folder, owner)
    source = _source(folder, owner)
    if source is not None and not source.head and not dirty:
        raise JobError(f"the repository of {folder} has no commit yet", advice="commit, or use the files with --dirty")
    with owners.acting_as(owner):
        # The owner cannot reach the bundle's folder.
        place = "/var/tmp" if owner else os.path.dirname(os.path.abspath(bundle))  # noqa: S108
        own = tempfile.mkdtemp(prefix="checkout-", dir=place)
    try:
        made = _Own(own, folder, source, owner)
        base = made.base(source)
        whole = dirty or source is None
        sha = made.commit_of_files(source, base) if whole or source is None else made.commit_of(source, base)
        notes = (*_project_notes(source), *made.notes(sha))
        made.git("update-ref", BUNDLE_REF, sha)
        branch, tag = _names(folder, source, owner) if source else (None, None)
        notes = (*notes, *_write_all(bundle, made, source, branch))
    finally:
        files.remove_tree(own)
    remote = repository.remote(folder, owner) if source else ""
    return Checkout(sha, branch or tag or "HEAD", branch, tag, made.shallow, notes, remote)


def _need_access(folder: str, owner: Owner | None) -> None:
    try:
        with owners.acting_as(owner):
            os.scandir(folder).close()
    except OSError as error:
        uid = owner.uid if owner else os.geteuid()
        raise JobError(
            f"the user {uid} cannot read {folder}: {error.strerror}",
            facts="a folder is read as its owner",
            advice="use a folder that its owner can reach",
        ) from None


def _write_all(bundle: str, made: _Own, source: _Source | None, branch: str | None) -> tuple[str, ...]:
    """Write the bundle with the tags of its history and the default branch; return a note if they are not all here."""
    others = _others(made, branch or "") if source and source.head and not source.prefix else []
    if not others:
        _write(bundle, made, [BUNDLE_REF])
        return ()
    try:
        made.git("update-ref", "--stdin", stdin="".join(f"create {ref} {sha}\n" for sha, ref in others).encode())
        _write(bundle, made, [BUNDLE_REF, *(ref for _, ref in others)])
    except JobError:  # a partial or shallow clone may lack what they lead to
        _write(bundle, made, [BUNDLE_REF])
        return ("the tags and the default branch are not in the sources: parts of them are not here",)
    return ()


def _others(made: _Own, own: str) -> list[tuple[str, str]]:
    """Return the commit and the name in the bundle of each tag of the history, and of the default branch.

    Not of the branch ``own``, which is in the bundle already, nor where the names exclude each other.
    """
    asked = ["--merged=HEAD", f"--count={MAX_TAGS}", "--format=%(objectname) %(refname)", "refs/tags"]
    listed, _ = repository.ask(made.folder, made.owner, "for-each-ref", *asked)
    tags = [line.partition(" ")[::2] for line in (listed or b"").decode(errors="surrogateescape").splitlines()]
    found = [(sha, ref) for sha, ref in tags if _is_object_id(sha)]
    default = repository.default_branch(made.folder, made.owner)
    excluded = f"{own}/".startswith(f"{default}/") or f"{default}/".startswith(f"{own}/")
    if default and not excluded:
        for place in (f"refs/remotes/origin/{default}", f"refs/heads/{default}"):
            sha = repository.line(made.folder, made.owner, "rev-parse", "--quiet", "--verify", f"{place}^{{commit}}")
            if _is_object_id(sha):
                return [*found, (sha, f"{OTHER_BRANCHES}/{default}")]
    return found


def _write(bundle: str, made: _Own, refs: Sequence[str]) -> None:
    """Write the bundle into a file that we open: the project's owner has no access to its folder."""
    fd = os.open(bundle, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        made.git("bundle", "create", "--quiet", "-", *refs, stdout=fd)
        os.fchmod(fd, 0o644)
    finally:
        os.close(fd)


def _project_notes(source: _Source | None) -> tuple[str, ...]:
    if source is None:
        return ("not a git repository: the job gets the files as they are",)
    if source.prefix:
        return (f"the project is the folder {source.prefix} of the repository, without its history",)
    return ()


def _source(folder: str, owner: Owner | None) -> _Source | None:
    """Return the repository that contains ``folder``, or None; raises JobError if git cannot read it."""
    asked = ["--git-common-dir", "--is-inside-work-tree", "--show-prefix"]
    answer, said = repository.ask(folder, owner, "rev-parse", "--path-format=absolute", *asked)
    if answer is None:
        # A .git file that points to a missing repository gives another message.
        if "not a git repository (or any" in said:
            return None
        raise JobError(f"git cannot read the repository of {folder}", facts=said)
    common_dir, inside, prefix = (*os.fsdecode(answer).split("\n"), "", "")[:3]
    if inside != "true":
        raise JobError(f"{folder} is not in the work tree of its repository", advice="run exec where the files are")
    return _Source(common_dir, prefix, repository.line(folder, owner, "rev-parse", "--quiet", "--verify", "HEAD"))


def _names(folder: str, source: _Source, owner: Owner | None) -> tuple[str | None, str | None]:
    """Return the branch of HEAD, or the tag that a detached HEAD is at, if any."""
    branch = repository.line(folder, owner, "symbolic-ref", "--quiet", "--short", "HEAD")
    if branch:
        return branch, None
    asked = [f"--points-at={source.head}", "--format=%(refname:strip=2)", "refs/tags"]
    tag = repository.line(folder, owner, "for-each-ref", *asked)
    return None, tag or None


class _Own:
    """A repository of our own in a temporary folder, with the user's objects and the folder's files."""

    def __init__(self, path: str, folder: str, source: _Source | None, owner: Owner | None) -> None:
        self.folder = folder
        self.owner = owner
        self.env = repository.environment() | {"GIT_DIR": path, "GIT_WORK_TREE": folder}
        self.env |= {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in _AUTHOR.items()}
        self.shallow: tuple[str, ...] = ()
        kind = "sha256" if source and len(source.head) == 64 else "sha1"
        bare = {name: value for name, value in self.env.items() if name != "GIT_WORK_TREE"}
        argv = ["git", "init", "--quiet", "--template=", f"--object-format={kind}", path]
        process.run(argv, env=bare, cwd=path, owner=owner)
        if source:
            with owners.acting_as(owner):
                self._join(path, source)

    def _join(self, path: str, source: _Source) -> None:
        objects = os.path.join(source.common_dir, "objects")
        os.makedirs(os.path.join(path, "objects/info"), exist_ok=True)
        with open(os.path.join(path, "objects/info/alternates"), "wb") as file:
            file.write(os.fsencode(objects) + b"\n")
        listed = os.path.join(source.common_dir, "shallow")
        if os.path.isfile(listed):
            with open(listed, encoding="ascii", errors="replace") as commits:
                self.shallow = tuple(line for line in commits.read().split() if _is_object_id(line))
            with open(os.path.join(path, "shallow"), "w", encoding="ascii") as file:
                file.writelines(f"{commit}\n" for commit in self.shallow)

    def git(self, *arguments: str, stdin: bytes | None = None, stdout: int = process.PIPE) -> bytes:
        """Run git in this repository and return its output; raises JobError with git's error message."""
        try:
            done = process.run(
                ["git", *arguments], stdin=stdin, stdout=stdout, env=self.env, cwd=self.folder, owner=self.owner
            )
        except process.CommandError as error:
            raise JobError(f"git cannot pack {self.folder}", facts=error.stderr or error.what) from error
        return done.stdout or b""

    def base(self, source: _Source | None) -> str:
        """Return the folder's tree at HEAD, or "" if HEAD does not have the folder."""
        if source is None or not source.head:
            return ""
        self.env["GIT_COMMITTER_DATE"] = self.env["GIT_AUTHOR_DATE"] = self.date(source.head)
        place = f"{source.head}^{{tree}}" if not source.prefix else f"{source.head}:{source.prefix.rstrip('/')}"
        argv = ["git", "rev-parse", "--quiet", "--verify", place]
        done = process.run(argv, check=False, env=self.env, cwd=self.folder, owner=self.owner)
        if done.returncode and not source.prefix:
            raise JobError(f"the repository of {self.folder} lacks its commit {source.head}", advice="try: git fsck")
        return done.stdout.decode().strip() if done.returncode == 0 else ""

    def date(self, sha: str) -> str:
        return self.git("show", "--no-patch", "--format=%cI", sha, "--").decode().strip()

    def commit_of(self, source: _Source, base: str) -> str:
        """Return HEAD, or for a subfolder a new commit of its tree at HEAD."""
        if not source.prefix:
            return source.head
        if not base:
            raise JobError(
                f"no commit holds {self.folder}", advice="commit it, or use the files as they are with --dirty"
            )
        return self.commit(base, "")

    def commit_of_files(self, source: _Source | None, base: str) -> str:
        """Return a commit of the folder's current files, or HEAD if they are the same."""
        if base:
            self.git("read-tree", base)
        files = self.files(source)
        # --replace: a folder may have become a file, or vice versa.
        how = ["-z", "--add", "--remove", "--replace", "--stdin"]
        self.git("update-index", *how, stdin=b"".join(name + b"\0" for name in files))
        tree = self.git("write-tree").decode().strip()
        top = source.head if source and not source.prefix else ""
        return top if top and tree == base else self.commit(tree, top)

    def commit(self, tree: str, parent: str) -> str:
        parents = ["-p", parent] if parent else []
        return self.git("commit-tree", tree, *parents, stdin=b"Files for nspawn-runner exec\n").decode().strip()

    def files(self, source: _Source | None) -> list[bytes]:
        """Return the paths to commit in their current state: those in HEAD or the user's index, or not ignored.

        Submodules, other repositories in the folder, and what a sparse checkout leaves out stay as they are at HEAD.
        """
        listed = self.git("ls-files", "-z", "--cached", "--stage").split(b"\0")[:-1]
        links = {_path(line) for line in listed if line.startswith(_GITLINK.encode())}
        names = {_path(line) for line in listed} - links
        if source is None:
            names |= set(self.git("ls-files", "-z", "--others", "--exclude-standard").split(b"\0"))
        else:
            asked = ["-z", "-t", "--cached", "--others", "--exclude-standard"]
            known, said = repository.ask(self.folder, self.owner, "ls-files", *asked)
            if known is None:
                raise JobError(f"git cannot list the files of {self.folder}", facts=said)
            for line in known.split(b"\0")[:-1]:
                if line.startswith(b"S "):
                    names.discard(line[2:])
                else:
                    names.add(line[2:])
        names -= links
        with owners.acting_as(self.owner):
            return sorted(name for name in names if name and not name.endswith(b"/") and self.is_file(name))

    def is_file(self, name: bytes) -> bool:
        """Return whether git can take ``name``: a file, a link, or a deleted path; not a folder or a socket."""
        root = os.fsencode(self.folder)
        path = os.path.join(root, name)
        if os.path.dirname(name) and os.path.realpath(os.path.dirname(path)) != os.path.dirname(path):
            return False  # below a link: the commit holds the link itself
        return os.path.islink(path) or os.path.isfile(path) or not os.path.lexists(path)

    def notes(self, sha: str) -> tuple[str, ...]:
        """Return messages about what the commit ``sha`` lacks."""
        notes = []
        listed = self.git("ls-tree", "-r", "-z", sha).split(b"\0")[:-1]
        links = [os.fsdecode(_path(line)) for line in listed if line.startswith(_GITLINK.encode())]
        if links:
            notes.append(f"submodules are not cloned: {', '.join(links)}")
        argv = ["git", "cat-file", "blob", f"{sha}:.gitattributes"]
        done = process.run(argv, check=False, env=self.env, cwd=self.folder, owner=self.owner)
        if b"filter=lfs" in done.stdout:
            notes.append("Git LFS files are not fetched: the job sees their pointers")
        return tuple(notes)


def _path(line: bytes) -> bytes:
    """Return the path in a line of ls-files --stage or ls-tree: what follows the tab."""
    return line.partition(b"\t")[2]


def _is_object_id(text: str) -> bool:
    return len(text) in {40, 64} and all(char in "0123456789abcdef" for char in text)
