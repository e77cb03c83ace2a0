"""Make the shell scripts of a local job's stages; pure functions.

Every script ends with ``exit``: what follows it on the shell's stdin is not for the shell. They are written for bash
and work with a POSIX shell too, less what only bash can do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .ci_file import CiJob
from .headings import GREEN, painted

# The one reference of the bundle that the sources come in.
BUNDLE_REF = "refs/heads/exec"

# Some POSIX shells have no pipefail, and would end at an option they do not know.
_STRICT = ["set -e", "if (set -o pipefail) 2>/dev/null; then set -o pipefail; fi"]


def quoted(text: str) -> str:
    """Return ``text``, which has no NUL, as one word of a shell script that stands for exactly these characters."""
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
) -> bytes:
    """Return a script that clones the git ``bundle`` to ``project_dir`` and checks out ``sha``, detached as on GitLab.

    ``bundle`` is a path in the machine, ``shallow`` the commits whose parents are not in it. A ``strategy`` of "none"
    or "empty" (GIT_STRATEGY) makes an empty folder.
    """
    folder = quoted(project_dir)
    lines = ["set -e", f"rm -rf -- {folder}", f"mkdir -p -- {folder}", f"cd -- {folder}"]
    if strategy in {"none", "empty"}:
        return _script([*lines, "echo 'Skipping Git repository setup'", "exit 0"])
    missing = "ERROR: there is no git in this image, which is needed to get the sources; add it to the image"
    kind = " --object-format=sha256" if len(sha) == 64 else ""
    lines += [
        f"command -v git >/dev/null || {{ echo {quoted(missing)}; exit 1; }}",
        "echo 'Fetching the sources...'",
        # Files of Git LFS would be asked of a server that this clone does not know.
        "export GIT_LFS_SKIP_SMUDGE=1 GIT_TERMINAL_PROMPT=0",
        f"git -c init.defaultBranch=main init{kind} .",
    ]
    if shallow:
        lines.append(f"printf '%s\\n' {' '.join(quoted(commit) for commit in shallow)} >.git/shallow")
    lines.append(f"git fetch --quiet --no-tags {quoted(bundle)} {quoted(f'+{BUNDLE_REF}:refs/remotes/origin/{ref}')}")
    lines.append(f"echo {quoted(f'Checking out {sha[:8]} as detached HEAD (ref is {ref})...')}")
    lines.append(f"git checkout --quiet --force --detach {quoted(sha)}")
    if tag is not None:
        lines.append(f"git tag -- {quoted(tag)} {quoted(sha)}")
    return _script([*lines, "exit 0"])


def build_script(job: CiJob, project_dir: str, *, colour: bool = False) -> bytes:
    """Return the script of ``job``: variables exported, before_script and script in one shell that ends at a failure.

    The commands read from /dev/null, and each is shown before it is run.
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
        # The shell reads this script on its own stdin, which no command may get hold of. As one word, the commands can
        # neither be cut short by what follows them nor swallow it.
        f"eval {quoted(body + chr(10))} </dev/null",
        "exit 0",
    ])


def _echo(command: str, *, colour: bool) -> str:
    """Return the line that shows ``command``; of several lines the first, as GitLab does."""
    lines = command.strip("\n").split("\n")
    shown = lines[0] if len(lines) == 1 else f"{lines[0]} # collapsed multi-line command"
    return f"printf '%s\\n' {quoted(painted(f'$ {shown}', GREEN, colour=colour))}"


def _script(lines: Iterable[str]) -> bytes:
    # An argument of the command line that is no UTF-8 arrives as surrogates and leaves as the bytes it was.
    return ("\n".join(lines) + "\n").encode(errors="surrogateescape")
