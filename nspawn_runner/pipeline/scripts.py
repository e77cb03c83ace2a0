"""Generate the shell scripts of a local job's stages; pure functions.

Every script ends with ``exit``: the shell must not run what follows on its stdin. The scripts are written for bash and
also work in a POSIX shell, without what only bash can do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .ci_job import CiJob
from .headings import GREEN, painted

# The refs in the bundle of the sources: what is checked out, and other branches.
BUNDLE_REF = "refs/heads/exec"
OTHER_BRANCHES = "refs/others"

# Some POSIX shells have no pipefail, and exit at an unknown option.
_STRICT = ["set -e", "if (set -o pipefail) 2>/dev/null; then set -o pipefail; fi"]


def quoted(text: str) -> str:
    """Return ``text``, which has no NUL, quoted as one literal word of a shell script."""
    return "'" + text.replace("'", "'\\''") + "'"


def get_sources(
    bundle: str,
    project_dir: str,
    *,
    sha: str,
    ref: str,
    tag: str | None = None,
    shallow: Sequence[str] = (),
    strategy: str = "clone",
    remote: str = "",
    depth: int = 0,
) -> bytes:
    """Return a script that clones the git ``bundle`` to ``project_dir`` and checks out ``sha``, detached as on GitLab.

    ``bundle`` is a path in the machine, ``shallow`` the commits whose parents are not in it. With the ``strategy``
    (GIT_STRATEGY) "none" or "empty" the folder stays empty. ``remote`` becomes the URL of origin; a ``depth``
    (GIT_DEPTH) over 0 leaves only so many commits of the history.
    """
    folder = quoted(project_dir)
    lines = ["set -e", f"rm -rf -- {folder}", f"mkdir -p -- {folder}", f"cd -- {folder}"]
    if strategy in {"none", "empty"}:
        return _script([*lines, "echo 'Skipping Git repository setup'", "exit 0"])
    missing = "ERROR: there is no git in this image; getting the sources needs it: add it to the image"
    kind = " --object-format=sha256" if len(sha) == 64 else ""
    lines += [
        f"command -v git >/dev/null || {{ echo {quoted(missing)}; exit 1; }}",
        "echo 'Fetching the sources...'",
        # Git LFS would ask a server that this clone does not know.
        "export GIT_LFS_SKIP_SMUDGE=1 GIT_TERMINAL_PROMPT=0",
        f"git -c init.defaultBranch=main init{kind} .",
    ]
    if shallow:
        lines.append(f"printf '%s\\n' {' '.join(quoted(commit) for commit in shallow)} >.git/shallow")
    if remote:
        lines.append(f"git remote add origin {quoted(remote)}")
    refspecs = [f"+{BUNDLE_REF}:refs/remotes/origin/{ref}", f"+{OTHER_BRANCHES}/*:refs/remotes/origin/*"]
    if depth > 0:
        # A bundle cannot be fetched in part; a repository can.
        place = ".git/exec-source"
        lines.append(f"git init --quiet --bare{kind} {place}")
        if shallow:
            lines.append(f"cp .git/shallow {place}/shallow")
        lines.append(f"git -C {place} fetch --quiet --no-tags {quoted(bundle)} '+refs/*:refs/*'")
        lines.append(f'git fetch --quiet --depth={depth} "file://$PWD/{place}" {quoted(refspecs[0])}')
        lines.append(f"rm -rf -- {place}")
    else:
        words = " ".join(quoted(spec) for spec in (*refspecs, "+refs/tags/*:refs/tags/*"))
        lines.append(f"git fetch --quiet --no-tags {quoted(bundle)} {words}")
    lines.append(f"echo {quoted(f'Checking out {sha[:8]} as detached HEAD (ref is {ref})...')}")
    lines.append(f"git checkout --quiet --force --detach {quoted(sha)}")
    if tag is not None:
        there = quoted(f"refs/tags/{tag}")
        lines.append(f"git rev-parse --quiet --verify {there} >/dev/null || git tag -- {quoted(tag)} {quoted(sha)}")
    return _script([*lines, "exit 0"])


def build_script(job: CiJob, project_dir: str, *, colour: bool = False) -> bytes:
    """Return the script of ``job``: variables exported, before_script and script in one shell that exits on failure.

    The commands read from /dev/null, and each is printed before it runs.
    """
    environment = {**dict(job.variables), "CI_JOB_STATUS": "running"}
    return _commands_script(environment, project_dir, (*job.before_script, *job.script), colour=colour)


def after_script(job: CiJob, project_dir: str, status: str, *, colour: bool = False) -> bytes:
    """Return the script of the job's after_script; ``status`` is success, failed, canceled or timedout."""
    environment = {**dict(job.variables), "CI_JOB_STATUS": status}
    return _commands_script(environment, project_dir, job.after_script, colour=colour)


def _commands_script(
    environment: Mapping[str, str], project_dir: str, commands: Iterable[str], *, colour: bool
) -> bytes:
    body = "\n".join(line for command in commands for line in (_echo(command, colour=colour), command))
    return _script([
        *_STRICT,
        *(f"export {name}={quoted(value)}" for name, value in environment.items()),
        f"cd -- {quoted(project_dir)}",
        # The shell reads this script from its stdin, which no command may read. As one word, the commands can neither
        # be cut short by what follows them nor swallow it.
        f"eval {quoted(body + chr(10))} </dev/null",
        "exit 0",
    ])


def _echo(command: str, *, colour: bool) -> str:
    """Return the line that prints ``command``, or its first line if it has several, as GitLab does."""
    lines = command.strip("\n").split("\n")
    shown = lines[0] if len(lines) == 1 else f"{lines[0]} # collapsed multi-line command"
    return f"printf '%s\\n' {quoted(painted(f'$ {shown}', GREEN, colour=colour))}"


def _script(lines: Iterable[str]) -> bytes:
    # A command-line argument that is not UTF-8 arrives as surrogates; write its original bytes.
    return ("\n".join(lines) + "\n").encode(errors="surrogateescape")
