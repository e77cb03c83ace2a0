"""Jobs that are struck by one fault each: nothing leaks, nothing lies, and the job beside them goes on counting.

SEED=number repeats the faults that a run has told, RUNS=number makes it longer; so does script/test --soak. In CI the
faults of the short run are the same each time.
"""

import itertools
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from by_hand import SECONDS, SYSTEM_FAILURE, Done, Job, terminate, wait_until
from chaos import Bystander, Nothing, Round
from debian_tree import IN_CI
from disposable_host import STATE_FOLDER, DisposableHost
from faults import CLEANUP, PREPARE, Call, Fault, faults

RUNS, RUNS_OF_SOAK = 22, 400
_job_ids = itertools.count(700001)


@pytest.fixture(scope="module")
def place(small_host: DisposableHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nothing]:
    with Bystander(small_host, tmp_path_factory.mktemp("chaos")) as bystander:
        yield Nothing(small_host, bystander)


def test_chaos(place: Nothing, soak: bool) -> None:
    seed = int(os.environ.get("SEED", 1 if IN_CI and not soak else time.time_ns() % (1 << 32)))
    runs = int(os.environ.get("RUNS", RUNS_OF_SOAK if soak else RUNS))
    print(f"SEED={seed} RUNS={runs}")
    struck: Counter[str] = Counter()
    for fault in itertools.islice(faults(seed), runs):
        play(place, fault)
        struck[f"{fault.kind} ({fault.stage})"] += 1
    print("\n".join(f"{count:4} {what}" for what, count in sorted(struck.items())))


ONCE_FAILED = [
    (PREPARE, Call("flock", 1, "EIO")),  # leaves the file of a lock, which gc removes
    (PREPARE, Call("pipe2", 1, "EPERM")),  # was told as a mistake in nspawn-runner
    (CLEANUP, Call("rmdir", 1, "EIO")),  # left systemd-nspawn's folder without a word
    # was told as an image that is not there, so the job's fault
    *((PREPARE, Call("newfstatat", number, "EIO", f"{STATE_FOLDER}/bookworm")) for number in range(1, 6)),
]


@pytest.mark.parametrize(("stage", "call"), ONCE_FAILED)
def test_what_once_went_wrong(place: Nothing, stage: str, call: Call) -> None:
    play(place, Fault("a system call fails", stage, 0), call)


def test_a_cancelled_prepare_that_cannot_undo_itself_says_so(place: Nothing) -> None:
    stub = place.host.path("/usr/local/sbin/systemctl")
    stub.write_text("#!/bin/sh\necho 'systemctl: Input/output error' >&2\nexit 1\n")
    stub.chmod(0o755)
    try:
        with Job(place.host) as job:
            argv = job.argv("prepare", "bookworm")
            process = job.host.popen(argv, env=job.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            wait_until(lambda: job.host.path(f"/run/nspawn-runner/{job.machine}.json").exists())
            terminate(process)
            out, err = process.communicate(timeout=SECONDS)
            stub.unlink()
            done = Done(process.returncode, out, err)
            assert done.status == SYSTEM_FAILURE
            assert f"the machine {job.machine} could not be removed completely" in done.message
    finally:
        stub.unlink(missing_ok=True)
    place.check()


def play(place: Nothing, fault: Fault, call: Call | None = None) -> None:
    Round(place.host, fault, next(_job_ids), call).play(place)
    place.bystander.check()
