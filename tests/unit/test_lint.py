"""exec --check: what GitLab would not make a pipeline of; and what an end of one job means for others."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nspawn_runner.pipeline import ci_file, durations, lint, outcomes, preview, roster, variables, variables_file
from nspawn_runner.pipeline.ci_job import CiJob, Need
from nspawn_runner.pipeline.event import Event
from nspawn_runner.pipeline.outcomes import Before, State
from nspawn_runner.pipeline.variables import Variable

GOOD = """
stages: [build, test]
build: {stage: build, script: x}
test: {stage: test, script: x, needs: [build, {job: gone, optional: true}], dependencies: [build]}
stop: {stage: test, script: x, environment: {name: e, action: stop}}
start: {stage: test, script: x, environment: {name: e, on_stop: stop}}
late: {stage: test, script: x, when: delayed, start_in: 5 minutes}
"""


def problems(folder: Path, text: str) -> list[str]:
    (folder / ".gitlab-ci.yml").write_text(text)
    pipeline, event = ci_file.load(str(folder)), Event(ref="main")
    return lint.problems(pipeline, roster.make(pipeline, event, {}, {}), event, {}, {})


def test_nothing_is_said_of_a_good_file(tmp_path: Path) -> None:
    assert problems(tmp_path, GOOD) == []


def test_what_an_include_that_was_left_out_may_have_is_not_objected_to(tmp_path: Path) -> None:
    text = "include: {project: g/x, file: a.yml}\na: {extends: .b}\nb: {script: x, needs: [lint], dependencies: [lint]}"
    assert problems(tmp_path, text) == []
    assert "needs lint, which does not exist" in problems(tmp_path, "b: {script: x, needs: [lint]}")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {stage: nowhere, script: x}", "the stage nowhere is not one of: .pre, build, test, deploy, .post"),
        ("a: {script: x, needs: [gone]}", "needs gone, which does not exist"),
        ("a: {script: x, needs: [a]}", "needs itself"),
        ("a: {stage: build, script: x, needs: [b]}\nb: {stage: deploy, script: x}",
         "needs b, which is in a later stage"),
        ("a: {script: x, needs: [b]}\nb: {script: x, needs: [a]}", "jobs need each other in a circle: a, b"),
        ("a: {script: x, needs: [b]}\nb: {stage: build, script: x, rules: [{if: $GONE}]}", "which its rules keep out"),
        ("a: {script: x, dependencies: [gone]}", "depends on gone, which does not exist"),
        ("a: {script: x, dependencies: [b]}\nb: {script: x}", "depends on b, which is not in an earlier stage"),
        ("a: {script: x, dependencies: [b], needs: [c]}\nb: {stage: build, script: x}\nc: {stage: build, script: x}",
         "depends on b, which is not among its needs"),
        ("variables: {A: b}", "there is no job that can run"),
        (".hidden: {script: x}", "there is no job that can run"),
        ("a: {script: x, rules: []}", "its rules are empty"),
        ("a: {script: x}\nb: 3", '"b" is no keyword, and no job'),
        ("a: {scirpt: x}", 'unknown keyword "scirpt"'),
        ("a: {script: x, when: delayed}", "when: delayed needs start_in"),
        ("a: {script: x, start_in: 5m}", "start_in is only for"),
        ("a: {script: x, environment: {name: e, on_stop: gone}}", "on_stop names gone"),
        ("a: {script: x, rules: [{if: $GONE}]}", "no job is in a pipeline for a push of main"),
        ("a: {stage: .pre, script: x}", "has only jobs of .pre and .post"),
        ("workflow: {rules: [{if: $GONE}]}\na: {script: x}", "its rules make no pipeline for a push of main"),
        ("a: {script: x, timeout: 1 month}", '"timeout" must be less than a month'),
        ("a: {script: x, retry: 3}", '"retry" must be a number from 0 to 2'),
        ("a: {script: x, retry: {when: never}}", '"retry: when" does not know never'),
        ("a: {script: x, timeout: soon}", '"timeout" is no time'),
        ("a: {script: x, allow_failure: {exit_codes: x}}", '"allow_failure" must be'),
        ("a: {script: x, artifacts: [b]}", '"artifacts" is a list'),
        ("a: {script: x, artifacts: {path: [b]}}", '"artifacts" has an unknown keyword "path"'),
        ("a: {script: x, when: maybe}", '"when" must be one of'),
        ("a: {script: x, needs: {job: b}}", '"needs" is a mapping'),
        ("a: {script: x, environment: {url: b}}", '"environment" has no name'),
        ("a: {script: x, parallel: 300}", '"parallel" must be a number from 1 to 200'),
        (f"{'a' * 256}: {{script: x}}", "more than 255 characters"),
    ],
)  # fmt: skip
def test_what_gitlab_would_not_take(tmp_path: Path, text: str, message: str) -> None:
    found = problems(tmp_path, text)
    assert any(message in line for line in found), found
    assert all("\n" not in line for line in found)


def test_what_only_cannot_run_here_is_no_mistake(tmp_path: Path) -> None:
    text = "a: {trigger: {include: b.yml}}\nb: {script: x, hooks: {pre_get_sources_script: [y]}}\n"
    assert problems(tmp_path, text) == []


def test_the_preview_has_everything_merged(tmp_path: Path) -> None:
    (tmp_path / ".gitlab-ci.yml").write_text(
        "default: {image: i}\nvariables: {A: b}\n.base: {script: [one], tags: [t]}\n"
        "job: {extends: .base, before_script: [!reference [.base, script]], variables: {C: d}}\nother: {script: x}\n"
    )
    pipeline = ci_file.load(str(tmp_path))
    (tmp_path / "out.yml").write_text(preview.text(pipeline))
    again = ci_file.load(str(tmp_path), "out.yml")
    assert again.jobs == ("job", "other")
    assert again.job("job") == pipeline.job("job")
    assert ".base" not in preview.text(pipeline)
    assert "other" not in preview.text(pipeline, ["job"])


# https://docs.gitlab.com/ci/yaml/#when and #needs
JOB = CiJob("job", "test", None, (), (), (), ("x",), (), ())


@pytest.mark.parametrize(
    ("when", "before", "expected"),
    [
        ("on_success", [], State.RUNNING), ("on_success", [State.SUCCESS, State.ALLOWED], State.RUNNING),
        ("on_success", [State.RUNNING], State.WAITING), ("on_success", [State.FAILED], State.SKIPPED),
        ("on_success", [State.SKIPPED], State.RUNNING), ("on_success", [State.MANUAL], State.SKIPPED),
        ("on_failure", [State.SUCCESS], State.SKIPPED), ("on_failure", [State.FAILED], State.RUNNING),
        ("on_failure", [State.ALLOWED], State.SKIPPED), ("always", [State.FAILED], State.RUNNING),
        ("manual", [State.SUCCESS], State.MANUAL), ("manual", [State.FAILED], State.SKIPPED),
        ("delayed", [State.SUCCESS], State.RUNNING), ("always", [State.WAITING], State.WAITING),
    ],
)  # fmt: skip
def test_when_a_job_starts(when: str, before: list[State], expected: State) -> None:
    assert outcomes.next_state(JOB._replace(when=when), [Before(state) for state in before]) is expected


def test_manual_jobs_hold_up_the_pipeline_unless_they_may_fail() -> None:
    optional, needing = Before(State.MANUAL, may_be_left=True), JOB._replace(needs=(Need("a"),))
    assert outcomes.next_state(JOB, [optional]) is State.RUNNING
    assert outcomes.next_state(needing, [optional]) is State.SKIPPED
    assert outcomes.next_state(needing, [Before(State.SKIPPED)]) is State.SKIPPED
    assert outcomes.next_state(JOB._replace(when="manual"), [], started_by_hand=True) is State.RUNNING


def test_how_a_job_ends() -> None:
    codes = JOB._replace(allowed_codes=frozenset({3}))
    assert outcomes.ended(JOB, 0) is State.SUCCESS
    assert outcomes.ended(codes, 3) is State.ALLOWED
    assert outcomes.ended(codes, 4) is State.FAILED
    assert outcomes.ended(codes, None) is State.FAILED
    assert outcomes.ended(JOB._replace(allow_failure=True), None) is State.ALLOWED
    assert outcomes.status_of({State.SUCCESS, State.ALLOWED, State.MANUAL}) == 0
    assert outcomes.status_of({State.SUCCESS, State.FAILED}) == 1


def test_what_is_tried_again() -> None:
    twice = JOB._replace(retry=2)
    assert [outcomes.again(twice, tried, "script_failure") for tried in (1, 2, 3)] == [True, True, False]
    only = JOB._replace(retry=1, retry_when=frozenset({"runner_system_failure"}))
    assert outcomes.again(only, 1, "runner_system_failure")
    assert not outcomes.again(only, 1, "script_failure")


def test_retry_without_max_tries_once(tmp_path: Path) -> None:
    (tmp_path / ".gitlab-ci.yml").write_text("a: {script: x, retry: {when: script_failure}}\nb: {script: x, retry: 2}")
    pipeline = ci_file.load(str(tmp_path))
    assert [pipeline.job(name).retry for name in ("a", "b")] == [0, 2]


# https://docs.gitlab.com/ci/yaml/#timeout
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3600", 3600), ("1h 30m", 5400), ("3h 30m", 12600), ("3 hours 20 minutes", 12000),
        ("1 hour and 1 second", 3601),
        ("2 weeks, 1 day", 1296000), ("1:30", 90), ("1.5h", 5400), ("soon", None), ("", None), ("1 parsec", None),
        ("h", None),
        ("9" * 50, None),
    ],
)  # fmt: skip
def test_times(text: str, expected: int | None) -> None:
    assert durations.seconds(text) == expected


@given(st.text(alphabet="0123456789hmsd. :and", max_size=30))
def test_any_text_is_a_time_or_none(text: str) -> None:
    found = durations.seconds(text)
    assert found is None or found >= 0


def expanded(**texts: str) -> dict[str, str]:
    return variables.expanded({name: Variable(text) for name, text in texts.items()})


# lib/gitlab/ci/variables/collection.rb with keep_undefined, then the runner's own expansion.
@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({"A": "$B-x", "B": "$C", "C": "c"}, {"A": "c-x", "B": "c"}),
        ({"A": "${A_${B}}", "B": "one", "A_one": "two"}, {"A": "two"}),
        ({"A": "$GONE.", "B": "%C%", "C": "c"}, {"A": ".", "B": "c"}),
        ({"A": "$$B", "B": "b"}, {"A": "$B"}),
        ({"A": "$A"}, {"A": "$A"}),
        ({"A": "100%%", "B": "50%"}, {"A": "100%%", "B": "50%"}),
    ],
)
def test_nested_variables(texts: dict[str, str], expected: dict[str, str]) -> None:
    assert expanded(**texts).items() >= expected.items()


def test_a_variable_may_refer_to_the_one_of_its_name_below_it() -> None:
    below, above = {"A": Variable("low"), "B": Variable("b")}, {"A": Variable("$A-$B")}
    assert variables.expanded(below, above) == {"A": "low-b", "B": "b"}


def test_raw_variables_are_put_in_by_the_runner_only() -> None:
    own = {"A": Variable("raw-$B", raw=True), "B": Variable("b"), "C": Variable("$A")}
    assert variables.expanded(own)["C"] == "raw-$B"


def test_a_file_of_variables(tmp_path: Path) -> None:
    (tmp_path / "a.env").write_text("# c\nA=1\nexport B = 'two words'\n\nC=\"\"\nD=a=b\n")
    (tmp_path / "a.yml").write_text("A: 1\nB: {value: x}\nC:\n")
    assert variables_file.read(str(tmp_path / "a.env")) == {"A": "1", "B": "two words", "C": "", "D": "a=b"}
    assert variables_file.read(str(tmp_path / "a.yml")) == {"A": "1", "B": "x", "C": ""}
