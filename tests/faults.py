"""What may go wrong with a stage: kinds of faults, drawn by chance, and the ways to bring some of them about."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from by_hand import Job
from disposable_host import STATE_FOLDER, DisposableHost

PREPARE, RUN, CLEANUP = "prepare", "run", "cleanup"
EVERY = (PREPARE, RUN, CLEANUP)
# kind of fault → the stages that it can strike
KINDS = {
    "kill the stage": EVERY,
    "terminate the stage": EVERY,
    "kill the driver alone": EVERY,
    "kill a child of the stage": EVERY,
    "kill systemd-nspawn": (PREPARE, RUN),
    "kill the machine's PID 1": (PREPARE, RUN),
    "a tool fails": EVERY,
    "a system call fails": EVERY,
    "the state folder is full": EVERY,
    "the state folder is read-only": (PREPARE, CLEANUP),
    "/run is full": EVERY,
}
# stage → the tools that it calls, and how often at most; systemd-nspawn and an ip of cleanup are called by the unit
TOOLS = {
    PREPARE: {"nft": 2, "systemd-run": 1, "machinectl": 2, "nsenter": 2, "bridge": 1, "ip": 2, "systemd-nspawn": 1},
    RUN: {"systemd-run": 2, "systemctl": 1},
    CLEANUP: {"systemctl": 1, "ip": 1},
}
ON_BTRFS = {PREPARE: {"btrfs": 1, "stat": 3}, RUN: {}, CLEANUP: {"btrfs": 1, "stat": 2}}
ON_OVERLAY = {PREPARE: {"rm": 1}, RUN: {}, CLEANUP: {"rm": 3}}
DISK_LIMITED = {PREPARE: {"mke2fs": 1, "mount": 1}, RUN: {}, CLEANUP: {"umount": 1, "nsenter": 1}}
ERRORS = {"ENOSPC": "No space left on device", "EIO": "Input/output error", "EPERM": "Operation not permitted"}
# stage → system calls and how often at most: of the driver itself, then those of its children. Left out
# are those that the interpreter makes by the hundred while it starts: they are struck on the paths that are ours.
CALLS = {
    PREPARE: {"mkdir": 7, "rename": 8, "unlink": 11, "write": 11, "chown": 3, "chmod": 2, "flock": 2, "ftruncate": 2,
              "vfork": 6, "pipe2": 18, "wait4": 8},
    RUN: {"memfd_create": 1, "pipe2": 3, "vfork": 1, "write": 2, "fchmod": 1, "pidfd_open": 1, "poll": 3},
    CLEANUP: {"rename": 2, "unlink": 6, "write": 2, "rmdir": 2, "vfork": 3, "pipe2": 12, "flock": 1, "mkdir": 1},
}  # fmt: skip
CHILDREN_S_CALLS: dict[str, dict[str, int]] = {
    PREPARE: {"sendmsg": 3, "sendto": 4, "socket": 2, "connect": 1},
    RUN: {},
    CLEANUP: {"unlinkat": 20, "sendmsg": 3, "connect": 1},
}  # strace counts for each process by itself; a systemd that never answers is waited for
# What a job's stages have files and folders for, in the words of by_hand.Job.
PLACES = (
    "/run/nspawn-runner", "/run/nspawn-runner/{machine}", "/run/nspawn-runner/{machine}.json",
    "/run/nspawn-runner/{machine}.lock", "/run/nspawn-runner/slots.lock", "/run/nspawn-runner/{machine}/ready",
    "/run/nspawn-runner/{machine}/address", "/run/nspawn-runner/{machine}/removal", "/run/systemd/machines/{machine}",
    "/run/systemd/transient/{unit}", STATE_FOLDER, STATE_FOLDER + "/bookworm", STATE_FOLDER + "/.overlays/{machine}",
    STATE_FOLDER + "/.overlays/{machine}/upper", STATE_FOLDER + "/.overlays/{machine}/upper/etc/hosts",
    STATE_FOLDER + "/.overlays/{machine}.disk", STATE_FOLDER + "/.snapshots/{machine}", "{code_file}", "{payload}",
)  # fmt: skip
STUBS = "/usr/local/sbin"
COUNTS = "/root/stub-calls"


class Fault(NamedTuple):
    """What strikes, in which stage, and the number from which everything else about it is drawn."""

    kind: str
    stage: str
    number: int


class Call(NamedTuple):
    """The system call that fails: the how manieth of its kind, as strace(1) names kinds, on a path or anywhere."""

    calls: str
    number: int
    error: str
    path: str = ""
    follow: bool = False


def faults(seed: int) -> Iterator[Fault]:
    """Yield faults without end: each kind in turn, in an order that is drawn, and each stage of it in turn."""
    chance = random.Random(seed)  # noqa: S311
    stages = {kind: chance.sample(possible, len(possible)) for kind, possible in KINDS.items()}
    for turn in range(1 << 30):
        for kind in chance.sample(list(KINDS), len(KINDS)):
            yield Fault(kind, stages[kind][turn % len(stages[kind])], chance.randrange(1 << 32))


def drawn_call(job: Job, stage: str, chance: random.Random) -> Call:
    """Draw a system call of a stage."""
    error = chance.choice(list(ERRORS))
    of_children = CHILDREN_S_CALLS[stage]
    where = chance.choice(["driver", "path", *(["children"] if of_children else [])])
    if where == "path":
        known = {"code_file": job.code_file, "payload": job.env["JOB_RESPONSE_FILE"]}
        path = chance.choice(PLACES).format(machine=job.machine, unit=job.unit, **known)
        # A machine that no systemctl finds is waited for, for as long as a reboot may take.
        return Call("%file,%desc", chance.randint(1, 6), error, path, follow=stage != RUN)
    possible = CALLS[stage] if where == "driver" else of_children
    calls = chance.choice(list(possible))
    return Call(calls, chance.randint(1, possible[calls]), error, follow=where == "children")


@contextlib.contextmanager
def failing_tool(
    host: DisposableHost, stage: str, chance: random.Random, story: list[str], *, limited: bool
) -> Iterator[None]:
    """Put something in the place of a tool that the stage calls, of which one call fails; ``story`` is told which."""
    tools = {**TOOLS[stage], **(ON_BTRFS if host.state == "btrfs" and not limited else ON_OVERLAY)[stage]}
    if limited:
        tools |= DISK_LIMITED[stage]
    tool = chance.choice(list(tools))
    number, error = chance.randint(1, tools[tool]), chance.choice(list(ERRORS))
    real = f'PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH; {{}} {tool} "$@"'
    end = chance.choice([f"echo '{tool}: {ERRORS[error]}' >&2; exit 1", "kill -9 $$"])
    first = chance.choice(["", real.format("") + "\n"])
    story.append(f"call {number} of {tool}: {'the real one, then ' if first else ''}{end}")
    stub = host.path(f"{STUBS}/{tool}")
    stub.write_text(
        f"#!/bin/sh\nn=1; until mkdir {COUNTS}/$n 2>/dev/null; do n=$((n + 1)); [ $n -lt 1000 ] || break; done\n"
        f"[ $n = {number} ] || {real.format('exec')}\n{first}{end}\n"
    )
    stub.chmod(0o755)
    counts = host.path(COUNTS)
    counts.mkdir()
    try:
        yield
    finally:
        stub.unlink()
        story.append(f"{tool} was called {len(os.listdir(counts))} times")
        for folder in counts.iterdir():
            folder.rmdir()
        counts.rmdir()


@contextlib.contextmanager
def _full_state(host: DisposableHost) -> Iterator[None]:
    filler = f"{STATE_FOLDER}/.filler"
    fill = f"""fallocate --length=$(df --output=avail --block-size=1 {filler} | tail -n 1) {filler}
    for size in 1M 4k; do dd if=/dev/zero of={filler}.$size bs=$size; done; sync --file-system {filler}"""
    host.run(["sh", "-c", f"touch {filler}; {{ {fill}; }} 2>/dev/null; true"])
    try:
        yield
    finally:
        host.run(["sh", "-c", f"rm {filler}*; sync --file-system {STATE_FOLDER}"])


@contextlib.contextmanager
def _read_only_state(host: DisposableHost) -> Iterator[None]:
    host.run(["mount", "-o", "remount,bind,ro", STATE_FOLDER])
    try:
        yield
    finally:
        host.run(["mount", "-o", "remount,bind,rw", STATE_FOLDER])


@contextlib.contextmanager
def full_run(host: DisposableHost) -> Iterator[None]:
    """Leave no room in the host's /run."""
    size = host.run(["findmnt", "--noheadings", "--output=OPTIONS", "/run"]).stdout.decode().strip()
    before = next((option for option in size.split(",") if option.startswith("size=")), "size=10%")
    host.run(["sh", "-c", "mount -o remount,size=$(df --output=used --block-size=1 /run | tail -n 1) /run"])
    try:
        yield
    finally:
        host.run(["mount", "-o", f"remount,{before}", "/run"])


CONDITIONS: dict[str, Callable[[DisposableHost], contextlib.AbstractContextManager[None]]] = {
    "the state folder is full": _full_state,
    "the state folder is read-only": _read_only_state,
    "/run is full": full_run,
}
