"""What is known of a project without a server: its folder, its commit, its branches and tags, where it came from."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from ..errors import JobError, UsageError
from ..host import owners
from ..host.owners import Owner
from . import repository
from .event import Event

MAX_WALKED = 200_000
MAX_MESSAGE = 64 * 1024  # a variable holds it
_URL = re.compile(r"(?:https?|ssh|git)://(?:[^/@]*@)?([^/:]+)(?::\d+)?/(.+)")
_SCP = re.compile(r"(?:[\w.-]+@)?([\w.-]+):(?!//)(.+)")  # git@host:group/project.git


class Origin(NamedTuple):
    """The server and the path of the project, as the remote ``origin`` has them; ``port`` is empty if it says none."""

    host: str
    path: str
    protocol: str = "https"
    port: str = ""


class CommitText(NamedTuple):
    """What a commit says of itself; ``timestamp`` is in seconds since 1970, ``author`` as ``Name <address>``."""

    message: str = ""
    author: str = ""
    timestamp: int = 0


class Project(NamedTuple):
    """A project's folder and what its repository says; empty texts where it says nothing.

    ``prefix`` is the folder's path in its repository, ``tag`` one that HEAD is at, ``remote`` the URL of origin.
    """

    folder: str
    owner: Owner | None
    prefix: str = ""
    sha: str = ""
    branch: str = ""
    tag: str = ""
    default_branch: str = ""
    remote: str = ""
    commit: CommitText = CommitText()

    def git(self, *arguments: str) -> str:
        """Return the first line of git's answer about the project's repository, empty if it fails."""
        return repository.line(self.folder, self.owner, *arguments)

    def lines(self, *arguments: str) -> list[str] | None:
        """Return what git lists, parts between NULs; None if it fails."""
        found, _ = repository.ask(self.folder, self.owner, *arguments)
        return None if found is None else [os.fsdecode(part) for part in found.split(b"\0") if part]


def folder_of(start: str, file: str) -> str:
    """Return the folder of the project that ``start`` is in: the nearest above that has ``file``, in one repository.

    Returns ``start`` itself if there is none.
    """
    place = os.path.realpath(start)
    while not os.path.lexists(os.path.join(place, file)):
        if os.path.lexists(os.path.join(place, ".git")) or os.path.dirname(place) == place:
            return start
        place = os.path.dirname(place)
    top = place
    while not os.path.lexists(os.path.join(top, ".git")):
        if os.path.dirname(top) == top:
            return start  # not in a repository: what lies above is not of this project
        top = os.path.dirname(top)
    return place


def read(folder: str) -> Project:
    """Return what is known of the project in ``folder``, as its owner may read it."""
    folder = os.path.realpath(folder)
    owner = owners.of(folder)
    bare = Project(folder, owner)
    if bare.git("rev-parse", "--is-inside-work-tree") != "true":
        return bare
    sha = bare.git("rev-parse", "--quiet", "--verify", "HEAD^{commit}")
    tags = ["for-each-ref", f"--points-at={sha}", "--sort=-creatordate", "--format=%(refname:strip=2)", "refs/tags"]
    return bare._replace(
        prefix=bare.git("rev-parse", "--show-prefix"),
        sha=sha,
        branch=bare.git("symbolic-ref", "--quiet", "--short", "HEAD"),
        tag=bare.git(*tags) if sha else "",
        default_branch=repository.default_branch(folder, owner),
        remote=repository.remote(folder, owner),
        commit=_commit(bare, sha) if sha else CommitText(),
    )


def origin(url: str) -> Origin | None:
    """Return what the ``url`` of a remote says of the server and the project; None if it is no server's."""
    found = _URL.fullmatch(url) or _SCP.fullmatch(url)
    if found is None or url.startswith("/"):
        return None
    path = found[2].rstrip("/").removesuffix(".git").strip("/")
    if "/" not in path or not re.fullmatch(r"[\w./+-]{1,400}", path) or not re.fullmatch(r"[\w.-]{1,100}", found[1]):
        return None
    port = re.match(r"https?://(?:[^/@]*@)?[^/:]+:(\d{1,5})/", url)
    return Origin(found[1].lower(), path, "http" if url.startswith("http:") else "https", port[1] if port else "")


