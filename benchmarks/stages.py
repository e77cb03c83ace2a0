# ruff: noqa: S607
"""Measures the stages beside the bare commands, in disposable hosts, and prints a table; README.md tells the rows.

It needs what the tests need (root, systemd-container, mmdebstrap, slirp4netns), 8 GB of disk and ten minutes.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT / "tests"))

from disposable_host import STATE_FOLDER, DisposableHost, State, Suite, image_tree  # noqa: E402

BACKENDS: dict[State, tuple[str, ...]] = {"overlay": ("overlay", "tmpfs"), "btrfs": ("btrfs",)}
PADDING_FILES, PADDING_FILE_BYTES = 27, 100_000_000
SMALL_FILES, SMALL_FILE_BYTES = 60_000, 400


class Row(NamedTuple):
    """A line of the table: what compares `ours` with `beside`, both names of series, and its limit."""

    title: str
    ours: str
    beside: str
    kind: str
    limit: float | None


def rows(state: State) -> Iterator[Row]:
    first, *others = BACKENDS[state]
    yield Row("config - python3 -c pass", "config ours", "config bare", "+ms", 15)
    yield Row("config with a settings file", "config with settings", "config bare", "+ms", 15)
    yield Row("run - systemd-run", "trivial ours", "trivial bare", "+ms", 35)
    for backend in (first, *others):
        limit = 1.15 if backend == first else None
        yield Row(f"prepare {backend} / plain boot", f"prepare {backend} small", "prepare bare", "x", limit)
    for backend in (first, *others):
        limit = 0.15 if backend == first else None
        yield Row(f"cleanup {backend} (stop + rm)", f"cleanup {backend} small", "cleanup bare", "s", limit)
    for stage in ("prepare", "run", "cleanup"):
        yield Row(f"{stage} {first}, 3 GB / 300 MB", f"{stage} {first} big", f"{stage} {first} small", "x", 1.1)
    yield Row("200 000 lines / systemd-run", "each-line ours", "each-line bare", "x", 1.3)
    yield Row("15 MB in blocks - systemd-run", "in-blocks ours", "in-blocks bare", "+ms", None)
    for stage in ("config", "prepare", "run", "cleanup"):
        yield Row(f"memory of {stage} (python3)", f"memory {stage}", "memory bare", "MiB", 25)


def evaluated(row: Row, series: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return the row with its medians, least and greatest; times in ms, `figure` in the row's own unit."""
    scale = 1.0 if row.kind.endswith("MiB") else 1000.0
    ours, beside = series[row.ours], series[row.beside]
    middle, middle_beside = statistics.median(ours), statistics.median(beside)
    figure = max(ours) if row.kind == "MiB" else _compared(row.kind, middle, middle_beside)

    def three(values: Sequence[float], median: float) -> dict[str, float]:
        return {"median": scale * median, "min": scale * min(values), "max": scale * max(values)}

    return {
        "title": row.title,
        "ours": three(ours, middle),
        "beside": three(beside, middle_beside),
        "figure": figure,
        "of_least": _compared(row.kind, min(ours), min(beside)),
        "unit": row.kind,
        "limit": row.limit,
        "beyond": row.limit is not None and figure > row.limit,
        "measurements": len(ours),
    }


def _compared(kind: str, ours: float, beside: float) -> float:
    return {"+ms": 1000 * (ours - beside), "+MiB": ours - beside, "x": ours / beside}.get(kind, ours)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    three = "median min max"
    head = f"{'':34}{'ours: ' + three:>24}{'beside: ' + three:>26}{'figure':>11}{'of least':>11}{'limit':>7}"
    return "\n".join([head, *(_line(result) for result in results)])


def _line(result: Mapping[str, Any]) -> str:
    def three(values: Mapping[str, float]) -> str:
        return " ".join(f"{values[name]:7.1f}" for name in ("median", "min", "max"))

    forms = {"+ms": "{:+.1f} ms", "x": "{:.2f}", "s": "{:.3f} s", "MiB": "{:.1f} MiB", "+MiB": "{:+.1f} MiB"}
    form = forms[result["unit"]]
    limit = "" if result["limit"] is None else f"{result['limit']:g}"
    mark = "  BEYOND" if result["beyond"] else ""
    return (
        f"{result['title']:34}{three(result['ours']):>24}{three(result['beside']):>26}"
        f"{form.format(result['figure']):>11}{form.format(result['of_least']):>11}{limit:>7}{mark}"
    )


def make_images(host: DisposableHost, state: State, tree: Path) -> None:
    """Make the images `small`, a copy of the tree, and `big`, the same with 2.7 GB and many small files more."""
    for name in ("small", "big"):
        image = f"{STATE_FOLDER}/{name}"
        host.run(["btrfs", "subvolume", "create", image] if state == "btrfs" else ["mkdir", image])
        subprocess.run(["cp", "--archive", f"{tree}/.", host.path(image)], check=True)
    padding = host.path(f"{STATE_FOLDER}/big/opt/padding")
    padding.mkdir()
    for number in range(PADDING_FILES):
        (padding / str(number)).write_bytes(os.urandom(PADDING_FILE_BYTES))
    for number in range(SMALL_FILES):
        folder = padding / f"small-{number // 500}"
        if number % 500 == 0:
            folder.mkdir()
        (folder / str(number)).write_bytes(os.urandom(SMALL_FILE_BYTES))
    os.sync()


def measured(suite: Suite, state: State, rounds: int) -> list[dict[str, Any]]:
    """Boot a host, measure in it, and return the evaluated rows."""
    tree = image_tree()
    with DisposableHost(suite=suite, state=state) as host:
        say("making the images")
        make_images(host, state, tree)
        inside = Path(__file__).with_name("inside.py")
        argv = ["/usr/bin/python3", str(inside), str(CHECKOUT), ",".join(BACKENDS[state]), str(rounds)]
        with host.popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            output, _ = process.communicate()
        if process.returncode:
            sys.exit(f"the measurement in the host ended with {process.returncode}")
    series = json.loads(output)
    return [evaluated(row, series) for row in rows(state)]


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the stages beside the bare commands.")
    parser.add_argument("--suite", choices=["bookworm", "trixie"], default="bookworm", help="Debian of the host")
    parser.add_argument("--state", choices=["overlay", "btrfs"], action="append", help="only hosts of this kind")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of machines; cheap rows take thrice as many")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = {}
    for state in arguments.state or list(BACKENDS):
        results[state] = measured(arguments.suite, state, arguments.rounds)
        if not arguments.json:
            print(f"\n{arguments.suite} host, state folder on {state}; {arguments.rounds} rounds, in ms or MiB")
            print(table(results[state]), flush=True)
    if arguments.json:
        print(json.dumps({"suite": arguments.suite, "rounds": arguments.rounds, "hosts": results}, indent=2))


if __name__ == "__main__":
    main()
