"""Which job may use which image: by what GitLab says of it, whatever its own variables say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from backends import ON_ONE
from disposable_host import STATE_FOLDER, DisposableHost
from our_driver import DRIVER, FAST, IMAGE, SETTINGS, TOOL, assert_sound, stand_in, write
from runner import ANCIENT, OLD, Behaviour, Job, JobResult, RunnerStandIn

RULES = f"""
allowed_images = ["{IMAGE}", "open"]
[images]
"docker:*" = "release-1"
[[policy]]
name = "release"
projects = ["group/*"]
protected = true
images = ["release-*"]
[[policy]]
name = "builders"
runners = [42]
images = ["builder"]
"""
RELEASE = Job(scripts={"build_script": "echo up"}, image="release-1", protected=True)
# What a project would set to get at an image that is not for it.
PRETENCE = {
    "CI_COMMIT_REF_PROTECTED": "true",
    "CI_PROJECT_PATH": "group/project",
    "CI_RUNNER_ID": "42",
    "CI_JOB_IMAGE": IMAGE,
}


@pytest.fixture
def runner(host: DisposableHost) -> Iterator[RunnerStandIn]:
    """A runner on a host with rules, two images that are not everybody's, and an alias of one and of another."""
    images = dict.fromkeys(("release-1", "builder"), f"{STATE_FOLDER}/{IMAGE}")
    links = {**images, "open": "release-1", "release-0": IMAGE}
    for name, target in links.items():
        host.path(f"{STATE_FOLDER}/{name}").symlink_to(target)
    write(host, SETTINGS, RULES)
    yield from stand_in(host)
    host.path(SETTINGS).unlink()
    for name in links:
        host.path(f"{STATE_FOLDER}/{name}").unlink()


def assert_refused(result: JobResult, behaviour: Behaviour, *texts: str) -> None:
    """Check that the job failed at once by its own fault, and that its log says why."""
    assert (result.status, result.exit_code) == ("script_failure", behaviour.build_failure_exit_code), result.trace
    assert result.stages == ["config", "prepare", "cleanup"]
    lines = result.trace.decode().splitlines()
    assert len(lines) == 3, lines
    assert lines[0].startswith(f"nspawn-runner: {SETTINGS} does not let this job use the image ")
    for text in texts:
        assert text in lines[0] + lines[1], lines
    assert_sound(result)


@ON_ONE
@pytest.mark.parametrize("behaviour", [FAST, OLD], ids=["new", "old"])
def test_a_rule_gives_an_image(runner: RunnerStandIn, behaviour: Behaviour) -> None:
    for job in (RELEASE, replace(RELEASE, image="docker:27"), replace(RELEASE, image="builder", protected=False)):
        result = runner.job(job, behaviour)
        assert result.status == "success", result.trace.decode()
        assert b"image release-1, " in result.trace or b"image builder, " in result.trace


@ON_ONE
@pytest.mark.parametrize("behaviour", [FAST, OLD], ids=["new", "old"])
@pytest.mark.parametrize("image", ["release-1", "docker:27"])
def test_an_image_that_a_rule_gives_to_others(runner: RunnerStandIn, image: str, behaviour: Behaviour) -> None:
    for changed, whose in (
        (replace(RELEASE, protected=False), "protected refs"),
        (replace(RELEASE, project_path="group/sub/project"), "other projects"),
        (replace(RELEASE, project_path="groups/project", variables=PRETENCE), "other projects"),
        (replace(RELEASE, protected=False, variables=PRETENCE), "protected refs"),
    ):
        result = runner.job(replace(changed, image=image), behaviour)
        given = f"rule release gives it to {whose}; it may use: {IMAGE}, builder, release-0"
        assert_refused(result, behaviour, "release-1", image, given)


@ON_ONE
def test_an_alias_is_what_it_stands_for(runner: RunnerStandIn) -> None:
    """Whatever rules say of its own name."""
    assert_refused(runner.job(replace(RELEASE, image="open", protected=False)), FAST, "release-1, which 'open' means")
    result = runner.job(replace(RELEASE, image="release-0", protected=False))
    assert result.status == "success", result.trace.decode()


