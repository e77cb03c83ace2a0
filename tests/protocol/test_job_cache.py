"""Artifacts and cache: the stages find a gitlab-runner in the machine, and the cache is its project's own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest
from backends import ON_ONE
from disposable_host import STATE_FOLDER, DisposableHost
from our_driver import FAST, IMAGE, assert_sound, stand_in, write
from runner import ANCIENT, Job, JobResult, RunnerStandIn

HELPER = "/usr/local/bin/gitlab-runner"
FAKE = """#!/bin/sh
echo "helper: $*" >&2
case $1 in
    --version) echo "Version: 17.0.0" ;;
    cache-archiver) mkdir -p "${3%/*}"; cp "$5" "$3" ;;
    cache-extractor) cp "$3" cached 2> /dev/null || echo "no cache" ;;
    artifacts-*) ;;
    *) exit 1 ;;
esac
"""
CHECKED = 'if ! gitlab-runner --version > /dev/null 2>&1; then echo "Missing gitlab-runner"; exit 0; fi'
STORE = '--file "/cache/$CI_PROJECT_PATH/default/cache.zip"'
SCRIPTS = {
    "restore_cache": f'cd "$CI_PROJECT_DIR"; {CHECKED}; gitlab-runner cache-extractor {STORE}',
    "download_artifacts": f"{CHECKED}; gitlab-runner artifacts-downloader --url https://gitlab.example.org --id 1",
    "build_script": 'echo "found: $(cat cached 2> /dev/null || true)"; echo "from job $CI_JOB_ID" > built',
    "archive_cache": f'cd "$CI_PROJECT_DIR"; {CHECKED}; gitlab-runner cache-archiver {STORE} --path built',
    "upload_artifacts_on_success": f"{CHECKED}; gitlab-runner artifacts-uploader --path built",
}


@pytest.fixture
def runner(host: DisposableHost) -> Iterator[RunnerStandIn]:
    """A host with a gitlab-runner of its own, and empty caches before and after."""
    write(host, HELPER, FAKE, mode=0o755)
    cache = host.path(f"{STATE_FOLDER}/.cache")
    shutil.rmtree(cache, ignore_errors=True)
    yield from stand_in(host)
    shutil.rmtree(cache)
    host.path(HELPER).unlink()


def found(result: JobResult) -> str:
    """What the job found in its cache."""
    assert result.status == "success", result.trace.decode()
    assert_sound(result)
    line = result.call("build_script").stdout.decode().splitlines()[0]
    return line.removeprefix("found: ")


@ON_ONE
def test_the_next_job_of_the_project_finds_the_cache(runner: RunnerStandIn) -> None:
    job = Job(scripts=SCRIPTS, image=IMAGE)
    first = runner.job(job)
    assert found(first) == ""
    assert b"no cache\n" in first.trace
    assert first.call("archive_cache").stderr == (
        b"helper: cache-archiver --file /cache/group/project/default/cache.zip --path built\n"
    )
    assert first.call("download_artifacts").stderr.startswith(b"helper: artifacts-downloader ")
    assert first.call("upload_artifacts_on_success").stderr == b"helper: artifacts-uploader --path built\n"
    second = runner.job(replace(job, id=1002))
    assert found(second) == "from job 1001"
    assert b"Missing" not in first.trace + second.trace


@ON_ONE
def test_the_cache_is_nobody_else_s(runner: RunnerStandIn) -> None:
    """Another project finds another cache, as does an unprotected ref, whatever they call themselves."""
    claims = {"CI_PROJECT_ID": "7", "CI_COMMIT_REF_PROTECTED": "true", "CI_SERVER_HOST": "gitlab.example.org"}
    job = Job(scripts=SCRIPTS, image=IMAGE, protected=True)
    assert found(runner.job(job)) == ""
    other_server = replace(FAST, server_url="https://other.example.org")
    assert found(runner.job(replace(job, id=1002, protected=False, variables=claims))) == ""
    assert found(runner.job(replace(job, id=1003, project_id=8, variables=claims))) == ""
    assert found(runner.job(replace(job, id=1004, variables=claims), other_server)) == ""
    assert found(runner.job(replace(job, id=1005))) == "from job 1001"
    assert found(runner.job(replace(job, id=1006, protected=False))) == "from job 1002"


@ON_ONE
def test_an_ancient_runner_s_protected_refs_share_no_cache_with_others(runner: RunnerStandIn) -> None:
    """Only the environment tells of the job there, and a project may set that: protected is not believed."""
    job = Job(scripts=SCRIPTS, image=IMAGE, protected=True)
    assert found(runner.job(job)) == ""
    assert found(runner.job(replace(job, id=1002, protected=False), ANCIENT)) == ""
    assert found(runner.job(replace(job, id=1003), ANCIENT)) == "from job 1002"


@ON_ONE
def test_without_a_gitlab_runner_on_the_host_the_job_goes_on(runner: RunnerStandIn, host: DisposableHost) -> None:
    host.path(HELPER).unlink()
    result = runner.job(Job(scripts=SCRIPTS, image=IMAGE))
    write(host, HELPER, FAKE, mode=0o755)
    assert found(result) == ""
    assert result.call("archive_cache").stdout == b"Missing gitlab-runner\n"
