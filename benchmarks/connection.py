# ruff: noqa: S607
"""Measures a play of 50 small tasks over our connection beside `local`, in a disposable host, and prints a table.

It needs what the tests need (root, systemd-container, mmdebstrap, slirp4netns) and two minutes.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT / "tests"))

from disposable_host import STATE_FOLDER, DisposableHost, Suite, image_tree  # noqa: E402

PLUGINS = CHECKOUT / "nspawn_runner/images/connection_plugins"
TREE = f"{STATE_FOLDER}/tree"
PLAY = f"{STATE_FOLDER}/play.yml"
TASKS = 50
LIMIT = 2.0
WAYS: Mapping[str, Mapping[str, Any]] = {
    "local": {"ansible_connection": "local"},
    "local, pipelining": {"ansible_connection": "local", "ansible_pipelining": True},
    "nspawn": {"ansible_connection": "nspawn"},
    "nspawn, booted": {"ansible_connection": "nspawn", "nspawn_boot": True},
    "nspawn, without pipelining": {"ansible_connection": "nspawn", "ansible_pipelining": False},
}


def small_tasks() -> list[Mapping[str, Any]]:
    """Return the tasks: commands, files' properties, lines in files, and one in five that copies a file."""
    kinds: list[Mapping[str, Any]] = [
        {"command": "true"},
        {"shell": "echo x | wc -l"},
        {"file": {"path": "/srv/bench", "state": "directory"}},
        {"stat": {"path": "/etc/passwd"}},
        {"copy": {"content": "small", "dest": "/srv/small"}},
    ]
    return [kinds[number % len(kinds)] for number in range(TASKS)]


def seconds_of_play(host: DisposableHost, values: Mapping[str, Any]) -> float:
    """Run the play once and return how long it took, its Ansible's start and the container's included."""
    given = json.dumps({"ansible_python_interpreter": "/usr/bin/python3", **values})
    argv = ["ansible-playbook", f"--inventory={TREE},", f"--extra-vars={given}", PLAY]
    began = time.monotonic()
    host.run(argv, env={"ANSIBLE_CONNECTION_PLUGINS": str(PLUGINS)})
    return time.monotonic() - began


def measured(suite: Suite, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of the plays by their way, one of each way in every round."""
    image = image_tree()
    series: dict[str, list[float]] = {way: [] for way in WAYS}
    with DisposableHost(suite=suite) as host:
        subprocess.run(["cp", "--archive", image, host.path(TREE)], check=True)
        play = {"hosts": "all", "gather_facts": False, "tasks": small_tasks()}
        host.path(PLAY).write_text(json.dumps([play]))
        for _ in range(rounds):
            for way, values in WAYS.items():
                series[way].append(seconds_of_play(host, values))
    return series


def table(series: Mapping[str, Sequence[float]]) -> str:
    lines = [f"{'':30}{'ms a task: median':>18}{'min':>8}{'max':>8}{'x local':>9}{'limit':>7}"]
    beside = statistics.median(series["local"])
    for way, seconds in series.items():
        figures = [1000 * value / TASKS for value in (statistics.median(seconds), min(seconds), max(seconds))]
        ratio = statistics.median(seconds) / beside
        limit = f"{LIMIT:g}" if way == "nspawn" else ""
        mark = "  BEYOND" if limit and ratio > LIMIT else ""
        lines.append(f"{way:30}{figures[0]:18.1f}{figures[1]:8.1f}{figures[2]:8.1f}{ratio:9.2f}{limit:>7}{mark}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures Ansible's connection nspawn beside local.")
    parser.add_argument("--suite", choices=["bookworm", "trixie"], default="bookworm", help="Debian of the host")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    series = measured(arguments.suite, arguments.rounds)
    if arguments.json:
        print(json.dumps({"suite": arguments.suite, "tasks": TASKS, "seconds": series}, indent=2))
    else:
        print(f"{arguments.suite} host; {TASKS} small tasks, {arguments.rounds} rounds")
        print(table(series))


if __name__ == "__main__":
    main()
