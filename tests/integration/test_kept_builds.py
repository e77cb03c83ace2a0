"""keep_builds: the next job of a project finds what the last one left in its builds folder, and nobody else does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from by_hand import TOOL, Job, Unchanged, payload, together
from disposable_host import STATE_FOLDER, DisposableHost

KEEP = "keep_builds = true\n"
# As gitlab-runner fetches into what is there, or makes it.
FETCH = """set -e
mkdir -p /builds/group/p; cd /builds/group/p
git init --quiet 2>/dev/null; git config user.email a@b; git config user.name a
if [ -e .git/refs/heads/main ]; then echo fetched; else echo cloned; fi
git checkout --quiet -B main; echo more >> file; git add file; git commit --quiet -m more
wc -l < file; git clean --quiet -ffdx
"""


def job_of(host: DisposableHost, project: int = 4711, settings: str = KEEP, **changed: Any) -> Job:
    number = int(Job(host).id)
    made = payload(number, job_info={"project_id": project}, **changed)
    return Job(host, str(number), payload=made, settings=settings)


@pytest.fixture(autouse=True)
def _nothing_kept(host: DisposableHost) -> Iterator[None]:
    yield
    host.run(["sh", "-c", f"rm -rf {STATE_FOLDER}/.cache/*-4711-* {STATE_FOLDER}/.cache/*-4712-*"])


def ran(job: Job, script: str = FETCH) -> list[str]:
    job.prepare(None)
    return job.output(script).split()


def test_the_next_job_of_the_project_fetches(host: DisposableHost) -> None:
    for expected in (["cloned", "1"], ["fetched", "2"], ["fetched", "3"]):
        with job_of(host) as job:
            assert ran(job) == expected
    unprotected = {"repo_url": "https://gitlab.example.com/group/p.git", "protected": False}
    for stranger in (job_of(host, 4712), job_of(host, git_info=unprotected), job_of(host, settings="")):
        with stranger as job:
            assert ran(job) == ["cloned", "1"]


def test_jobs_at_the_same_time_have_one_each_and_leave_nothing_else(host: DisposableHost) -> None:
    with job_of(host) as job:  # makes the first folder
        ran(job)
    jobs = [job_of(host) for _ in range(3)]
    with Unchanged(host):
        try:
            for done in together(host, [(job, job.argv("prepare")) for job in jobs]):
                assert done.status == 0, done.message
            found = [job.output(FETCH).split() for job in jobs]
            assert sorted(found) == [["cloned", "1"], ["cloned", "1"], ["fetched", "2"]]
            with job_of(host) as another:
                assert ran(another) == ["cloned", "1"]
        finally:
            for job in jobs:
                job.cleanup()
    with job_of(host) as job:
        assert ran(job)[0] == "fetched"


def test_what_a_job_leaves_harms_nobody(host: DisposableHost) -> None:
    """Links, programs with a set-uid bit and devices lie where only root of the host gets, and are gc's to remove."""
    leave = """cd /builds; ln -s / root; ln -s /etc/shadow shadow; cp /bin/bash suid; chmod 4755 suid; mkfifo pipe
        mkdir -p group; ln -s /etc group/p; chmod 000 /builds 2>/dev/null; true"""
    with job_of(host) as job:
        ran(job, leave)
    with job_of(host) as job:
        job.prepare(None)
        assert "root" in job.output("chmod 755 /builds; ls /builds; test -e /builds/root/etc/nspawn-runner || true")
        assert job.output("cat /builds/shadow | grep -c '^root:'") == "1\n"  # its own
    assert host.path(STATE_FOLDER).stat().st_mode & 0o077 == 0
    gc = Job(host, settings=f'{KEEP}[gc]\ncache_days = 1\n')
    gc.by_id = []
    name = f"{STATE_FOLDER}/.cache/gitlab.example.com-4711-protected-builds0"
    assert host.path(name).exists()
    host.run(["touch", "--date=3 days ago", f"{name}.used"])
    assert gc.call("gc").status == 0
    assert not host.path(name).exists()
    assert host.path("/etc/shadow").exists()


def test_the_builds_of_a_failed_job_are_kept_with_its_root(host: DisposableHost) -> None:
    job = job_of(host, settings=f'{KEEP}keep_failed = "1h"\n')
    try:
        ran(job)
        job.script("echo why > /builds/group/p/evidence; exit 1")
        job.cleanup()
        with job_of(host) as another:
            assert ran(another) == ["cloned", "1"]
        look: list[str | Path] = [TOOL, "login", job.id, "--", "cat", "/builds/group/p/evidence"]
        assert host.run(look).stdout == b"why\n"
    finally:
        host.run([TOOL, "cleanup", "--id", job.id])


def test_a_rebooted_machine_has_it_still(host: DisposableHost) -> None:
    with job_of(host) as job:
        ran(job)
        job.script("systemctl reboot; sleep 60")
        assert job.output("ls /builds/group/p") == "file\n"
