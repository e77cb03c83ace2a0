"""gc: what killed processes left goes in one call, whatever lives stays, and what is not ours too."""

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from backends import ON_ONE
from by_hand import TOOL, Job, Unchanged, holdings, payload, wait_until, write
from disposable_host import STATE_FOLDER, DisposableHost

RUN = "/run/nspawn-runner"
LONG = "long: {image: bookworm, script: [sleep 600]}\n"
_numbers = itertools.count(1)


def gc(host: DisposableHost, *arguments: str, settings: str | None = None, status: int = 0) -> list[dict[str, Any]]:
    """Call gc and return what it says."""
    options = [] if settings is None else ["--config", write(host, settings)]
    done = host.run([TOOL, *options, "gc", "--json", *arguments], check=False)
    assert done.returncode == status, done.stderr.decode()
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def shell(host: DisposableHost, script: str, *, check: bool = True) -> str:
    return host.run(["bash", "-euc", script], check=check).stdout.decode()


def kill(host: DisposableHost, process: subprocess.Popen[bytes], pattern: str) -> None:
    """Kill the tool alone, not what it called; ``pattern`` is its command line's end in the host."""
    host.run(["pkill", "-KILL", "--full", pattern], check=False)
    process.wait(timeout=60)


def runs(host: DisposableHost) -> bool:
    """Tell whether a machine is up."""
    return bool(shell(host, f'grep -l \'"state": "running"\' {RUN}/run-*.json 2>/dev/null || true'))


def project(host: DisposableHost, jobs: str) -> str:
    """Make a folder with a .gitlab-ci.yml in the host and return its path."""
    folder = f"/root/project-{next(_numbers)}"
    host.path(folder).mkdir()
    host.path(f"{folder}/.gitlab-ci.yml").write_text(jobs)
    return folder


