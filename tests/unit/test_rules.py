"""Rules, only and except, and what they make of a job, with the cases of GitLab's documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from nspawn_runner.errors import JobError
from nspawn_runner.pipeline import ci_file, matrix, roster
from nspawn_runner.pipeline.ci_job import CiJob
from nspawn_runner.pipeline.event import Event
from nspawn_runner.pipeline.roster import Roster

FILES = ["Dockerfile", "src/main.c", "doc/a.md"]


def event(name: str = "push", ref: str = "main", changed: list[str] | None = None) -> Event:
    return Event(
        name,
        ref,
        is_tag=name == "tag",
        project_path="group/project",
        changed=lambda ref: ["doc/a.md"] if ref else changed,
        files=lambda: FILES,
    )


def variables(about: Event) -> dict[str, str]:
    known = {"CI_PIPELINE_SOURCE": about.source, "CI_COMMIT_REF_NAME": about.ref, "CI_DEFAULT_BRANCH": "main"}
    if about.is_tag:
        known["CI_COMMIT_TAG"] = about.ref
    elif about.name != "merge_request":
        known["CI_COMMIT_BRANCH"] = about.ref
    return known


def job(folder: Path, text: str, about: Event | None = None, **given: str) -> CiJob:
    (folder / ".gitlab-ci.yml").write_text(text)
    about = about or event()
    return ci_file.load(str(folder)).job("job", given, predefined=variables(about), event=about)


def listed(folder: Path, text: str, about: Event | None = None, **given: str) -> Roster:
    (folder / ".gitlab-ci.yml").write_text(text)
    about = about or event()
    return roster.make(ci_file.load(str(folder)), about, variables(about), given)


# https://docs.gitlab.com/ci/jobs/job_rules/#rules-examples
IN_TWO = """
job:
  script: x
  rules:
    - {if: $CI_PIPELINE_SOURCE == "merge_request_event", when: manual, allow_failure: true}
    - if: $CI_PIPELINE_SOURCE == "schedule"
"""
OUT_OF_TWO = """
job:
  script: x
  rules:
    - {if: $CI_PIPELINE_SOURCE == "merge_request_event", when: never}
    - {if: $CI_PIPELINE_SOURCE == "schedule", when: never}
    - when: on_success
"""


@pytest.mark.parametrize(
    ("text", "name", "when", "allowed"),
    [
        (IN_TWO, "merge_request", "manual", True), (IN_TWO, "schedule", "on_success", False),
        (IN_TWO, "push", "never", False), (OUT_OF_TWO, "merge_request", "never", False),
        (OUT_OF_TWO, "schedule", "never", False), (OUT_OF_TWO, "push", "on_success", False),
        (OUT_OF_TWO, "web", "on_success", False),
    ],
)  # fmt: skip
def test_the_first_rule_that_applies_decides(tmp_path: Path, text: str, name: str, when: str, allowed: bool) -> None:
    read = job(tmp_path, text, event(name))
    assert (read.when, read.allow_failure) == (when, allowed)


@pytest.mark.parametrize(
    ("rule", "changed", "expected"),
    [
        ("changes: [Dockerfile]", ["Dockerfile"], True), ("changes: [Dockerfile]", ["x"], False),
        ("changes: [Dockerfile]", None, True), ("changes: [Dockerfile]", [], False),
        ("changes: {paths: ['$DIR/**/*'], compare_to: 'refs/heads/main'}", [], True),
        ("changes: {paths: ['src/*'], compare_to: 'refs/heads/main'}", ["src/a"], False),
        ("exists: [Dockerfile]", [], True), ("exists: ['**/*.c']", [], True), ("exists: ['*.c']", [], False),
        ("exists: ['$DIR/a.md']", [], True), ("exists: {paths: [gone]}", [], False),
        ("if: $DIR == 'doc'\n      exists: [gone]", [], False),
    ],
)  # fmt: skip
def test_changes_and_exists(tmp_path: Path, rule: str, changed: list[str] | None, expected: bool) -> None:
    text = f"job:\n  variables: {{DIR: doc}}\n  script: x\n  rules:\n    - {rule}\n"
    assert (job(tmp_path, text, event(changed=changed)).when != "never") is expected


def test_a_rule_sets_variables_above_the_jobs_and_the_needs(tmp_path: Path) -> None:
    text = """
variables: {A: top, B: top}
one: {script: x}
job:
  variables: {A: own}
  script: x
  needs: []
  rules:
    - {if: $A == "own", variables: {A: rule, C: "$B"}, needs: [one]}
