"""The part of the benchmark that runs in the host, so that only its own clock counts.

    inside.py CHECKOUT BACKEND,... ROUNDS

Writes a JSON object to stdout: series name to its measurements, in seconds or, for names that start with `memory`, MiB.
It imports little: a child's peak of memory as the kernel tells it is never below that of the process that started it.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

STATE = "/var/lib/nspawn-runner"
SETTINGS = "/etc/nspawn-runner/nspawn-runner.toml"
SCRATCH = "/run/benchmark"
UPPER = f"{STATE}/.benchmark"
LINES = 200_000
LINE = "x" * 74
# gitlab-runner's own scripts look like this one; the shell does one write per line
EACH_LINE = f"for ((n = 0; n < {LINES}; n++)); do echo {LINE}; done\n"
IN_BLOCKS = f"yes {LINE} | head --lines={LINES}\n"
PLAIN_RECIPE = (
    "systemd-run --quiet --unit=bare -p KillMode=mixed -p Type=notify -p RestartForceExitStatus=133 "
    "-p SuccessExitStatus=133 -p Slice=machine.slice -p Delegate=yes -p TasksMax=16384 -p WatchdogSec=3min "
    "systemd-nspawn --quiet --directory={root} --overlay={root}:{upper}:/ --machine=bare --boot --notify-ready=yes"
)
BARE_RUN = "systemd-run --quiet --pipe --wait --machine={machine} /bin/bash"
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/root", "LANG": "C.UTF-8"}

series: dict[str, list[float]] = {}
PAUSE_SECONDS = 0.05


class Done(NamedTuple):
    seconds: float
    peak_mib: float
    output_bytes: int


def call(argv: list[str], *, stdin: str = os.devnull, env: Mapping[str, str] | None = None) -> Done:
    """Run a command as gitlab-runner does: output read from two pipes until both end. Its failure ends all.

    Forked, not spawned: what shares our memory until it executes would have our peak of memory as its own.
    """
    pipes = [os.pipe(), os.pipe()]
    # A job's stages do not come back to back either: after a pause both sides meet a machine that has gone to sleep.
    time.sleep(PAUSE_SECONDS)
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        for number, fd in enumerate((os.open(stdin, os.O_RDONLY), pipes[0][1], pipes[1][1])):
            os.dup2(fd, number)
        os.execvpe(argv[0], argv, {**ENVIRONMENT, **(env or {})})  # noqa: S606  (an argument list, no shell)
    for _, writer in pipes:
        os.close(writer)
    count = 0
    while chunk := os.read(pipes[0][0], 65536):
        count += len(chunk)
    said = b""
    while chunk := os.read(pipes[1][0], 65536):
        said += chunk
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - began
    for reader, _ in pipes:
        os.close(reader)
    if status:
        sys.exit(f"status {status} from {' '.join(argv)}: {said.decode(errors='replace')}")
    return Done(seconds, usage.ru_maxrss / 1024, count)


def note(name: str, value: float) -> None:
    series.setdefault(name, []).append(value)


class Ours:
    """A job as gitlab-runner has it: its stages are called with a payload and the variables that come with it."""

    def __init__(self, number: int, image: str, backend: str = "") -> None:
        self.machine = f"run-{number}"
        config = [f"--config={SCRATCH}/{backend}.toml"] if backend else []
        self.driver = [f"{sys.argv[1]}/nspawn-runner", *config]
        variables = [{"key": f"CI_VARIABLE_{count}", "value": "v" * 100} for count in range(150)]
        payload = {
            "id": number,
            "token": "none",
            "job_info": {"project_id": 7, "name": "benchmark"},
            "git_info": {"repo_url": "https://gitlab.example/group/project.git", "protected": False},
            "runner_info": {"timeout": 3600},
            "variables": variables,
            "image": {"name": image},
        }
        self.env = {f"CUSTOM_ENV_{item['key']}": item["value"] for item in variables}
        self.env["JOB_RESPONSE_FILE"] = f"{SCRATCH}/{number}.json"
        with open(self.env["JOB_RESPONSE_FILE"], "w") as file:
            json.dump(payload, file)

    def stage(self, *arguments: str) -> Done:
        return call([*self.driver, *arguments], env=self.env)

    def prepare(self) -> Done:
        return self.stage("prepare")

    def run(self, script: str) -> Done:
        return self.stage("run", script, "step_script")

    def cleanup(self) -> Done:
        return self.stage("cleanup")


class Bare:
    """The plain recipe: root is the host's, the network too."""

    machine = "bare"

    def __init__(self, image: str) -> None:
        self.root = f"{STATE}/{image}"

    def prepare(self) -> Done:
        os.makedirs(UPPER)
        return call(PLAIN_RECIPE.format(root=self.root, upper=UPPER).split())

    def run(self, script: str) -> Done:
        return call(BARE_RUN.format(machine=self.machine).split(), stdin=script)

    def cleanup(self) -> Done:
        stopped = call(["systemctl", "stop", "bare.service"])
        removed = call(["rm", "-rf", UPPER])
        return removed._replace(seconds=stopped.seconds + removed.seconds)