@ON_ONE
def test_before_the_payload_had_such_fields(runner: RunnerStandIn) -> None:
    """GitLab's variables tell then; where a project sets one itself, what it says is not believed."""
    older = {"job_info": {"project_full_path": ""}, "git_info": {"protected": None}}
    assert runner.job(replace(RELEASE, payload=older)).status == "success"
    for job, text in (
        (replace(RELEASE, protected=False, variables=PRETENCE, payload=older), "protected refs"),
        (replace(RELEASE, variables={"CI_PROJECT_PATH": "group/other"}, payload=older), "set CI_PROJECT_PATH"),
        (replace(RELEASE, image="builder", variables={"CI_RUNNER_ID": "7"}, payload=older), "rule builders"),
    ):
        assert_refused(runner.job(job), FAST, text)


@ON_ONE
def test_a_runner_that_does_not_tell_whose_job_it_is(runner: RunnerStandIn) -> None:
    for job in (RELEASE, replace(RELEASE, image="builder"), replace(RELEASE, protected=False, variables=PRETENCE)):
        image = "release-1" if job.variables else job.image
        result = runner.job(replace(job, image=image, variables={**job.variables, "CI_JOB_IMAGE": str(image)}), ANCIENT)
        assert_refused(result, ANCIENT, "gitlab-runner before 14.1 does not say for sure whose job it is")
    assert runner.job(replace(RELEASE, image=IMAGE), ANCIENT).status == "success"


@ON_ONE
def test_an_image_that_the_admin_names_is_no_exception(runner: RunnerStandIn) -> None:
    driver = replace(DRIVER, prepare=[TOOL, "prepare", "--default-image", "builder"])
    other = replace(RELEASE, image=None, payload={"variables": []})
    assert_refused(RunnerStandIn(runner.host, driver, FAST).job(other), FAST, "image builder", "other runners")


@ON_ONE
def test_root_may_use_everything_by_hand(runner: RunnerStandIn, host: DisposableHost) -> None:
    try:
        assert b"image release-1, " in host.run([TOOL, "prepare", "--id", "4242", "docker:27"]).stdout
    finally:
        host.run([TOOL, "cleanup", "--id", "4242"])


@ON_ONE
def test_rules_that_others_may_write_hold_for_nobody(runner: RunnerStandIn, host: DisposableHost) -> None:
    folder = host.path(SETTINGS).parent
    folder.chmod(0o777)
    try:
        result = runner.job(replace(RELEASE, image=IMAGE))
    finally:
        folder.chmod(0o755)
    assert result.status == "system_failure"
    assert result.stages == ["config", "cleanup"] * 3
    assert result.call("config").stdout == b""
    assert b"so can their folder /etc/nspawn-runner, where they can be replaced" in result.call("config").stderr


@ON_ONE
@pytest.mark.parametrize(
    ("given", "told"),
    [('profiles = ["tools"]', "the profile tools"), ('profiles = ["tools"]\nbinds = ["/srv/else"]', "the host's /srv")],
)
def test_a_rule_gives_a_profile_and_folders(runner: RunnerStandIn, host: DisposableHost, given: str, told: str) -> None:
    tools = '[profiles.tools]\nbinds = ["/srv:/srv:noidmap"]'
    rules = f'profile = "tools"\n{tools}\n[[policy]]\nname = "x"\nprotected = true\n{given}\n'
    write(host, SETTINGS, rules)
    outsider = Job(scripts={"build_script": "ls /srv"}, image=IMAGE, protected="binds" in given)
    refused = runner.job(outsider, FAST)
    assert (refused.status, refused.stages) == ("script_failure", ["config", "prepare", "cleanup"]), refused.trace
    assert f"does not let this job have {told}, which machines of the image {IMAGE} have" in refused.trace.decode()
    write(host, SETTINGS, rules.replace("/srv/else", "/srv"))
    allowed = runner.job(replace(outsider, protected=True), FAST)
    assert allowed.status == "success", allowed.trace.decode()
    assert f"image {IMAGE}, profile tools, " in allowed.trace.decode()
