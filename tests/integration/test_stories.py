# ruff: noqa: S607
"""The stories in examples/ run as their READMEs say, with what stands in their .gitlab-ci.yml."""

import re
import subprocess

import pytest
from by_hand import TOOL, Unchanged
from disposable_host import CHECKOUT, DisposableHost

EXAMPLES = CHECKOUT / "examples"
STORIES = {
    "stack": ["stack"],
    "unit-files": ["sockets", "timers", "processes"],
    "supervised": ["watchdog", "limits"],
    "hello": ["hello", "greet"],
    "debian-package": ["package"],
}
LONG = {"debian-package"}  # fetches a hundred packages
# They need images that other tests make.
ELSEWHERE = {"ansible-role": "test_samples.py", "services": "test_service_samples.py"}


def test_none_is_left_out() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == {*STORIES, *ELSEWHERE}
    for name, file in ELSEWHERE.items():
        assert f"examples/{name}" in (CHECKOUT / "tests/integration" / file).read_text()


@pytest.mark.parametrize("story", STORIES)
def test_its_readme_names_its_jobs(story: str) -> None:
    for file in ("README.md", ".gitlab-ci.yml"):
        told = re.findall(r"nspawn-runner exec ([\w-]+)", (EXAMPLES / story / file).read_text())
        assert [*dict.fromkeys(told)] == STORIES[story], file


EACH = [
    pytest.param(story, job, marks=pytest.mark.soak if story in LONG else ())
    for story, jobs in STORIES.items()
    for job in jobs
]


@pytest.mark.parametrize(("story", "job"), EACH)
def test_it_runs(either_host: DisposableHost, story: str, job: str) -> None:
    host, folder = either_host, f"/root/story-{story}"
    host.run(["mkdir", "--parents", "/var/lib/nspawn-runner/.build"])
    subprocess.run(["cp", "--recursive", EXAMPLES / story, host.path(folder)], check=True)
    try:
        with Unchanged(host):
            done = host.run([TOOL, "exec", job], cwd=folder, check=False, timeout=500)
            assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    finally:
        host.run(["rm", "-rf", folder])