def measure_config(rounds: int) -> None:
    job = Ours(1, "small")
    for _ in range(rounds):
        done = job.stage("config")
        note("config ours", done.seconds)
        note("memory config", done.peak_mib)
        note("config bare", call(["/usr/bin/python3", "-I", "-c", "pass"]).seconds)
        with open(SETTINGS, "w") as file:
            file.write('keep_failed = "2h"\n[limits]\nmemory_max = "4G"\n')
        note("config with settings", job.stage("config").seconds)
        os.unlink(SETTINGS)


def measure_machines(backends: Sequence[str], rounds: int) -> None:
    """Boot, use and remove all kinds of machines in turn, each round beginning with another kind."""
    kinds: dict[str, Ours | Bare] = {"bare": Bare("small"), f"{backends[0]} big": Ours(20, "big", backends[0])}
    kinds |= {f"{backend} small": Ours(10 + count, "small", backend) for count, backend in enumerate(backends)}
    names = list(kinds)
    for count in range(-1, rounds):
        for name in names[count % len(names) :] + names[: count % len(names)]:
            machine = kinds[name]
            for stage in ("prepare", "run", "cleanup"):
                done = machine.run(f"{SCRATCH}/trivial") if stage == "run" else getattr(machine, stage)()
                if count < 0:
                    continue  # the first round warms the caches
                note(f"{stage} {name}", done.seconds)
                if name != "bare":
                    note(f"memory {stage}", done.peak_mib)
        print(f"round {count + 1} of {rounds}", file=sys.stderr, flush=True)


def measure_scripts(rounds: int) -> None:
    """Run scripts in one machine, by the driver and bare in turn."""
    job, bare = Ours(2, "small"), Bare("small")
    bare.machine = job.machine
    job.prepare()
    for name, count in (("trivial", 3 * rounds), ("each-line", rounds), ("in-blocks", rounds)):
        script = f"{SCRATCH}/{name}"
        for _ in range(count):
            for who, done in (("ours", job.run(script)), ("bare", bare.run(script))):
                note(f"{name} {who}", done.seconds)
                if name != "trivial" and done.output_bytes != LINES * (len(LINE) + 1):
                    sys.exit(f"{name} {who}: {done.output_bytes} bytes came through")
                if who == "ours":
                    note("memory run", done.peak_mib)
    job.cleanup()


def main() -> None:
    backends, rounds = sys.argv[2].split(","), int(sys.argv[3])
    for folder in (SCRATCH, os.path.dirname(SETTINGS)):
        os.makedirs(folder, exist_ok=True)
    for name, script in (("trivial", "true\n"), ("each-line", EACH_LINE), ("in-blocks", IN_BLOCKS)):
        with open(f"{SCRATCH}/{name}", "w") as file:
            file.write(script)
    for backend in backends:
        with open(f"{SCRATCH}/{backend}.toml", "w") as file:
            file.write(f'backend = "{backend}"\n')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    measure_machines(backends, rounds)
    measure_scripts(rounds)
    measure_config(3 * rounds)
    note("memory bare", call(["/usr/bin/python3", "-I", "-c", "pass"]).peak_mib)
    json.dump(series, sys.stdout)


if __name__ == "__main__":
    main()
