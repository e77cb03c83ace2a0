"""The file of metrics after whole jobs, jobs at once, and where it cannot be written."""

import json
from collections.abc import Iterator

import exposition
import pytest
from by_hand import BUILD_FAILURE, SECONDS, SYSTEM_FAILURE, Job, payload, terminate, together, write
from disposable_host import STATE_FOLDER, DisposableHost

FOLDER = "/var/lib/textfiles"
FILE = f"{FOLDER}/nspawn-runner.prom"
SETTINGS = f'[metrics]\nfile = "{FILE}"\n'
COUNTERS = f"{STATE_FOLDER}/.metrics.json"


@pytest.fixture
def counting(either_host: DisposableHost) -> Iterator[DisposableHost]:
    either_host.run(["mkdir", FOLDER])
    yield either_host
    either_host.run(["rm", "-rf", FOLDER, COUNTERS, "/run/nspawn-runner/metrics.problem"])


def text(host: DisposableHost) -> str:
    return host.path(FILE).read_text()


def jobs(host: DisposableHost) -> dict[str, float]:
    found = exposition.read(text(host))
    return {labels[0][1]: number for (name, labels), number in found.items() if name.endswith("jobs_total") and number}


def test_jobs_and_stages_are_counted(counting: DisposableHost) -> None:
    for script, status in (("true", 0), ("exit 3", BUILD_FAILURE)):
        with Job(counting, settings=SETTINGS) as job:
            job.prepare()
            assert exposition.value(text(counting), "nspawn_runner_machines", state="running", of="job") == 1
            assert job.script(script).status == status
            for _ in range(2):
                job.cleanup()
    with Job(counting, settings=SETTINGS) as job:
        job.prepare()
        with job.start("echo begun; sleep 1000") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            terminate(process)
            process.communicate(timeout=SECONDS)
        job.cleanup()
    with Job(counting, settings=SETTINGS) as job:
        job.call("prepare", "nonesuch")
    assert jobs(counting) == {"success": 1, "failed": 2, "canceled": 1}
    found = text(counting)
    assert exposition.value(found, "nspawn_runner_stage_seconds_count", stage="run") == 3
    assert exposition.value(found, "nspawn_runner_stage_seconds_count", stage="prepare") == 4
    assert 0.1 < exposition.value(found, "nspawn_runner_stage_seconds_sum", stage="prepare") < SECONDS
    assert exposition.value(found, "nspawn_runner_machines", state="running", of="job") == 0
    created = exposition.value(found, "nspawn_runner_image_created_timestamp_seconds", image="bookworm")
    assert created == round(counting.path(f"{STATE_FOLDER}/bookworm").stat().st_mtime)
    assert counting.path(FILE).stat().st_mode & 0o777 == 0o644


def test_a_prepare_that_is_tried_again(counting: DisposableHost) -> None:
    counting.run(["mkdir", f"{STATE_FOLDER}/empty"])
    try:
        job_id = int(Job(counting).id)
        info = {"project_id": 7, "time_in_queue_seconds": 1}
        with Job(counting, str(job_id), payload=payload(job_id, job_info=info), settings=SETTINGS) as job:
            for _ in range(2):
                assert job.call("prepare", "empty").status == SYSTEM_FAILURE
                job.cleanup()
            assert jobs(counting) == {}
            job.prepare(None)
            job.output("true")
            job.cleanup()
            assert jobs(counting) == {"success": 1}
            assert job.call("config").status == 0
            assert exposition.value(text(counting), "nspawn_runner_queue_seconds_count") == 1
            assert exposition.value(text(counting), "nspawn_runner_queue_seconds_bucket", le="0.5") == 0
            assert exposition.value(text(counting), "nspawn_runner_queue_seconds_bucket", le="2.5") == 1
    finally:
        counting.run(["rmdir", f"{STATE_FOLDER}/empty"])