"""
    read = job(tmp_path, text)
    values = dict(read.variables)
    assert (values["A"], values["C"]) == ("rule", "top")
    assert [need.job for need in read.needs or ()] == ["one"]


def test_conditions_see_variables_unexpanded_as_on_gitlab(tmp_path: Path) -> None:
    text = 'job: {variables: {A: "$B", B: b}, script: x, rules: [{if: $A == "b"}]}'
    assert job(tmp_path, text).when == "never"


def test_the_command_line_is_seen_by_rules(tmp_path: Path) -> None:
    assert job(tmp_path, "job: {script: x, rules: [{if: $DEPLOY}]}", DEPLOY="1").when == "on_success"


def test_workflow_sets_variables_below_the_jobs(tmp_path: Path) -> None:
    """https://docs.gitlab.com/ci/yaml/#workflowrulesvariables."""
    text = """
workflow: {rules: [{if: $CI_COMMIT_BRANCH == "main", variables: {A: flow, B: flow}}, {when: always}]}
variables: {A: top, B: top}
job: {variables: {B: own}, script: x}
"""
    values = dict(job(tmp_path, text).variables)
    assert (values["A"], values["B"]) == ("flow", "own")
    assert dict(job(tmp_path, text, event(ref="other")).variables)["A"] == "top"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("3", "is a number"), ("[3]", "a rule of the job \"job\" is a number"), ("[{}]", "is empty"),
        ("[{iff: $A}]", 'unknown keyword "iff"'), ("[{if: '$A ='}]", "no expression"),
        ("[{if: 3}]", '"if" of a rule is a number'),
        ("[{when: sometimes}]", "cannot be sometimes"), ("[{allow_failure: 3}]", "must be true or false"),
        ("[{changes: a}]", '"changes" of a rule is a string'),
        ("[{exists: {paths: [a], project: b/c}}]", "another project"),
        ("[{changes: {path: [a]}}]", '"changes" of a rule has no paths'),
        (f"[{{exists: ['{'*' * 5000}']}}]", "cannot be read"),
        ("[{if: '$A =~ /(a/'}]", "invalid regular expression"),
    ],
)  # fmt: skip
def test_rules_that_cannot_be(tmp_path: Path, rules: str, message: str) -> None:
    with pytest.raises(JobError) as caught:
        job(tmp_path, f"job: {{script: x, rules: {rules}}}")
    assert message in caught.value.what


def test_rules_and_only_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(JobError, match='both "rules" and "only"'):
        job(tmp_path, "job: {script: x, rules: [{when: always}], only: [main]}")


# https://docs.gitlab.com/ci/yaml/deprecated_keywords/#onlyrefs--exceptrefs
@pytest.mark.parametrize(
    ("keywords", "name", "ref", "expected"),
    [
        ("", "push", "x", True), ("", "tag", "v1", True), ("", "merge_request", "x", False),
        ("", "schedule", "x", True),
        ("only: [main]", "push", "main", True), ("only: [main]", "push", "x", False),
        ("only: [tags]", "tag", "v1", True),
        ("only: [tags]", "push", "v1", False), ("only: [/^issue-.*$/]", "push", "issue-1", True),
        ("only: [/^ISSUE-.*$/i]", "push", "issue-1", True),
        ("only: [/^issue-.*$/]\n  except: [branches]", "push", "issue-1", False),
        ("only: [branches@group/project]", "push", "x", True), ("only: [branches@other/project]", "push", "x", False),
        ("only: [x]", "merge_request", "x", False), ("only: [/x/]", "merge_request", "x", False),
        ("only: [merge_requests]\n  except: [x]", "merge_request", "x", True),
        ("only: [schedule]", "schedule", "x", True),
        ("only: [merge_requests]", "merge_request", "x", True), ("only: [schedules]", "schedule", "x", True),
        ("only: [web]", "web", "x", True), ("only: [pushes]", "push", "x", True), ("only: [pushes]", "web", "x", False),
        ("except: [main]", "push", "main", False), ("except: [/^release/.*$/]", "push", "release/1", False),
        ("except: {variables: [$CI_COMMIT_BRANCH]}", "push", "x", False), ("except: {refs: [tags]}", "push", "x", True),
        ("only: {variables: [$GONE, '$CI_COMMIT_BRANCH == \"x\"']}", "push", "x", True),
        ("only: {refs: [x], variables: [$GONE]}", "push", "x", False),
        ("only: {changes: ['src/**/*']}", "push", "x", True),
        ("only: {changes: ['doc/*']}", "push", "x", False), ("except: {changes: [src/main.c]}", "push", "x", False),
        ("only: {kubernetes: active}", "push", "x", False),
    ],
)  # fmt: skip
def test_only_and_except(tmp_path: Path, keywords: str, name: str, ref: str, expected: bool) -> None:
    text = f"job:\n  script: x\n  {keywords}\n"
    assert (job(tmp_path, text, event(name, ref, ["src/main.c"])).when != "never") is expected