def event(project: Project, name: str | None, target: str = "") -> Event:
    """Return the event ``name`` for the project as it is; by default a push of the branch or tag that is checked out.

    ``target`` is the branch that a merge request is for. Raises UsageError for a tag event without a tag.
    """
    name = name or ("push" if project.branch or not project.tag else "tag")
    if name == "tag" and not project.tag:
        raise UsageError("the commit has no tag", advice="make one: git tag NAME")
    is_tag = name == "tag"
    found = origin(project.remote)

    # Every rule of every job may ask.
    @cache
    def changed(compare_to: str) -> Sequence[str] | None:
        return _changed(project, name, compare_to, target or project.default_branch)

    @cache
    def there() -> Sequence[str]:
        return _files(project)

    return Event(
        name,
        project.tag if is_tag else project.branch or "HEAD",
        target or project.default_branch,
        is_tag=is_tag,
        project_path=found.path if found else "",
        changed=changed,
        files=there,
    )


def _commit(project: Project, sha: str) -> CommitText:
    raw, _ = repository.ask(project.folder, project.owner, "cat-file", "commit", sha)
    header, _, body = (raw or b"").partition(b"\n\n")
    fields = dict(line.partition(b" ")[::2] for line in reversed(header.split(b"\n")) if not line.startswith(b" "))
    author = fields.get(b"author", b"").decode(errors="replace")
    when = re.fullmatch(rb".*> (\d{1,12}) [+-]\d{4}", fields.get(b"committer", b""))
    message = body.decode(errors="replace").replace("\0", "")[:MAX_MESSAGE]
    return CommitText(message, author.rpartition(" ")[0].rpartition(" ")[0], int(when[1]) if when else 0)


def _changed(project: Project, name: str, compare_to: str, target: str) -> list[str] | None:
    """Return the paths that changed, as GitLab compares: https://docs.gitlab.com/ci/jobs/job_rules/#ruleschanges."""
    if compare_to:
        base = _resolved(project, compare_to)
        if not base:
            raise JobError(f'"compare_to" names {compare_to}, which is no commit here', advice="fetch it: git fetch")
    elif name == "merge_request":
        base = _resolved(project, target)
    elif name == "push" and project.branch:
        base = before_sha(project)
    else:
        return None
    if not base or not project.sha:
        return None
    if compare_to or name == "merge_request":
        base = project.git("merge-base", base, project.sha) or base
    options = ["-r", "-z", "--name-only", "--no-renames", "--no-ext-diff", "--ignore-submodules=none"]
    return _inside(project, project.lines("diff-tree", *options, base, project.sha))


def before_sha(project: Project) -> str:
    """Return the commit that a push of the branch would replace: origin's, or its parent if origin has it already.

    Empty for a branch that is new to origin.
    """
    there = project.git("rev-parse", "--quiet", "--verify", f"refs/remotes/origin/{project.branch}^{{commit}}")
    if there and there != project.sha:
        return there
    return project.git("rev-parse", "--quiet", "--verify", "HEAD^1^{commit}") if there else ""


def _resolved(project: Project, ref: str) -> str:
    if not ref or ref.startswith("-"):
        return ""
    for name in (f"refs/remotes/origin/{ref.removeprefix('refs/heads/')}", ref):
        sha = project.git("rev-parse", "--quiet", "--verify", f"{name}^{{commit}}")
        if sha:
            return sha
    return ""


def _inside(project: Project, paths: list[str] | None) -> list[str] | None:
    """Return those of the repository's ``paths`` that are the project's, from its folder."""
    if paths is None:
        return None
    return [path[len(project.prefix) :] for path in paths if path.startswith(project.prefix)]


def _files(project: Project) -> list[str]:
    if project.sha:
        return project.lines("ls-tree", "-r", "-z", "--name-only", "HEAD") or []
    found: list[str] = []
    with owners.acting_as(project.owner):
        for folder, folders, names in os.walk(project.folder):
            folders[:] = sorted(name for name in folders if name != ".git")
            found += (os.path.relpath(os.path.join(folder, name), project.folder) for name in names)
            if len(found) > MAX_WALKED:
                raise JobError(f"{project.folder} has more than {MAX_WALKED} files")
    return found


def iso(timestamp: float) -> str:
    """Return a time as GitLab writes it, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(timestamp))
