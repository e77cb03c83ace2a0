"""A job that reaches a limit is told so and fails as a job; the host gets back all it held."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from by_hand import BUILD_FAILURE, Job, Unchanged, payload, wait_until, write
from disposable_host import DisposableHost

LIMITS = """
[limits]
memory_max = "300M"
tasks_max = 150
disk_max = "200M"
cpus = 0.5
allowed_cpus = "0"
open_files = 2048
locked_memory = "4M"
"""
FILL = "dd if=/dev/zero of={} bs=1M count=600 status=none"
# In the background, and takes what others give back.
FORK = """python3 - <<'END' &
import os, time
while True:
    try:
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
    except OSError:
        time.sleep(0.001)
END
"""
# For limits that are not the disk's.
ON_ONE = pytest.mark.parametrize("host", ["overlay_host"], indirect=True)
SHARE = """
import time
end = time.monotonic() + 3
while time.monotonic() < end: pass
print(time.process_time() / 3)
"""


@pytest.fixture(scope="module", params=["overlay_host", "btrfs_host"])
def host(request: pytest.FixtureRequest) -> DisposableHost:
    found: DisposableHost = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def job(host: DisposableHost) -> Iterator[Job]:
    """A job with little of everything; nothing is left of it at the end."""
    with Unchanged(host):
        with Job(host, settings=LIMITS) as made:
            made.prepare()
            yield made
        wait_until(lambda: ".disk" not in host.run(["losetup", "--noheadings", "--output=BACK-FILE"]).stdout.decode())


def assert_job_failed(job: Job, script: str, *texts: str) -> None:
    done = job.script(script)
    assert done.status == BUILD_FAILURE, done
    for text in texts:
        assert text in done.message


@ON_ONE
def test_cpus_and_open_files(job: Job) -> None:
    assert job.output("nproc; ulimit -Sn; ulimit -Hn") == "1\n2048\n2048\n"
    assert job.script("ulimit -Hn 3000").status != 0
    assert job.output("ulimit -l; ulimit -Hl") == "4096\n4096\n"
    service = "systemd-run --quiet --pipe --wait --property=LimitMEMLOCK"
    assert job.output(f"{service}=infinity sh -c 'ulimit -l'; {service}=2M sh -c 'ulimit -l'") == "4096\n2048\n"
    assert float(job.output(f"python3 -c '{SHARE}'")) < 0.75


def test_a_full_disk(job: Job) -> None:
    done = job.script(f"{FILL.format('/big')} || exit 7")
    assert (done.status, done.code) == (BUILD_FAILURE, "7\n")
    assert "nspawn-runner: disk full: limit 200 MiB, " in done.message
    assert_job_failed(job, "echo x > /builds/x || exit 1; exit 3", "disk full")
    assert job.output("rm /big; dd if=/dev/urandom of=/most bs=1M count=120 status=none; stat -c %s /most") == (
        f"{120 << 20}\n"
    )
    assert "disk full" not in job.script("exit 3").message


def test_a_full_disk_after_a_reboot(job: Job) -> None:
    job.output("echo kept > /kept")
    assert "was rebooted under the script" in job.script("systemctl reboot; sleep 60").message
    assert job.output("cat /kept") == "kept\n"
    assert_job_failed(job, FILL.format("/big"), "disk full: limit 200 MiB, ")


@ON_ONE
def test_memory(job: Job) -> None:
    text = "nspawn-runner: out of memory: limit 300 MiB, peak 300 MiB; processes killed: 1\n"
    assert_job_failed(job, "python3 -c 'bytearray(600 << 20)'", text)
    # A full /tmp is an error that the script sees.
    assert job.output(f"{FILL.format('/tmp/big')} || rm /tmp/big; echo on; stat -c %a /tmp") == "on\n1777\n"


def test_a_machine_that_memory_ends(job: Job) -> None:
    text = "out of memory: limit 300 MiB, peak 300 MiB"
    layer = job.layer()
    assert_job_failed(job, FILL.format("/dev/shm/big"), f"the machine {job.machine} died under the script: {text}")
    assert_job_failed(job, "echo next", f"the machine {job.machine} is gone: {text}")
    assert not layer.exists()


@ON_ONE
def test_tasks(job: Job) -> None:
    assert_job_failed(job, f"{FORK}\nsleep 2; exit 4", "task limit reached: the job may have 150 processes and threads")
    for _ in range(2):
        assert_job_failed(job, "echo next", "no script can be started", "task limit reached", "150 there are")


@ON_ONE
def test_time_that_reboots_do_not_lengthen(job: Job) -> None:
    record = {**job.record(), "created": 1}
    job.host.path(f"/run/nspawn-runner/{job.machine}.json").write_text(json.dumps(record))
    assert_job_failed(job, "systemctl reboot; sleep 60", "its time was over: limit 86400 seconds")
    assert_job_failed(job, "echo next", "its time was over")


RULE = """
[[policy]]
projects = ["group/p"]
ceilings = { memory_max = "400M", cpus = 4, disk_max = "300M" }
"""


def with_wishes(host: DisposableHost, wishes: dict[str, str], settings: str = LIMITS, **changed: Any) -> Job:
    number = next(Job._ids)
    variables = [{"key": key, "value": value} for key, value in {"CI_PROJECT_PATH": "group/p", **wishes}.items()]
    return Job(host, str(number), payload=payload(number, variables=variables, **changed), settings=settings)


def shown(job: Job, *names: str) -> set[str]:
    argv = ["systemctl", "show", f"--property={','.join(names)}", job.unit]
    return set(job.host.run(argv).stdout.decode().split("\n")) - {""}


def test_a_job_may_wish_for_less(host: DisposableHost) -> None:
    wishes = {"NSPAWN_MEMORY_MAX": "200M", "NSPAWN_CPUS": "0.4", "NSPAWN_RUNTIME_MAX_SECONDS": "60",
              "NSPAWN_DISK_MAX": "100M"}  # fmt: skip
    with with_wishes(host, wishes) as job:
        job.prepare(None)
        assert shown(job, "MemoryMax", "TasksMax", "CPUQuotaPerSecUSec", "RuntimeMaxUSec") == {
            f"MemoryMax={200 << 20}", "TasksMax=150", "CPUQuotaPerSecUSec=400ms", "RuntimeMaxUSec=1min"
        }  # fmt: skip
        assert_job_failed(job, FILL.format("/big"), "disk full: limit 100 MiB")


@ON_ONE
@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("NSPAWN_MEMORY_MAX", "301M", "asks for 301 MiB, but this job may have at most 300 MiB"),
        ("NSPAWN_CPUS", "2", "asks for 2 CPUs, but this job may have at most 0.5 CPUs"),
        ("NSPAWN_RUNTIME_MAX_SECONDS", "90000", "may have at most 5400 seconds"),
        ("NSPAWN_TASKS_MAX", "$(id)", "must be a whole number, from 64"),
    ],
)
def test_more_is_refused(host: DisposableHost, variable: str, value: str, text: str) -> None:
    with Unchanged(host):
        done = with_wishes(host, {variable: value}).call("prepare")
    assert (done.status, done.out) == (BUILD_FAILURE, b"")
    assert f"nspawn-runner: {variable} " in done.message
    assert text in done.message
    assert len(done.message.splitlines()) <= 3


UNLIMITED = """
[limits]
memory_max = "infinity"
cpu_weight = 10000
io_weight = 10000
tasks_max = 999999999
"""
MOST = {
    **dict.fromkeys(("NSPAWN_MEMORY_MAX", "NSPAWN_MEMORY_HIGH", "NSPAWN_MEMORY_SWAP_MAX"), "1048576T"),
    **dict.fromkeys(("NSPAWN_CPU_WEIGHT", "NSPAWN_IO_WEIGHT"), "10000"),
    "NSPAWN_CPUS": "9999.99", "NSPAWN_TASKS_MAX": "999999999", "NSPAWN_OPEN_FILES": "524288",
    "NSPAWN_RUNTIME_MAX_SECONDS": "5400", "NSPAWN_DISK_MAX": "1048576T",
}  # fmt: skip
LEAST = {
    "NSPAWN_MEMORY_MAX": "64M", "NSPAWN_MEMORY_SWAP_MAX": "0", "NSPAWN_CPU_WEIGHT": "1", "NSPAWN_IO_WEIGHT": "1",
    "NSPAWN_CPUS": "0.1", "NSPAWN_TASKS_MAX": "64", "NSPAWN_OPEN_FILES": "1024", "NSPAWN_RUNTIME_MAX_SECONDS": "60",
    "NSPAWN_DISK_MAX": "67108865",
}  # fmt: skip


@pytest.mark.parametrize("wishes", [MOST, LEAST, {"NSPAWN_DISK_MAX": "60T"}, {"NSPAWN_DISK_MAX": "16T"}])
def test_the_greatest_and_least_wishes_are_a_machine_at_once(host: DisposableHost, wishes: dict[str, str]) -> None:
    with Unchanged(host), with_wishes(host, wishes, UNLIMITED) as job:
        began = time.monotonic()
        job.prepare(None)
        assert time.monotonic() - began < 20
        assert job.output("echo works") == "works\n"
        # Of the disk there is no more than there is: no file system is made for that.
        assert host.path(f"/var/lib/nspawn-runner/.overlays/{job.machine}.disk").exists() == (wishes == LEAST)
        job.cleanup()


@ON_ONE
@pytest.mark.parametrize("value", ["999999999999999T", "9" * 400, "\x00\ud800", "1048577T"])
def test_what_is_no_amount_is_refused_at_once(host: DisposableHost, value: str) -> None:
    for variable in ("NSPAWN_DISK_MAX", "NSPAWN_MEMORY_MAX", "NSPAWN_OPEN_FILES", "NSPAWN_CPUS"):
        done = with_wishes(host, {variable: value}, UNLIMITED).call("prepare")
        assert (done.status, done.out) == (BUILD_FAILURE, b""), done.message
        assert f"nspawn-runner: {variable} must be " in done.message


@ON_ONE
def test_a_rule_lets_a_job_have_more(host: DisposableHost) -> None:
    wishes = {"NSPAWN_MEMORY_MAX": "400M", "NSPAWN_CPUS": "2", "NSPAWN_DISK_MAX": "300M"}
    with with_wishes(host, wishes, LIMITS + RULE) as job:
        job.prepare(None)
        assert shown(job, "MemoryMax", "CPUQuotaPerSecUSec") == {f"MemoryMax={400 << 20}", "CPUQuotaPerSecUSec=2s"}
    refused = with_wishes(host, {"NSPAWN_MEMORY_MAX": "401M"}, LIMITS + RULE).call("prepare")
    assert "may have at most 400 MiB" in refused.message
    elsewhere = {**wishes, "CI_PROJECT_PATH": "group/other"}
    assert "may have at most 300 MiB" in with_wishes(host, elsewhere, LIMITS + RULE).call("prepare").message


@ON_ONE
def test_auto_is_a_share_of_the_host(host: DisposableHost) -> None:
    config = write(host, b"concurrent = 4\n")
    with Job(host, settings='[limits]\nmemory_max = "auto"\n', env={"CONFIG_FILE": config}) as job:
        job.prepare()
        [total] = [line for line in host.path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")]
        assert shown(job, "MemoryMax") == {f"MemoryMax={int(total.split()[1]) * 1024 // 4}"}


def test_tmpfs_is_limited_and_given_back(host: DisposableHost) -> None:
    with Unchanged(host), Job(host, settings=f'backend = "tmpfs"\n{LIMITS}') as job:
        job.prepare()
        assert_job_failed(job, FILL.format("/big"), "disk full: limit 200 MiB, 0 bytes left")
        layer = job.layer()
        assert "was powered off" in job.script("systemctl poweroff; sleep 60").message
        wait_until(lambda: not layer.exists())