def test_with_rules_of_the_workflow_a_job_without_only_is_in_merge_requests_too(tmp_path: Path) -> None:
    text = "workflow: {rules: [{when: always}]}\njob: {script: x}"
    assert job(tmp_path, text, event("merge_request")).when == "on_success"


@pytest.mark.parametrize("keywords", ["only: main", "only: {branches: [x]}", "except: [3]", "only: [/(/]"])
def test_only_and_except_that_cannot_be(tmp_path: Path, keywords: str) -> None:
    with pytest.raises(JobError):
        job(tmp_path, f"job: {{script: x, {keywords}}}")


# https://docs.gitlab.com/ci/yaml/#parallelmatrix
MATRIX = """
job:
  script: x
  parallel:
    matrix:
      - PROVIDER: aws
        STACK: [monitoring, app1, app2]
      - PROVIDER: [gcp, vultr]
        STACK: [data, processing]
after: {stage: deploy, script: x, needs: [{job: job, parallel: {matrix: [{PROVIDER: gcp, STACK: data}]}}]}
"""


def test_a_matrix_makes_jobs_with_the_names_and_variables_of_gitlab(tmp_path: Path) -> None:
    found = listed(tmp_path, MATRIX)
    assert [entry.name for entry in found.entries] == [
        "job: [aws, monitoring]", "job: [aws, app1]", "job: [aws, app2]", "job: [gcp, data]", "job: [gcp, processing]",
        "job: [vultr, data]", "job: [vultr, processing]", "after",
    ]  # fmt: skip
    values = dict(found.entries[3].job.variables) if found.entries[3].job else {}
    assert (values["PROVIDER"], values["STACK"], values["CI_NODE_INDEX"], values["CI_NODE_TOTAL"]) == ("gcp", "data",
     "4", "7")
    assert (values["CI_JOB_NAME"], values["CI_JOB_GROUP_NAME"]) == ("job: [gcp, data]", "job")
    assert [entry.name for entry in found.needed(found.entries[-1])] == ["job: [gcp, data]"]
    assert [entry.name for entry in found.with_needs([found.entries[-1]])] == ["job: [gcp, data]", "after"]


def test_a_number_makes_jobs_with_numbers(tmp_path: Path) -> None:
    found = listed(tmp_path, "job: {script: x, parallel: 3}\nb: {script: x, needs: [job]}")
    assert [entry.name for entry in found.entries] == ["job 1/3", "job 2/3", "job 3/3", "b"]
    assert len(found.needed(found.entries[-1])) == 3


@pytest.mark.parametrize(
    "parallel",
    ["0", "201", "true", "x", "{matrix: []}", "{matrix: [3]}", "{matrix: [{A: []}]}", "{matrix: [{A: [{}]}]}",
     "{rows: []}",
     "{matrix: [{A: [1,2,3,4,5,6,7,8,9,0], B: [1,2,3,4,5,6,7,8,9,0], C: [1,2,3]}]}",
     "{matrix: [{" + ", ".join(f"V{n}: [1,2,3,4,5,6,7,8,9]" for n in range(200)) + "}]}"],
)  # fmt: skip
def test_parallel_that_cannot_be_and_a_matrix_that_explodes(tmp_path: Path, parallel: str) -> None:
    found = listed(tmp_path, f"job: {{script: x, parallel: {parallel}}}\nok: {{script: x}}")
    assert [bool(entry.problem) for entry in found.entries] == [True, False]


def test_many_jobs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="more than 2000 jobs"):
        listed(tmp_path, "".join(f"j{n}: {{script: x, parallel: 200}}\n" for n in range(11)))


def test_whose_artifacts_a_job_gets(tmp_path: Path) -> None:
    text = """
a: {stage: build, script: x}
b: {stage: build, script: x}
all: {stage: test, script: x}
one: {stage: test, script: x, dependencies: [a]}
none: {stage: test, script: x, dependencies: []}
needs: {stage: test, script: x, needs: [a, {job: b, artifacts: false}]}
out: {stage: build, script: x, rules: [{if: $GONE}]}
"""
    found = listed(tmp_path, text)
    given = {entry.name: [each.name for each in found.giving(entry)] for entry in found.entries}
    assert given["all"] == ["a", "b"]
    assert (given["one"], given["none"], given["needs"], given["a"]) == (["a"], [], ["a"], [])


