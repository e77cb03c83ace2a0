# ruff: noqa: S607
"""Measures what services cost a job, in a disposable host: README.md tells the rows.

It needs what the tests need (root, systemd-container, mmdebstrap, slirp4netns) and three minutes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT / "tests"))

from by_hand import TOOL, Job, payload  # noqa: E402
from disposable_host import STATE_FOLDER, DisposableHost, image_tree  # noqa: E402

SERVICE = {
    "name": "bookworm",
    "entrypoint": ["python3", "-m", "http.server", "8080"],
    "variables": [{"key": "HEALTHCHECK_TCP_PORT", "value": "8080"}],
}


def job_of(host: DisposableHost, services: int) -> Job:
    """Return a job with so many services."""
    number = Job(host).id
    asked = [{**SERVICE, "alias": f"web{each}"} for each in range(services)]
    return Job(host, number, payload=payload(int(number), services=asked or None))


def timed(job: Job, verb: str, *arguments: str) -> float:
    """Return the seconds that a stage takes; fails unless it succeeds."""
    began = time.monotonic()
    done = job.call(verb, *arguments)
    assert done.status == 0, done.message
    return time.monotonic() - began


def round_of(host: DisposableHost, services: int) -> dict[str, float]:
    """Return the seconds of the stages of a job with so many services, and the memory of one, in MiB."""
    job = job_of(host, services)
    try:
        found = {"prepare": timed(job, "prepare")}
        script = "/root/script"
        host.path(script).write_text("true\n")
        found["run"] = min(timed(job, "run", script, "build_script") for _ in range(3))
        time.sleep(1)
        rows = json.loads(host.run([TOOL, "list", "--json"]).stdout)
        memory = [row["memory_bytes"] for row in rows if row["job"] == job.id and row["memory_bytes"]]
        found["memory"] = memory[-1] / 2**20 if memory else 0
    finally:
        found["cleanup"] = timed(job, "cleanup")
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--state", choices=["overlay", "btrfs"], default="overlay")
    args = parser.parse_args()
    with DisposableHost(suite="bookworm", state=args.state) as host:
        image = f"{STATE_FOLDER}/bookworm"
        host.run(["btrfs", "subvolume", "create", image] if args.state == "btrfs" else ["mkdir", image])
        subprocess.run(["cp", "--archive", f"{image_tree()}/.", host.path(image)], check=True)
        kinds = (0, 1, 2)
        series: dict[int, list[dict[str, float]]] = {kind: [] for kind in kinds}
        for number in range(args.rounds + 1):
            for kind in (kinds if number % 2 else kinds[::-1]):
                measured = round_of(host, kind)
                if number:
                    series[kind].append(measured)
    print(f"{'services':>8}  {'prepare':>22}  {'run':>22}  {'cleanup':>22}  memory of a machine")
    for kind in kinds:
        texts = []
        for stage in ("prepare", "run", "cleanup"):
            ours = statistics.median(each[stage] for each in series[kind])
            alone = statistics.median(each[stage] for each in series[0])
            texts.append(f"{ours * 1000:8.0f} ms ({ours / alone:4.2f} x)".rjust(22))
        memory = statistics.median(each["memory"] for each in series[kind])
        print(f"{kind:>8}  {'  '.join(texts)}  {memory:.0f} MiB")


if __name__ == "__main__":
    main()
