"""Building a Debian tree with mmdebstrap or debootstrap: watched, logged, and ended with all its processes."""

from __future__ import annotations

import os
import select
import shutil
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from ..errors import HostError
from ..host import files, process, trees
from . import recipe as recipes
from .progress import BuilderOutput, Progress
from .recipe import Recipe

LOG_FOLDER = "/var/log/nspawn-runner"
_LAST_LINES = 12
# The builder dies with us, all that it started dies with it, and its mounts are seen by nobody else.
_CONFINED = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--mount", "--pid", "--fork", "--kill-child",
             "--mount-proc", "--"]  # fmt: skip


def build(recipe: Recipe, root: str, *, log: str, progress: Progress) -> str:
    """Build ``recipe`` in the empty tree ``root`` and return the builder's name; its output goes to the file ``log``.

    Raises HostError with what is known of the reason; then no process of the builder is left, nor when cancelled.
    """
    builder = find_builder()
    argv = [*_CONFINED, *builder_argv(builder, recipe, root, keyring=recipes.keyring(recipe))]
    files.make_private_folder(os.path.dirname(log))
    with open(log, "wb") as opened:
        os.fchmod(opened.fileno(), 0o600)
        opened.write(f"{process.quoted(argv)}\n".encode())
        status, last = _watched(argv, opened, progress)
    progress.end()
    if status:
        progress.quote(last)
        raise failure(builder, recipe, status, last, log)
    return builder


def find_builder() -> str:
    """Return which builder this host has; raises HostError when it has none."""
    for builder in ("mmdebstrap", "debootstrap"):
        if shutil.which(builder, path=process.environment()["PATH"]):
            return builder
    raise HostError("no program is installed that makes Debian trees", advice="install one: apt install mmdebstrap")


def builder_argv(builder: str, recipe: Recipe, root: str, *, keyring: str) -> list[str]:
    """Return how to call ``builder`` for ``recipe``.

    No eatmydata: around the whole builder every program in the tree complains of the missing library, and through
    mmdebstrap's own hook it gained nothing (27 s instead of 18 s). dpkg is told instead not to sync each file, and
    the tree is written out once at the end.
    """
    options = [f"--variant={recipe.variant}", f"--include={','.join(recipe.all_packages)}",
               f"--components={','.join(recipe.components)}"]  # fmt: skip
    mirror = [recipe.mirror] if recipe.mirror else []
    if builder == "mmdebstrap":
        options += ["--mode=root", "--format=directory", "--verbose", "--dpkgopt=force-unsafe-io"]
        options += [f"--architectures={recipe.arch}"] if recipe.arch else []
        # Without one it finds the usual file itself and names it in the image's list of sources, as apt there needs.
        options += [f"--keyring={keyring}"] if recipe.keyring else []
    else:
        options += ["--force-check-gpg"]  # without the keys it would go on unchecked
        options += [f"--arch={recipe.arch}"] if recipe.arch else []
        options += [f"--keyring={keyring}"] if keyring else []
    # No "--" before the rest, which debootstrap does not know: none of it starts with a dash (recipe.checked).
    return [builder, *options, recipe.suite, root, *mirror]


def failure(builder: str, recipe: Recipe, status: int, last: Sequence[str], log: str) -> HostError:
    """Return the error for a builder that ended with ``status`` after the lines ``last``."""
    said = "\n".join(last)
    if trees.NO_SPACE in said:
        return HostError(trees.NO_SPACE)
    old_keys = "the keys on this host are too old or the wrong ones: update the keyring package, or use --keyring"
    no_suite = f"the mirror has no suite {recipe.suite}: check --suite and --mirror"
    reasons = {
        "NO_PUBKEY": old_keys,
        "unknown key": old_keys,
        "does not have a Release file": no_suite,
        "404  Not Found": no_suite,
        "No such script": f"debootstrap knows no suite {recipe.suite}: check --suite",
        "Unable to locate package": "a package is not in this suite: check --packages and --components",
        "Couldn't find these debs": "a package is not in this suite: check --packages and --components",
        "Temporary failure resolving": "the mirror's name cannot be looked up: is the network up?",
        "Could not connect": "the mirror cannot be reached: is the network up?",
    }
    known = next((reason for sign, reason in reasons.items() if sign in said), "")
    errors = [line[3:] for line in last if line.startswith("E: ") and "failed to run" not in line]
    what = f"{builder} failed with exit status {status}" + (f": {errors[0]}" if errors else "")
    return HostError(what, facts=f"its whole output: {log}", advice=known)


def _watched(argv: Sequence[str], log: BinaryIO, progress: Progress) -> tuple[int, list[str]]:
    """Run the builder, showing where it is, and return its exit status and its last lines."""
    output = BuilderOutput()
    last: list[str] = []
    child = process.spawn(
        argv,
        stdout=process.PIPE,
        stderr=process.STDOUT,
        own_session=True,
        env={"DEBIAN_FRONTEND": "noninteractive"},
    )
    try:
        assert child.stdout is not None  # noqa: S101  (tells mypy about PIPE)
        for line in _lines(child.stdout.fileno()):
            if line:
                log.write(f"{line}\n".encode())
                output.feed(line)
                last = [*last[1 - _LAST_LINES :], line]
            progress.show(output.phase, output.done, output.total)
        return child.wait(), last
    finally:
        process.end_confined(child)


def _lines(fd: int) -> Iterator[str]:
    """Yield the lines that come from ``fd``, and an empty one whenever half a second brought none."""
    rest = b""
    while True:
        if not select.select([fd], [], [], 0.5)[0]:
            yield ""
            continue
        read = os.read(fd, 65536)
        *lines, rest = (rest + read).split(b"\n")
        yield from (line.decode(errors="replace").rstrip() for line in lines)
        if not read:
            yield rest.decode(errors="replace").rstrip()
            return
