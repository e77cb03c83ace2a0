"""Which call of run may be a job's last: the rules of gitlab-runner, by its age."""

import pytest

from nspawn_runner.gitlab.stages import may_be_last

NEW = {"BUILD_EXIT_CODE_FILE": "/tmp/code"}
SCRIPT, RELEASE, AFTER = ("script",), ("script", "Release"), ("script", "release", "after_script")


@pytest.mark.parametrize("stage", ["get_sources", "build_script", "after_script", "upload_artifacts_on_failure"])
@pytest.mark.parametrize("steps", [(), SCRIPT, AFTER])
def test_a_new_runner_calls_the_last_one_unless_it_stops(stage: str, steps: tuple[str, ...]) -> None:
    for failed in (False, True):
        assert not may_be_last(stage, steps, NEW, failed=failed, stopped=False)
    assert may_be_last(stage, steps, NEW, failed=True, stopped=True)
    assert may_be_last("prepare_script", steps, NEW, failed=True, stopped=False)
    assert may_be_last("cleanup_file_variables", steps, NEW, failed=False, stopped=False)


@pytest.mark.parametrize(
    ("stage", "steps", "after_success", "after_failure"),
    [
        ("get_sources", SCRIPT, False, True),
        ("build_script", (), True, True),
        ("build_script", SCRIPT, True, True),
        ("build_script", RELEASE, False, True),
        ("step_release", RELEASE, True, True),
        ("build_script", AFTER, False, False),
        ("step_release", AFTER, False, False),
        ("after_script", AFTER, True, True),
        ("archive_cache", AFTER, True, True),
        ("upload_artifacts_on_failure", AFTER, True, True),
        ("script", SCRIPT, False, False),
    ],
)
def test_an_old_runner(stage: str, steps: tuple[str, ...], after_success: bool, after_failure: bool) -> None:
    assert may_be_last(stage, steps, {}, failed=False, stopped=False) == after_success
    assert may_be_last(stage, steps, {}, failed=True, stopped=False) == after_failure


def test_what_is_tried_again_is_not_the_last() -> None:
    environ = {"CUSTOM_ENV_GET_SOURCES_ATTEMPTS": "3"}
    assert not may_be_last("get_sources", SCRIPT, environ, failed=True, stopped=False)
    assert may_be_last("restore_cache", SCRIPT, environ, failed=True, stopped=False)
