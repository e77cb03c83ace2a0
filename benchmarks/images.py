"""Measures the making and changing of images beside cp and mmdebstrap, in disposable hosts; README.md tells the rows.

It needs what the tests need (root, systemd-container, mmdebstrap, slirp4netns), btrfs-progs, xfsprogs, 20 GB of disk.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT / "tests"))

from disposable_host import DisposableHost, State, Suite, image_tree  # noqa: E402
from stages import Row, evaluated, make_images, say, table  # noqa: E402

PARTS: dict[State, tuple[str, ...]] = {
    "btrfs": ("copies", "growth"),
    "ext4": ("copies", "creation"),
    "xfs": ("copies",),
}
SIZES = {"small": "300 MB", "big": "3 GB"}


def rows(state: State, parts: tuple[str, ...]) -> Iterator[Row]:
    if "copies" in parts:
        yield from _rows_of_copies(state)
    if "creation" in parts:
        yield Row("creation / mmdebstrap", "create ours", "create plain", "x", 1.1)
        yield Row("both on disk", "create+sync ours", "create+sync plain", "x", None)
        yield Row("the same, processor's time", "processor ours", "processor plain", "x", None)
    if "growth" in parts:
        yield Row("disk, small file - what changed", "grown file", "changed file", "+MiB", 1)
        yield Row("disk, package - what changed", "grown package", "changed package", "+MiB", 4)


def _rows_of_copies(state: State) -> Iterator[Row]:
    for image, size in SIZES.items():
        if state == "btrfs":
            yield Row(f"copy and publish, {size} (cp -a)", f"both {image}", f"cp {image}", "s", 1)
        else:
            yield Row(f"copy and publish - cp -a, {size}", f"both {image}", f"cp {image}", "+ms", 1000)
            yield Row(f"the same - cp -a and sync, {size}", f"both {image}", f"cp+sync {image}", "+ms", None)
        yield Row(f"of it publishing, {size}", f"publish {image}", f"cp {image}", "s", None)
        yield Row(f"then size and old ones, {size}", f"rest {image}", f"cp {image}", "s", None)


def measured(suite: Suite, state: State, parts: tuple[str, ...], rounds: int) -> list[dict[str, Any]]:
    """Boot a host, measure in it, and return the evaluated rows."""
    tree = image_tree()
    with DisposableHost(suite=suite, state=state, size="24G") as host:
        say(f"{state}: making the images")
        make_images(host, state, tree)
        inside = Path(__file__).with_name("images_inside.py")
        argv = ["/usr/bin/python3", "-B", str(inside), str(CHECKOUT), ",".join(parts), str(rounds)]
        with host.popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            output, _ = process.communicate()
        if process.returncode:
            sys.exit(f"the measurement in the host ended with {process.returncode}")
    series = json.loads(output)
    return [evaluated(row, series) for row in rows(state, parts)]


def load() -> str:
    return f"load {os.getloadavg()[0]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the making and changing of images beside cp and mmdebstrap.")
    parser.add_argument("--suite", choices=["bookworm", "trixie"], default="bookworm", help="Debian of the host")
    parser.add_argument("--state", choices=[*PARTS], action="append", help="only hosts with this file system")
    parser.add_argument("--part", choices=["copies", "creation", "growth"], action="append", help="only these rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = {}
    for state in arguments.state or list(PARTS):
        parts = tuple(part for part in PARTS[state] if part in (arguments.part or PARTS[state]))
        before = load()
        results[state] = measured(arguments.suite, state, parts, arguments.rounds) if parts else []
        if parts and not arguments.json:
            title = f"{arguments.suite} host, state folder on {state}; {arguments.rounds} rounds, in ms or MiB"
            print(f"\n{title}; {before} before, {load()} after")
            print(table(results[state]), flush=True)
    if arguments.json:
        print(json.dumps({"suite": arguments.suite, "rounds": arguments.rounds, "hosts": results}, indent=2))


if __name__ == "__main__":
    main()
