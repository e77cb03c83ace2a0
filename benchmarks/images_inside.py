# ruff: noqa: S607
"""The part of images.py that runs in the host, so that only its own clock counts.

    images_inside.py CHECKOUT PART,... ROUNDS

Writes a JSON object to stdout: series name to its measurements, in seconds or, for names that start with `grown` or
`changed`, MiB.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

sys.path.insert(0, sys.argv[1])

from nspawn_runner.images import changes
from nspawn_runner.images.build import suite_source

TOOL = f"{sys.argv[1]}/nspawn-runner"
STATE = "/var/lib/nspawn-runner"
REFERENCE = f"{STATE}/.reference"
PLAYBOOKS = "/etc/nspawn-runner"
CACHE = "/run/benchmark"
SUITE = "bookworm"
PACKAGES = ("tree", "jq", "rsync")
MIB = 1 << 20

series: dict[str, list[float]] = {}


def note(name: str, value: float) -> None:
    series.setdefault(name, []).append(value)


def seconds_of(*argv: str) -> float:
    began = time.perf_counter()
    subprocess.run(argv, check=True, stdout=sys.stderr)
    return time.perf_counter() - began


def processor_seconds() -> float:
    """Return what the processes used that we waited for, and those that they waited for."""
    times = os.times()
    return times.children_user + times.children_system


def settle() -> None:
    """Let what was written before, and what was removed, be none of the next one's cost."""
    seconds_of("sync", "--file-system", STATE)
    subprocess.run(["btrfs", "subvolume", "sync", STATE], check=False, capture_output=True)


def measure_copies(rounds: int) -> None:
    """Copy and publish as each change of an image does; beside it cp of the same tree."""
    for count in range(-1, rounds):
        for image in ("small", "big"):
            kinds: list[Callable[[str], dict[str, float]]] = [change, plain_copy]
            for kind in kinds[:: 1 if count % 2 else -1]:
                settle()
                for name, value in kind(image).items():
                    if count >= 0:  # the first round warms the caches, and makes the plain folder a generation
                        note(f"{name} {image}", value)
        say(f"copies: round {count + 1} of {rounds}")


def change(image: str) -> dict[str, float]:
    """Change a small file of an image; when the link changed is what the file system says of it, to a few ms."""
    began = time.time()
    with changes.copy_to_change(STATE, image) as (before, draft):
        copied = time.time()
        with open(f"{draft.root}/etc/benchmark", "w") as file:
            file.write(f"{began}\n")
        changes.publish_change(STATE, before, draft, lambda: [], keep=2)
    ended = time.time()
    published = os.lstat(f"{STATE}/{image}").st_ctime
    if not began < copied <= published <= ended:
        sys.exit(f"the clock was set, or {image} was not published")
    return {"copy": copied - began, "publish": published - copied, "both": published - began, "rest": ended - published}


def plain_copy(image: str) -> dict[str, float]:
    copied = seconds_of("cp", "-a", os.path.realpath(f"{STATE}/{image}"), REFERENCE)
    written = copied + seconds_of("sync", "--file-system", STATE)
    seconds_of("rm", "-rf", REFERENCE)
    return {"cp": copied, "cp+sync": written}


def measure_creation(rounds: int) -> None:
    """Make an image from an empty playbook; beside it the builder alone, with the same packages from the same cache."""
    mirror = start_mirror()
    write_playbook("made", [], suite=SUITE, mirror=mirror)
    include = f"--include={','.join(suite_source.SuiteSource(SUITE).all_packages)}"
    plain = ["mmdebstrap", "--variant=minbase", include, SUITE, REFERENCE, mirror]
    for count in range(-1, rounds):
        for kind in ("ours", "plain")[:: 1 if count % 2 else -1]:
            settle()
            argv = [TOOL, "chroot-maintenance", "made"] if kind == "ours" else plain
            before = processor_seconds()
            seconds = seconds_of(*argv)
            used = processor_seconds() - before
            written = seconds + seconds_of("sync", "--file-system", STATE)
            seconds_of(*([TOOL, "chroot-remove", "made"] if kind == "ours" else ["rm", "-rf", REFERENCE]))
            if count >= 0:  # the first round fills the cache of packages
                note(f"create {kind}", seconds)
                note(f"create+sync {kind}", written)
                note(f"processor {kind}", used)
        say(f"creation: round {count + 1} of {rounds}")


