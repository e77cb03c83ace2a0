"""Ask the user's repository for names, without letting its configuration run anything.

Only commands that read names and raw objects are called (plumbing): what shows commits to people may call programs that
the configuration names.
"""

from __future__ import annotations

import os
import re

from ..host import process
from ..host.owners import Owner

# gitattributes(5) in a tree name filters and drivers; configuration defines what they run, and ours defines none.
_HARMLESS = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.untrackedCache": "false",
    "gc.auto": "0",
    "protocol.allow": "never",
    "safe.directory": "*",
}


def ask(folder: str, owner: Owner | None, *arguments: str) -> tuple[bytes | None, str]:
    """Ask the repository around ``folder`` for names; return them, or None with git's message when it fails."""
    done = process.run(["git", *arguments], check=False, cwd=folder, env=environment(), owner=owner)
    return None if done.returncode else done.stdout, done.stderr.decode(errors="replace").strip()


def line(folder: str, owner: Owner | None, *arguments: str) -> str:
    """Return the first line of git's answer about the repository, or an empty string."""
    return (ask(folder, owner, *arguments)[0] or b"").decode(errors="replace").partition("\n")[0]


def remote(folder: str, owner: Owner | None) -> str:
    """Return the URL of the remote origin without a password or token in it, empty if there is none."""
    return without_secrets(line(folder, owner, "config", "--local", "--get", "remote.origin.url"))


def without_secrets(url: str) -> str:
    """Return ``url`` without its password, and for HTTP without its user, which may be a token."""
    bare = re.sub(r"^(https?://)[^/]*@", r"\1", url, flags=re.IGNORECASE)
    return re.sub(r"^(\w+://[^/:@]*):[^/]*@", r"\1@", bare)


def default_branch(folder: str, owner: Owner | None) -> str:
    """Return the branch that HEAD of origin names; else main or master if there is one, else the current branch."""
    named = line(folder, owner, "symbolic-ref", "--quiet", "--short", "refs/remotes/origin/HEAD")
    if named:
        return named.removeprefix("origin/")
    for name in ("main", "master"):
        places = [f"refs/remotes/origin/{name}", f"refs/heads/{name}"]
        if line(folder, owner, "for-each-ref", "--format=%(refname)", *places):
            return name
    return line(folder, owner, "symbolic-ref", "--quiet", "--short", "HEAD")


def environment() -> dict[str, str]:
    """Return the environment for git: only the repository's configuration, with dangerous settings overridden."""
    values = {
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        # A partial clone would fetch missing objects, with a command from the repository's configuration. Only newer
        # git knows GIT_NO_LAZY_FETCH; GIT_ALLOW_PROTOCOL leaves older ones no way to fetch.
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_CONFIG_COUNT": str(len(_HARMLESS)),
    }
    for number, (key, value) in enumerate(_HARMLESS.items()):
        values |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return values
