"""Cgroups for a machine that is started by hand: one of its own in every hierarchy, be they of version 1, 2 or both."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path


def make_cgroups(name: str) -> list[Path]:
    """Make a cgroup of this name in every hierarchy; what gets started must be moved into each."""
    folders = [root / name for root in _hierarchies().values()]
    for folder in folders:
        folder.mkdir()
        for setting in ("cpuset.cpus", "cpuset.mems", "cgroup.clone_children"):
            # version 1 only: nothing can be moved into a cgroup without processors
            if (folder.parent / "cpuset.cpus").exists():
                (folder / setting).write_text((folder.parent / setting).read_text())
    return folders


def remove_cgroups(name: str) -> None:
    """Kill all processes in the cgroups of this name and below, then remove these. Absence is fine."""
    folders = [root / name for root in _hierarchies().values()]
    deadline = time.monotonic() + 20
    while (pids := _pids(folders)) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    for folder in filter(Path.exists, folders):
        for _, group, above in _below(folder):
            os.rmdir(group, dir_fd=above)
        folder.rmdir()


def _below(folder: Path) -> Iterator[tuple[int, str, int]]:
    """Yield each group below ``folder``, the deepest first: its descriptor, its name, the descriptor of that above.

    Step by step: a job can nest them deeper than a path may be long.
    """
    fds, names, seen = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY)], [""], [set[str]()]
    while True:
        there = [entry.name for entry in os.scandir(fds[-1]) if entry.is_dir(follow_symlinks=False)]
        if further := [name for name in there if name not in seen[-1]]:
            seen[-1].add(further[0])
            fds.append(os.open(further[0], os.O_RDONLY | os.O_DIRECTORY, dir_fd=fds[-1]))
            names.append(further[0])
            seen.append(set())
            continue
        if len(fds) == 1:
            os.close(fds[0])
            return
        yield fds[-1], names[-1], fds[-2]
        os.close(fds.pop())
        names.pop()
        seen.pop()


def entrances(leader: int) -> list[Path]:
    """Give a cgroup per hierarchy for commands that enter a machine: beside its init.scope, so that limits hold."""
    hierarchies = _hierarchies()
    folders = []
    for line in Path(f"/proc/{leader}/cgroup").read_text().splitlines():
        _, hierarchy, path = line.split(":", 2)
        if hierarchy in hierarchies:
            folder = hierarchies[hierarchy] / path.removesuffix("/init.scope").lstrip("/")
            if path.endswith("/init.scope"):
                folder /= "entered.scope"
            folder.mkdir(exist_ok=True)
            folders.append(folder)
    return folders


def version_2_controllers() -> list[str]:
    """Say which controllers are to be had in the version 2 hierarchy."""
    unified = _hierarchies().get("")
    return (unified / "cgroup.controllers").read_text().split() if unified else []


def _hierarchies() -> dict[str, Path]:
    """Where each hierarchy is mounted, by its name in /proc/PID/cgroup: controllers or name, nothing for version 2."""
    controllers = {line.split()[0] for line in Path("/proc/cgroups").read_text().splitlines()[1:]}
    found = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, folder, kind, options, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            words = [word for word in options.split(",") if word in controllers or word.startswith("name=")]
            found["" if kind == "cgroup2" else ",".join(words)] = Path(folder)
    return found


def _pids(folders: list[Path]) -> set[int]:
    found = set()
    for folder in filter(Path.exists, folders):
        found |= {int(pid) for pid in (folder / "cgroup.procs").read_text().split()}
        for fd, _, _ in _below(folder):
            with os.fdopen(os.open("cgroup.procs", os.O_RDONLY, dir_fd=fd)) as file:
                found |= {int(pid) for pid in file.read().split()}
    return found
