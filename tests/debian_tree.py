# ruff: noqa: S607
"""Debian trees, cached, for hosts and machines of the tests to boot from."""

import contextlib
import fcntl
import hashlib
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

IN_CI = os.environ.get("CI", "").lower() in ("1", "true")
MOST_SECONDS_IN_CI = 24 * 3600
TAIL_LINES = 40
# mmdebstrap leaves this machine's name and resolver, and a filled machine-id gives all clones the same identity
CLEAN = 'rm --force "$1/etc/hostname" "$1/etc/resolv.conf"; : > "$1/etc/machine-id"'

_locks: dict[Path, int] = {}


class HostError(RuntimeError):
    """A tree or a host could not be made; says why, with the last lines of its log or console."""


def cache_folder() -> Path:
    """Say where trees are kept and hosts have their scratch folders; must not lie on an overlay or a tmpfs."""
    return Path(os.environ.get("NSPAWN_RUNNER_CACHE") or Path.home() / ".cache/nspawn-runner")


def debian_tree(purpose: str, suite: str, packages: str) -> Path:
    """Give a cached Debian tree with these packages (separated by commas), which reaches mirrors as this machine does.

    Made at the first call, by one of the processes that want it, and published complete or not at all. Only read it.
    It stays as long as this process lives. In CI one that is older than a day is made again, from today's Debian.
    """
    settings = apt_settings()
    certificates = sorted(Path("/usr/local/share/ca-certificates").glob("**/*.crt"))
    recipe = [CLEAN, suite, *sorted(packages.split(",")), *settings, *(path.read_text() for path in certificates)]
    digest = hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:12]
    folder = cache_folder() / "trees"
    folder.mkdir(parents=True, exist_ok=True)
    tree = folder / f"{purpose}-{suite}-{digest}"
    with locked(folder / f".{tree.name}.lock"):
        if tree.exists() and not (IN_CI and _age_seconds(tree) > MOST_SECONDS_IN_CI):
            return _held(tree)
        say(f"making a Debian {suite} tree ({purpose}), once; takes a minute")
        building = folder / f".{tree.name}.new"
        remove_tree(building)
        upload = [f"--customize-hook=copy-in {path} /usr/local/share/ca-certificates" for path in certificates]
        if upload and "ca-certificates" in packages.split(","):
            upload.append('--customize-hook=chroot "$1" update-ca-certificates')
        log = folder / f"{tree.name}.log"
        with log.open("wb") as output:
            made = subprocess.run(
                ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={packages}",
                 *(f"--aptopt={setting}" for setting in settings), *upload,
                 f"--customize-hook={CLEAN}", suite, building],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False,
            )  # fmt: skip
        if made.returncode:
            remove_tree(building)
            raise HostError(f"mmdebstrap of {suite} failed\n{tail(log)}")
        if tree.exists():
            tree.rename(folder / f".{tree.name}.{os.getpid()}.old")
        building.rename(tree)
        _made(tree).touch()
        for old in folder.glob(f".{tree.name}.*.old"):
            _remove_unheld(old)
        say(f"made {tree}")
        return _held(tree)


def _age_seconds(tree: Path) -> float:
    made = _made(tree)
    return time.time() - made.stat().st_mtime if made.exists() else math.inf


def _made(tree: Path) -> Path:
    """The file whose time is when the tree was made."""
    return tree.with_name(f".{tree.name}.made")


def _held(tree: Path) -> Path:
    """Keep others from removing the tree, by a lock that ends with this process."""
    if tree not in _locks:
        _locks[tree] = os.open(tree, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(_locks[tree], fcntl.LOCK_SH)
    return tree


def _remove_unheld(tree: Path) -> None:
    folder = os.open(tree, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_tree(tree)
    except BlockingIOError:
        pass  # a host of another run boots from it; the next one removes it
    finally:
        os.close(folder)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[IO[str]]:
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def remove_tree(path: Path) -> None:
    # shutil.rmtree stops at a folder that disappears or that is nested too deep
    subprocess.run(["rm", "--recursive", "--force", "--one-file-system", path], check=True)


def tail(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return "\n".join(lines[-TAIL_LINES:])


def say(message: str) -> None:
    print(f"disposable host: {message}", file=sys.stderr, flush=True)


def apt_settings() -> list[str]:
    """Give the settings that this machine's apt needs to reach the mirrors, in apt's own syntax."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout.splitlines()
    wanted = re.compile(r'Acquire::(Check-Valid-Until|Check-Date|https?::(.*::)?(Proxy|CaInfo|Verify-Peer)) "(?!")')
    return [line.rstrip(";") for line in dump if wanted.match(line)]