def test_a_failed_job_whose_root_is_kept_counts_once(counting: DisposableHost) -> None:
    job_id = int(Job(counting).id)
    with Job(counting, str(job_id), payload=payload(job_id), settings=f'keep_failed = "1h"\n{SETTINGS}') as job:
        job.prepare(None)
        assert job.script("exit 3").status == BUILD_FAILURE
        job.cleanup()
        assert exposition.value(text(counting), "nspawn_runner_machines", state="kept", of="job") == 1
        job.by_id = ["--id", job.id]
        job.cleanup()
    assert exposition.value(text(counting), "nspawn_runner_machines", state="kept", of="job") == 0
    assert jobs(counting) == {"failed": 1}


def test_gc_keeps_it_fresh(counting: DisposableHost) -> None:
    waiting = {"gitlab.example.com 12": 1000.0}
    counting.path(COUNTERS).write_text(json.dumps({"jobs": {"failed": 5}, "waiting": waiting}))
    job = Job(counting, settings=SETTINGS)
    job.by_id = []
    assert job.call("gc", "--dry-run").status == 0
    assert not counting.path(FILE).exists()
    with Job(counting, settings=SETTINGS) as running:
        running.prepare()
        running.output("head -c 30000000 /dev/urandom > /root/large; sync")
        assert job.call("gc").status == 0
        found = text(counting)
        assert exposition.value(found, "nspawn_runner_disk_bytes", kind="machines") > 30e6
        assert exposition.value(found, "nspawn_runner_disk_bytes", kind="builds") < 1e6
    assert jobs(counting) == {"failed": 5, "system_failure": 1, "success": 1}


def test_no_count_is_lost_when_stages_end_together(counting: DisposableHost) -> None:
    some = [Job(counting, settings=SETTINGS) for _ in range(12)]
    for done in together(counting, [(job, job.argv("config")) for job in some]):
        assert done.status == 0, done.message
    assert exposition.value(text(counting), "nspawn_runner_stage_seconds_count", stage="config") == len(some)


def test_the_job_of_doctor_does_not_count(counting: DisposableHost) -> None:
    job = Job(counting, settings=SETTINGS)
    job.by_id = []
    assert b"ready after" in job.call("doctor", "--job").out
    assert not counting.path(COUNTERS).exists()


def test_nothing_is_counted_without_the_setting(counting: DisposableHost) -> None:
    with Job(counting) as job:
        job.prepare()
    assert not counting.path(COUNTERS).exists()


@pytest.mark.parametrize("obstacle", ["the folder is missing", "the disk is full"])
def test_a_file_that_cannot_be_written_fails_nothing(counting: DisposableHost, obstacle: str) -> None:
    full = "mount -t tmpfs -o size=4k tmpfs {0}; head -c 4096 /dev/zero > {0}/zeros; ln {0}/zeros {0}/b"
    script = f"rmdir {FOLDER}" if "missing" in obstacle else full.format(FOLDER)
    counting.run(["bash", "-c", script])
    since = counting.run(["date", "+%s.%N"]).stdout.decode().strip()
    try:
        with Job(counting, settings=SETTINGS) as job:
            assert job.prepare().err == b""
            assert job.script("echo out") == (0, b"out\n", b"", None)
            assert job.script("exit 3") == (BUILD_FAILURE, b"", b"", "3\n")
            assert job.call("cleanup").status == 0
    finally:
        counting.run(["bash", "-c", f"umount {FOLDER} 2>/dev/null; mkdir -p {FOLDER}"])
    counting.run(["journalctl", "--sync"])
    argv = ["journalctl", "--output=cat", f"--since=@{since}", "--identifier=nspawn-runner", "--priority=warning"]
    warnings = counting.run([*argv, "--grep=metrics"]).stdout.decode().splitlines()
    assert len(warnings) == 1, warnings
    with Job(counting, settings=SETTINGS) as job:
        assert job.call("config").status == 0
    # What was counted meanwhile is there.
    assert jobs(counting) == {"failed": 1}


def test_a_wrong_path_is_a_mistake_in_the_settings(overlay_host: DisposableHost) -> None:
    options = ["--config", write(overlay_host, '[metrics]\nfile = "relative.prom"\n')]
    job = Job(overlay_host)
    job.options = [*options]
    done = job.call("config")
    assert done.status == SYSTEM_FAILURE
    assert "metrics.file: must be an absolute path" in done.message
