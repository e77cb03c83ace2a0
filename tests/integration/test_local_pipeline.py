"""exec with several jobs: real machines that hand artifacts and variables on, in their order."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from by_hand import TOOL
from disposable_host import DisposableHost

SECONDS = 300
PIPELINE: dict[str, Any] = {
    "default": {"image": "bookworm"},
    "stages": ["build", "test", "deploy"],
    "variables": {"LEVEL": "1"},
    "build": {
        "stage": "build",
        "script": [
            "mkdir -p out/deep; echo made-$LEVEL > out/deep/file; echo no > out/deep/file.o; echo r > r.xml",
            "ln -s /etc/hostname out/link; echo VERSION=4.2 > build.env",
        ],
        "artifacts": {
            "paths": ["out/"],
            "exclude": ["out/**/*.o"],
            "reports": {"dotenv": "build.env", "junit": "r.xml"},
        },
    },
    "test": {
        "stage": "test",
        "parallel": {"matrix": [{"PY": ["3.11", "3.12"]}]},
        "script": ["cat out/deep/file", "test ! -e out/deep/file.o", "echo version $VERSION on $PY $CI_NODE_TOTAL"],
    },
    "odd": {"stage": "test", "needs": [], "script": ["test ! -e out", "exit 3"], "allow_failure": {"exit_codes": [3]}},
    "never": {"stage": "test", "script": ["exit 1"], "rules": [{"if": "$GONE"}]},
    "by hand": {"stage": "deploy", "when": "manual", "script": ["echo deployed $VERSION"]},
    "ends": {"stage": "deploy", "needs": ["test: [3.11]"], "script": ["test ! -e out; echo the end"]},
}


def project(host: DisposableHost, name: str, pipeline: dict[str, Any]) -> str:
    folder = f"/root/{name}"
    host.run(["mkdir", "--parents", folder, "/var/lib/nspawn-runner/.build"])
    host.path(f"{folder}/.gitlab-ci.yml").write_text(json.dumps(pipeline))
    commit = "git init -q -b main; git add -A; git -c user.name=a -c user.email=a@example.com commit -qm x"
    host.run(["sh", "-c", commit], cwd=folder)
    return folder


def execute(host: DisposableHost, folder: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return host.run([TOOL, "exec", *arguments], cwd=folder, check=False, timeout=SECONDS)


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    return (done.stdout + done.stderr).decode()


def table(done: subprocess.CompletedProcess[bytes]) -> dict[str, str]:
    """Give name → result of the summary; its columns are two spaces apart."""
    rows = done.stdout.decode().rpartition("\nJOB ")[2].partition("\npipeline: ")[0].splitlines()[1:]
    return {cells[0]: cells[2] for row in rows if len(cells := re.split(r"  +", row)) > 2}


@pytest.fixture(scope="module")
def folder(overlay_host: DisposableHost) -> str:
    return project(overlay_host, "pipe", PIPELINE)


def test_a_pipeline_runs_in_order_and_hands_on(overlay_host: DisposableHost, folder: str) -> None:
    done = execute(overlay_host, folder, "--pipeline", "--parallel", "2")
    assert done.returncode == 0, said(done)
    assert table(done) == {
        "build": "success",
        "test: [3.11]": "success",
        "test: [3.12]": "success",
        "odd": "failed, allowed",
        "by hand": "manual",
        "ends": "success",
    }
    logs = overlay_host.path(f"{folder}/.nspawn-runner")
    log = next(logs.glob("test-3.12*/job.log")).read_text()
    assert "made-1\n" in log
    assert "version 4.2 on 3.12 2\n" in log
    kept = logs / "build"
    assert (kept / "artifacts/out/deep/file").read_text() == "made-1\n"
    assert (kept / "artifacts/out/link").is_symlink()
    assert sorted(path.name for path in (kept / "artifacts/out/deep").iterdir()) == ["file"]
    assert (kept / "reports/r.xml").read_text() == "r\n"
    status = overlay_host.run(["git", "status", "--porcelain"], cwd=folder).stdout
    assert status == b""
    assert not list(overlay_host.path("/var/lib/nspawn-runner/.build").glob("exec-*"))


def test_a_failure_stops_what_follows_and_shows_its_log(overlay_host: DisposableHost) -> None:
    pipeline = {
        "default": {"image": "bookworm"},
        "first": {
            "stage": "build",
            "script": ["echo broken here", "exit 7"],
            "retry": 1,
            "artifacts": {"paths": [".gitlab-ci.yml"], "when": "always"},
        },
        "second": {"stage": "test", "script": ["echo never"]},
        "tidy": {"stage": "test", "script": ["echo tidied"], "when": "on_failure"},
        "last": {"stage": "deploy", "script": ["echo last"], "when": "always"},
    }
    folder = project(overlay_host, "failing", pipeline)
    done = execute(overlay_host, folder, "--pipeline")
    text = done.stdout.decode()
    assert done.returncode == 1, said(done)
    assert "\nbroken here\n" in text
    assert "try 2 follows" in text
    assert table(done) == {"first": "failed", "second": "skipped", "tidy": "success", "last": "success"}
    assert overlay_host.path(f"{folder}/.nspawn-runner/first/artifacts/.gitlab-ci.yml").exists()


def test_one_job_with_what_it_needs_and_a_manual_one_by_name(overlay_host: DisposableHost, folder: str) -> None:
    done = execute(overlay_host, folder, "by hand", "build", "--variable", "LEVEL=9")
    assert done.returncode == 0, said(done)
    assert "deployed 4.2" in overlay_host.path(f"{folder}/.nspawn-runner/by-hand/job.log").read_text()
    done = execute(overlay_host, folder, "test: [3.11]", "--needs", "--variable", "LEVEL=8")
    assert done.returncode == 0, said(done)
    log = next(overlay_host.path(f"{folder}/.nspawn-runner").glob("test-3.11*/job.log")).read_text()
    assert "made-8\n" in log


def test_a_job_that_takes_too_long_is_ended(overlay_host: DisposableHost) -> None:
    slow = {"slow": {"image": "bookworm", "script": ["sleep 100"], "timeout": "8s"}, "b": {"script": ["true"]}}
    done = execute(overlay_host, project(overlay_host, "slow", slow), "slow", "b", "--image", "bookworm")
    assert done.returncode == 1, said(done)
    assert "took too long" in done.stdout.decode()


def test_a_single_job_ends_with_its_time_too(overlay_host: DisposableHost) -> None:
    slow = {"image": "bookworm", "script": ["echo begun; sleep 300"], "timeout": "15s"}
    done = execute(overlay_host, project(overlay_host, "single", {"slow": slow}), "slow")
    assert done.returncode == 1, said(done)
    assert b"begun" in done.stdout
    assert "its time was over: limit 15 seconds" in said(done)


def test_a_named_job_that_did_not_run_is_no_success(overlay_host: DisposableHost) -> None:
    approve = {"image": "bookworm", "stage": "build", "script": ["true"], "when": "manual"}
    wanted = {"image": "bookworm", "stage": "test", "script": ["true"], "needs": ["approve"]}
    folder = project(overlay_host, "left-out", {"approve": approve, "wanted": wanted})
    done = execute(overlay_host, folder, "wanted", "--needs")
    assert done.returncode == 1, said(done)
    assert b"wanted did not run" in done.stdout
    assert execute(overlay_host, folder, "approve", "wanted").returncode == 0


def test_a_malformed_dotenv_report_fails_the_job(overlay_host: DisposableHost) -> None:
    gives = {
        "image": "bookworm",
        "stage": "build",
        "script": ["echo GOOD=1 > v.env; echo not a variable >> v.env"],
        "artifacts": {"reports": {"dotenv": "v.env"}},
    }
    gets = {"image": "bookworm", "stage": "test", "script": ["echo got $GOOD"]}
    done = execute(overlay_host, project(overlay_host, "malformed", {"gives": gives, "gets": gets}), "--pipeline")
    assert done.returncode == 1, said(done)
    assert table(done) == {"gives": "failed", "gets": "skipped"}
    assert "its dotenv report is malformed" in said(done)


def test_a_file_that_grows_is_an_artifact(overlay_host: DisposableHost) -> None:
    grows = {
        "image": "bookworm",
        "script": ["(while :; do echo more; done) > server.log & sleep 1"],
        "artifacts": {"paths": ["server.log"]},
    }
    folder = project(overlay_host, "grows", {"grows": grows})
    done = execute(overlay_host, folder, "grows")
    assert done.returncode == 0, said(done)
    assert overlay_host.path(f"{folder}/.nspawn-runner/grows/artifacts/server.log").stat().st_size


def test_what_cannot_end_is_no_success(overlay_host: DisposableHost) -> None:
    circle = {"a": {"script": ["true"], "needs": ["b"]}, "b": {"script": ["true"], "needs": ["a"]}}
    folder = project(overlay_host, "circle", circle)
    done = execute(overlay_host, folder, "--pipeline")
    assert done.returncode == 1
    assert table(done) == {"a": "failed", "b": "failed"}
    assert "jobs need each other in a circle: a, b" in said(done)
    assert execute(overlay_host, folder, "--check").returncode == 1
    assert execute(overlay_host, folder, "a", "b", "--parallel", "0").returncode == 2


def test_listing_checking_and_preview(overlay_host: DisposableHost, folder: str) -> None:
    rows = json.loads(execute(overlay_host, folder, "--json").stdout)
    assert [row["name"] for row in rows] == [
        "build", "test: [3.11]", "test: [3.12]", "odd", "never", "by hand", "ends",
    ]  # fmt: skip
    assert [row["when"] for row in rows][-3:] == ["never", "manual", "on_success"]
    assert all(row["can_run"] for row in rows)
    assert execute(overlay_host, folder, "--check").returncode == 0
    assert "image: bookworm" in execute(overlay_host, folder, "--preview", "odd").stdout.decode()
    assert "by hand" in execute(overlay_host, f"{folder}/.git/..").stdout.decode()


def test_from_a_subfolder_and_with_variables_of_a_file(overlay_host: DisposableHost) -> None:
    pipeline = {"job": {"image": "bookworm", "script": ["echo got $A; git describe; git merge-base origin/main HEAD"]}}
    folder = project(overlay_host, "nested", pipeline)
    overlay_host.run(["mkdir", "--parents", "deep/er"], cwd=folder)
    overlay_host.run(["sh", "-c",
     "git -c user.name=a -c user.email=a@b.c tag -a -m x v7; echo A=file > a.env"], cwd=folder)
    done = execute(overlay_host, f"{folder}/deep/er", "job", "--variables-file", f"{folder}/a.env")
    assert done.returncode == 0, said(done)
    assert "\ngot file\nv7\n" in done.stdout.decode()


def test_the_folder_for_logs_may_not_be_a_link(overlay_host: DisposableHost) -> None:
    """A project may come with one that leads to a folder of its user."""
    pipeline = {"a": {"image": "bookworm", "script": ["true"]}, "b": {"image": "bookworm", "script": ["true"]}}
    folder = project(overlay_host, "linked", pipeline)
    overlay_host.run(["sh", "-c", "mkdir /root/private; ln -s /root/private .nspawn-runner"], cwd=folder)
    done = execute(overlay_host, folder, "a", "b")
    assert done.returncode == 1
    assert ".nspawn-runner is not a folder" in said(done)
    assert not list(Path(overlay_host.path("/root/private")).iterdir())


def test_jobs_end_with_a_pipeline_that_is_killed(overlay_host: DisposableHost) -> None:
    jobs = {name: {"image": "bookworm", "script": ["echo began", "sleep 300"]} for name in ("a", "b")}
    folder = project(overlay_host, "killed", jobs)
    both = "until grep -qs {0} .nspawn-runner/a/job.log && grep -qs {0} .nspawn-runner/b/job.log; do sleep 0.2; done"
    waits = [both.format("^began"), "kill -KILL $!", both.format("SIGTERM"), "machinectl list --no-legend"]
    command = f"{TOOL} exec --pipeline --parallel 2 >/dev/null 2>&1 & {'; '.join(waits)}"
    done = overlay_host.run(["sh", "-c", command], cwd=folder, check=False, timeout=SECONDS)
    assert done.returncode == 0
    assert done.stdout == b"", said(done)
    for name in ("a", "b"):
        assert "stopped by SIGTERM" in overlay_host.path(f"{folder}/.nspawn-runner/{name}/job.log").read_text()