def measure_growth(rounds: int) -> None:
    """Let maintenance change little, or install a package, and tell what the file system and the files grew by."""
    for count in range(-1, rounds):
        write_playbook("small", [{"copy": {"content": f"{count}", "dest": "/etc/benchmark"}}])
        grow("file", counts=count >= 0)
        if count < 0:
            continue
        package = PACKAGES[count % len(PACKAGES)]
        install = f"apt-get update && apt-get install --yes --no-install-recommends {package} && apt-get clean"
        write_playbook("small", [{"shell": install}])
        grow("package", counts=True)


def grow(what: str, *, counts: bool) -> None:
    settle()
    used, base = used_bytes(), dict(inodes(os.path.realpath(f"{STATE}/small")))
    seconds_of(TOOL, "chroot-maintenance", "small")
    settle()
    grown = used_bytes() - used
    now = dict(inodes(os.path.realpath(f"{STATE}/small")))
    if counts:
        note(f"grown {what}", grown / MIB)
        note(f"changed {what}", sum(now[key] for key in now.keys() - base.keys()) / MIB)


def inodes(root: str) -> Iterator[tuple[tuple[int, int], int]]:
    """Yield number and time of change of each file and folder, which stay the same in a snapshot, and its bytes."""
    for folder, _, names in os.walk(root):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            status = os.lstat(path)
            yield (status.st_ino, status.st_ctime_ns), status.st_blocks * 512


def used_bytes() -> int:
    """Return what the file system has in use, on disk: where it keeps two copies, both count."""
    told = subprocess.run(["btrfs", "filesystem", "df", "--raw", STATE], check=True, capture_output=True, text=True)
    lines = re.findall(r"^(\w+), (\w+): total=\d+, used=(\d+)", told.stdout, re.MULTILINE)
    return sum(int(used) * (2 if profile == "DUP" else 1) for kind, profile, used in lines if kind != "GlobalReserve")


def write_playbook(image: str, tasks: Sequence[Any], **chroot: str) -> None:
    values = {f"nspawn_runner_chroot_{key}": value for key, value in chroot.items()}
    play = {"hosts": "all", "gather_facts": False, "vars": {**values, "nspawn_runner_maint_keep": 50}, "tasks": tasks}
    os.makedirs(PLAYBOOKS, exist_ok=True)
    with open(f"{PLAYBOOKS}/{image}.yaml", "w") as file:
        json.dump([play], file)


class Mirror(BaseHTTPRequestHandler):
    """Debian's mirror, which each file is fetched from once."""

    def do_GET(self) -> None:
        kept = os.path.join(CACHE, self.path.strip("/").replace("/", "_"))
        if not os.path.exists(kept):
            try:
                urllib.request.urlretrieve(f"http://deb.debian.org{self.path}", f"{kept}.new")
            except urllib.error.HTTPError as error:
                self.send_error(error.code)
                return
            os.rename(f"{kept}.new", kept)
        self.send_response(200)
        self.send_header("Content-Length", str(os.path.getsize(kept)))
        self.end_headers()
        with open(kept, "rb") as file:
            shutil.copyfileobj(file, self.wfile)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def start_mirror() -> str:
    """Start a mirror of Debian that keeps what it was asked for, and return its address."""
    os.makedirs(CACHE, exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/debian"


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main() -> None:
    parts = {"copies": measure_copies, "creation": measure_creation, "growth": measure_growth}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for part in sys.argv[2].split(","):
        parts[part](int(sys.argv[3]))
    json.dump(series, sys.stdout)


if __name__ == "__main__":
    main()