def test_matrix_values_keep_their_text() -> None:
    assert matrix.name_of("a", {"X": "3.10", "Y": "b c"}) == "a: [3.10, b c]"


def test_an_image_named_by_an_unset_variable_is_an_error_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(JobError) as caught:
        job(tmp_path, "job:\n  script: x\n  image: $IMG:1\n")
    assert caught.value.lines()[0] == '.gitlab-ci.yml:3: the image "$IMG:1" needs IMG, which is not set'
    with pytest.raises(JobError, match="its variables are empty"):
        job(tmp_path, "variables: {IMG: ''}\njob: {script: x, image: $IMG}\n")
    assert job(tmp_path, "job: {script: x, image: '$IMG:1'}\n", IMG="deb").image == "deb:1"


def test_what_only_a_server_has_is_told_in_one_warning_each(tmp_path: Path) -> None:
    text = (
        "job:\n  id_tokens: {T: {aud: x}}\n  secrets: {S: {vault: x}}\n  release: {tag_name: v}\n"
        "  needs: [{project: a/b, job: c, ref: main}]\n"
        "  script: ['echo $CI_JOB_TOKEN ${CI_PROJECT_ID} $CI_COMMIT_TAG ${CI_PIPELINE_URL:-x} $CI_JOB_NAME']\n"
    )
    warnings = job(tmp_path, text).warnings
    assert len(warnings) == 5
    assert "not set here, as only a GitLab server knows them: CI_JOB_TOKEN, CI_PROJECT_ID (" in warnings[-1]
    assert "the project a/b" in warnings[-2]


# https://docs.gitlab.com/ci/yaml/#environment and lib/gitlab/slug/environment.rb
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ("production", {"NAME": "production", "SLUG": "production", "TIER": "production", "ACTION": "start"}),
        ("{name: review/$B, url: 'https://$CI_ENVIRONMENT_SLUG.example.com'}",
         {"NAME": "review/x", "TIER": "development", "SLUG": "review-x-", "URL": "https://review-x-"}),
        ("{name: qa, action: stop, deployment_tier: staging}", {"ACTION": "stop", "TIER": "staging", "SLUG": "qa"}),
        ("{name: 1st}", {"SLUG": "env-1st-", "TIER": "other"}),
    ],
)  # fmt: skip
def test_an_environment_gives_its_variables(tmp_path: Path, environment: str, expected: dict[str, str]) -> None:
    read = job(tmp_path, f"variables: {{B: x}}\njob: {{script: x, environment: {environment}}}\n")
    values = dict(read.variables)
    for name, text in expected.items():
        assert values[f"CI_ENVIRONMENT_{name}"].startswith(text), name
    assert len(values["CI_ENVIRONMENT_SLUG"]) <= 24


def test_an_environment_that_cannot_be(tmp_path: Path) -> None:
    for environment in ("{name: a, kind: b}", "{name: a, action: jump}", "{name: 3}"):
        with pytest.raises(JobError, match="environment"):
            job(tmp_path, f"job: {{script: x, environment: {environment}}}\n")


def test_an_image_may_come_from_a_variable_that_another_job_hands_on(tmp_path: Path) -> None:
    text = "job: {script: x, image: $BUILT}\n"
    entry = listed(tmp_path, text).entries[0]
    assert entry.job
    assert "needs BUILT, which is not set" in entry.job.problem
    pipeline = ci_file.load(str(tmp_path))
    assert pipeline.job("job", handed_on={"BUILT": "deb:1"}).image == "deb:1"
    values = dict(pipeline.job("job", {"BUILT": "given"}, handed_on={"BUILT": "deb:1"}).variables)
    assert values["BUILT"] == "given"


def test_needs_of_a_matrix_follow_that_of_the_job(tmp_path: Path) -> None:
    """https://docs.gitlab.com/ci/yaml/matrix_expressions/."""
    text = """
build: {stage: build, script: x, parallel: {matrix: [{ARCH: [a, b]}]}}
job:
  script: x
  parallel: {matrix: [{ARCH: [a, b]}]}
  needs: [{job: build, parallel: {matrix: [{ARCH: "$[[ matrix.ARCH ]]"}]}}]
"""
    found = listed(tmp_path, text)
    names = [[each.name for each in found.needed(entry)] for entry in found.entries[2:]]
    assert names == [["build: [a]"], ["build: [b]"]]