def popen(host: DisposableHost, *argv: Any, **options: Any) -> subprocess.Popen[bytes]:
    return host.popen([*argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)


@pytest.fixture(autouse=True)
def warm(request: pytest.FixtureRequest) -> None:
    """The folders that stay are there before anything is compared."""
    name = next((name for name in request.fixturenames if name in {"host", "overlay_host", "btrfs_host"}), "")
    if name:
        found: DisposableHost = request.getfixturevalue(name)
        shell(found, f"mkdir -p -m 700 {RUN} {STATE_FOLDER}/.build {STATE_FOLDER}/.generations {STATE_FOLDER}/.cache")
        gc(found)


def test_nothing_is_left_over(host: DisposableHost) -> None:
    with Unchanged(host):
        assert gc(host) == []
        assert host.run([TOOL, "gc"]).stdout == b"nothing is left over\n"


@pytest.mark.parametrize("seconds", [0.02, 0.08, 0.15, 0.25, 0.4, 0.6, 0.9])
def test_prepare_that_was_killed(host: DisposableHost, seconds: float) -> None:
    with Unchanged(host):
        job = Job(host)
        process = popen(host, *job.argv("prepare", "bookworm"))
        time.sleep(seconds)
        kill(host, process, f"prepare --id {job.id}")
        if job.host.path(f"{RUN}/{job.machine}.json").exists() and job.record()["state"] == "running":
            job.cleanup()
        # A systemd-run that prepare called may still be about to start the unit.
        wait_until(lambda: not shell(host, f"pgrep --full '[s]ystemd-run .*{job.machine}' || true"))
        rows = gc(host)
        assert {row["result"] for row in rows} <= {"removed"}
        assert gc(host) == []


def test_cleanup_and_machine_that_were_killed(host: DisposableHost) -> None:
    with Unchanged(host):
        job = Job(host)
        job.prepare()
        record = {**job.record(), "state": "stopping"}
        host.path(f"{RUN}/{job.machine}.json").write_text(json.dumps(record))
        (row,) = gc(host)
        assert (row["kind"], row["name"], row["result"]) == ("machine", job.machine, "removed")
        # A snapshot of which little was written yet has nothing of its own on disk.
        assert row["size_bytes"] > 0 or host.state == "btrfs"


def test_a_machine_that_ended_waits_for_its_cleanup(host: DisposableHost) -> None:
    with Unchanged(host), Job(host) as job:
        job.prepare()
        shell(host, f"kill -9 {job.main_pid()}")
        wait_until(lambda: host.path(f"{RUN}/{job.machine}/end.json").exists())
        wait_until(lambda: not host.path(f"/run/systemd/transient/{job.unit}").exists())
        assert gc(host) == []
        assert [row["result"] for row in gc(host, "--dry-run", "--max-age", "0")] == ["would be removed"]
        assert [row["name"] for row in gc(host, "--max-age", "0s")] == [job.machine]


def test_run_that_was_killed_leaves_the_machine_to_its_job(host: DisposableHost) -> None:
    with Unchanged(host), Job(host) as job:
        job.prepare()
        with job.start("echo ready; sleep 600") as process:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            kill(host, process, f"run --id {job.id}")
        assert gc(host) == []
        assert job.output("echo works") == "works\n"


@ON_ONE
def test_gitlab_runner_that_was_killed_takes_its_jobs_along(host: DisposableHost) -> None:
    """Also where sudo, or a script of the administrator's, stands between it and the tool."""
    with Unchanged(host):
        jobs = [Job(host) for _ in range(3)]
        shell(host, "cp /bin/bash /root/gitlab-runner")
        host.path("/root/wrapper").write_text('#!/bin/sh\n"$@"\nexit $?\n')
        host.path("/root/wrapper").chmod(0o755)
        between = ["", "sudo ", "sudo --preserve-env /root/wrapper nice "]
        calls = "; ".join(
            way + " ".join(map(str, job.argv("prepare", "bookworm"))) for way, job in zip(between, jobs, strict=True)
        )
        runner = popen(host, "/root/gitlab-runner", "-c", f"{calls}; touch /root/ready; sleep 600; :")
        wait_until(lambda: host.path("/root/ready").exists(), seconds=120)
        assert [gc(host), *(job.output("echo works") for job in jobs)] == [[], *(["works\n"] * 3)]
        shell(host, "rm /root/ready; pkill -KILL --exact gitlab-runner; pkill --full --exact 'sleep 600'")
        runner.wait(timeout=60)
        rows = gc(host)
        assert {row["name"] for row in rows} == {job.machine for job in jobs}
        assert {row["why"] for row in rows} == {"whoever started it has ended"}


def test_exec_whose_output_nobody_reads_leaves_nothing(host: DisposableHost) -> None:
    """As `exec JOB | head`, or less and q; of one stream or both."""
    folder = project(host, "job: {image: bookworm, script: [seq 100000, sleep 1], after_script: [pwd]}\n")
    with Unchanged(host):
        for way in (f"{TOOL} exec job | head -n 1", f"{TOOL} exec job 2>&1 | true", f"{TOOL} exec job >/dev/full 2>&1"):
            shell(host, f"cd {folder}; {way} || true")
            assert not runs(host)
            assert gc(host) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_exec_that_is_told_to_end_leaves_nothing(host: DisposableHost, number: int, status: int) -> None:
    folder = project(host, LONG)
    with Unchanged(host):
        process = popen(host, "sh", "-c", f"{{ '{TOOL}' exec long; echo status $?; }} >/root/said 2>&1", cwd=folder)
        wait_until(lambda: runs(host))
        shell(host, f"pkill -{number} --full 'nspawn-runner exec long$'")
        process.wait(timeout=60)
        said = host.path("/root/said").read_text()
        assert said.endswith(f"nspawn-runner: stopped by {signal.Signals(number).name}\nstatus {status}\n"), said
        assert gc(host) == []


def test_exec_that_was_killed_behind_its_own_back(host: DisposableHost) -> None:
    """Its folder is gone, and with it what gc knew of it: the machine itself says whose it is."""
    folder = project(host, LONG)
    with Unchanged(host):
        process = popen(host, TOOL, "exec", "long", cwd=folder)
        wait_until(lambda: runs(host))
        kill(host, process, "nspawn-runner exec long")
        shell(host, "rm -r /var/lib/nspawn-runner/.build/exec-*")
        rows = gc(host)
        assert [(row["kind"], row["why"]) for row in rows] == [("machine", "whoever started it has ended")]


def test_exec_that_was_killed(host: DisposableHost) -> None:
    folder = project(host, LONG)
    with Unchanged(host):
        process = popen(host, TOOL, "exec", "long", cwd=folder)
        wait_until(lambda: runs(host))
        assert gc(host) == []
        kill(host, process, "nspawn-runner exec long")
        rows = gc(host)
        assert [row["kind"] for row in rows] == ["machine", "exec"]
        assert {row["result"] for row in rows} == {"removed"}


def test_doctor_that_was_killed(host: DisposableHost) -> None:
    with Unchanged(host):
        shell(host, f"mkdir -p {STATE_FOLDER}/.doctor/layer/upper {RUN}/doctor/merged; echo 1 > {RUN}/doctor.lock")
        shell(host, "nft add table inet nspawn_runner_doctor; ip link add vb-doctor type veth peer name vb-other")
        assert [row["kind"] for row in gc(host, "--dry-run")] == ["doctor"]
        assert [row["result"] for row in gc(host)] == ["removed"]
        assert "doctor" not in shell(host, "nft list tables")

        process = popen(host, TOOL, "doctor", "--job")
        wait_until(lambda: runs(host), seconds=90)
        kill(host, process, "nspawn-runner doctor --job")
        wait_until(lambda: not shell(host, "pgrep --full '[s]ettings.toml' || true"))
        assert "machine" in {row["kind"] for row in gc(host)} or not list(host.path(RUN).glob("run-*"))
        assert gc(host) == []


PLAYBOOK = """- hosts: all
  gather_facts: false
  vars:
    nspawn_runner_chroot_extends: bookworm
    nspawn_runner_maint_boot: true
    nspawn_runner_maint_smoke_test: sleep 1
  tasks:
    - ansible.builtin.raw: sleep 2
"""


def test_maintenance_that_goes_on_and_then_is_killed(host: DisposableHost) -> None:
    shell(host, f"mkdir -p -m 755 /etc/nspawn-runner {RUN}/maintenance {RUN}/connections; chmod 700 {RUN}/*/")
    host.path("/etc/nspawn-runner/kept.yaml").write_text(PLAYBOOK)
    try:
        with Unchanged(host):
            process = popen(host, TOOL, "chroot-maintenance")
            wait_until(lambda: runs(host), seconds=90)
            assert gc(host, "--max-age", "0") == []
            assert process.wait(timeout=120) == 0
            host.run([TOOL, "chroot-remove", "kept"])
            for seconds in (1.0, 2.5, 4.0):
                process = popen(host, TOOL, "chroot-maintenance")
                time.sleep(seconds)
                kill(host, process, "nspawn-runner chroot-maintenance")
                wait_until(lambda: not shell(host, "pgrep --full '[s]ystemd-run .*-run-|[a]nsible-playbook' || true"))
                assert {row["result"] for row in gc(host)} <= {"removed"}
                assert gc(host) == []
            if host.path(f"{STATE_FOLDER}/kept").exists():
                host.run([TOOL, "chroot-remove", "kept"])
    finally:
        shell(host, "rm -r /etc/nspawn-runner")


def test_images_that_were_half_made_or_are_not_needed(host: DisposableHost) -> None:
    folder = f"{STATE_FOLDER}/.generations/gone"
    stamps = [f"2026010{number}T000000Z" for number in range(1, 7)]
    make = "btrfs subvolume create" if host.state == "btrfs" else "mkdir"
    with Unchanged(host):
        shell(
            host,
            f"mkdir -p -m 700 {folder} {folder}2; cd {folder}; {make} .{stamps[0]}.new; {make} .{stamps[1]}.old; "
            f"{make} {stamps[2]}; echo x > .{stamps[0]}.new/file; echo '{{}}' > {stamps[3]}.json; ln -s x .link; "
            f"{make} {stamps[4]}; echo '{{}}' > {stamps[4]}.json; echo 1 > ../.gone.lock; "
            f"mkdir -p {RUN}/maintenance/gone",
        )
        before = holdings(host)
        assert len(gc(host, "--dry-run")) == 7
        assert holdings(host) == before
        with host.popen(["flock", f"{folder}/../.gone.lock", "sleep", "60"]) as maintenance:
            wait_until(lambda: shell(host, f"flock -n {folder}/../.gone.lock true && echo free || true") == "")
            assert gc(host) == []
            os.killpg(maintenance.pid, signal.SIGKILL)
            shell(host, "pkill --full --exact 'sleep 60' || true")
        rows = gc(host)
        assert {row["result"] for row in rows} == {"removed"}
        assert not host.path(folder).exists()
        assert shell(host, f"ls -A {STATE_FOLDER}/.generations") == ""


def test_old_generations_go_unless_a_machine_uses_them(host: DisposableHost) -> None:
    stamps = [f"2026010{number}T000000Z" for number in range(1, 7)]
    folder = f"{STATE_FOLDER}/.generations/many"
    copy = "btrfs --quiet subvolume snapshot ../../bookworm" if host.state == "btrfs" else "cp -al ../../bookworm"
    shell(host, f"mkdir -m 700 {folder}; cd {folder}; {copy} {stamps[0]}; echo '{{\"keep\": 3}}' > {stamps[0]}.json; "
          f"ln -s .generations/many/{stamps[0]} ../../many")  # fmt: skip
    try:
        with Job(host) as job:
            job.prepare("many")
            for stamp in stamps[1:]:
                shell(host, f"cd {folder}; mkdir {stamp}; echo '{{\"keep\": 3}}' > {stamp}.json")
            shell(host, f"ln -sfn .generations/many/{stamps[5]} {STATE_FOLDER}/many")
            assert {row["name"] for row in gc(host)} == {f"many {stamp}" for stamp in stamps[1:3]}
            assert job.output("echo works") == "works\n"
        assert [row["name"] for row in gc(host)] == [f"many {stamps[0]}"]
        assert gc(host) == []
    finally:
        host.run([TOOL, "chroot-remove", "many"])


def test_what_is_not_ours_stays(host: DisposableHost) -> None:
    names = [
        ".overlays/other", ".snapshots/run-x", ".generations/bookworm/notes", ".generations/.hidden", ".build/mine",
        ".build/exec-mine", ".cache/mine", "own-image/etc", ".other",
    ]  # fmt: skip
    paths = " ".join(f"{STATE_FOLDER}/{name}" for name in names) + f" {RUN}/other"
    with Unchanged(host):
        try:
            link = "ip link add vb-mine type veth peer name vb-other"
            shell(host, f"umask 077; mkdir -p {paths}; {link}; systemd-run --quiet --unit=nspawn-runner-mine sleep 60")
            assert gc(host, settings='[gc]\ncache_days = 1\ncache_size = "1"\n') == []
            shell(host, f"ls -d {paths}; ip link show vb-mine; systemctl is-active nspawn-runner-mine")
        finally:
            made = f"{STATE_FOLDER}/own-image {STATE_FOLDER}/.generations/bookworm"
            shell(host, f"rm -r {paths} {made}; ip link delete vb-mine; systemctl stop nspawn-runner-mine")


def test_a_host_that_was_rebooted_under_its_jobs(host: DisposableHost) -> None:
    with Unchanged(host):
        jobs = [Job(host) for _ in range(3)]
        for job in jobs:
            job.prepare()
        shell(host, f"systemctl kill --signal=KILL 'nspawn-runner-run-*'; rm -rf {RUN}/run-*")
        wait_until(lambda: not shell(host, "ls /run/systemd/transient | grep nspawn-runner || true"))
        layers = host.path(f"{STATE_FOLDER}/{'.snapshots' if host.state == 'btrfs' else '.overlays'}")
        for job in jobs:  # what the reaper would do
            (layers / job.machine / "upper").mkdir(parents=True, exist_ok=True)
        assert {row["name"] for row in gc(host)} == {job.machine for job in jobs}


def test_small_files_of_killed_processes(host: DisposableHost) -> None:
    with Unchanged(host):
        shell(host, f"cd {RUN}; echo 1 > run-1.lock; echo 1 > exec-5.lock; touch run-1.json.4000000.new")
        gc(host, "--dry-run")
        assert host.path(f"{RUN}/run-1.lock").exists()
        gc(host)


def test_unreadable_records(host: DisposableHost) -> None:
    with Unchanged(host), Job(host) as job:
        job.prepare()
        record = host.path(f"{RUN}/{job.machine}.json")
        good = record.read_bytes()
        record.write_bytes(b"{")
        host.path(f"{RUN}/run-999.json").write_bytes(b"")
        assert [row["name"] for row in gc(host)] == ["run-999"]
        record.write_bytes(good)
        assert job.output("echo works") == "works\n"


@pytest.fixture
def caches(overlay_host: DisposableHost) -> Iterator[list[str]]:
    names = [f"gitlab.example.com-{number}-protected" for number in range(7, 11)]
    days = " ".join(f"{name}:{days}" for name, days in zip(names, (50, 40, 20, 10), strict=True))
    shell(overlay_host, f"cd {STATE_FOLDER}/.cache; rm -rf *; for each in {days}; do name=${{each%:*}}; "
          "mkdir -p $name; head -c 5M /dev/zero > $name/file; touch -d \"${each#*:} days ago\" $name.used; "
          "done")  # fmt: skip
    yield names
    shell(overlay_host, f"rm -rf {STATE_FOLDER}/.cache/*")


def there(host: DisposableHost) -> list[str]:
    return sorted(name for name in os.listdir(host.path(f"{STATE_FOLDER}/.cache")) if not name.endswith(".used"))


def test_caches_that_were_not_used_for_long(overlay_host: DisposableHost, caches: list[str]) -> None:
    with Job(overlay_host, "8811", payload=payload(8811)) as job:
        job.prepare(None)
        rows = gc(overlay_host)
        assert [(row["kind"], row["name"], row["result"]) for row in rows] == [("cache", caches[1], "removed")]
        assert rows[0]["size_bytes"] >= 5 << 20
        assert there(overlay_host) == sorted([caches[0], *caches[2:]])


def test_caches_that_take_too_much_room(overlay_host: DisposableHost, caches: list[str]) -> None:
    rows = gc(overlay_host, settings='[gc]\ncache_days = 0\ncache_size = "11M"\n')
    assert [row["name"] for row in rows] == caches[:2]
    assert there(overlay_host) == sorted(caches[2:])


def test_beside_machines_that_come_and_go(host: DisposableHost) -> None:
    script = f"for i in 1 2 3 4; do {TOOL} prepare --id 86$1$i bookworm && {TOOL} cleanup --id 86$1$i || exit 1; done"
    with Unchanged(host):
        workers = [popen(host, "sh", "-c", script, "sh", number) for number in "12"]
        while any(worker.poll() is None for worker in workers):
            assert [row for row in gc(host, "--max-age", "0") if row["result"] != "in use"] == []
        assert [worker.returncode for worker in workers] == [0, 0]


def test_of_two_at_once_the_second_says_so(overlay_host: DisposableHost) -> None:
    with overlay_host.popen(["flock", f"{RUN}/gc.lock", "sleep", "5"]):
        wait_until(lambda: shell(overlay_host, f"flock -n {RUN}/gc.lock true && echo free || true") == "")
        done = overlay_host.run([TOOL, "gc"], check=False)
    assert done.returncode != 0
    assert b"gc is in use by another process" in done.stderr


@pytest.mark.parametrize("age", ["", "-1", "1 week", "1e3", "²"])
def test_bad_age(overlay_host: DisposableHost, age: str) -> None:
    done = overlay_host.run([TOOL, "gc", f"--max-age={age}"], check=False)
    assert done.returncode != 0
    assert b"is not an age" in done.stderr
