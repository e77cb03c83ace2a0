"""The files in pipelines/, which have each construct; what a comment at their head says of them is true."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nspawn_runner.errors import Error
from nspawn_runner.jobs import job_image, local_job
from nspawn_runner.jobs.local_job import LocalJob
from nspawn_runner.pipeline import artifact_choice, ci_file, job_options, lint, preview, repository, roster, rules
from nspawn_runner.pipeline import keywords as ci_keywords
from nspawn_runner.pipeline.checkout import Checkout
from nspawn_runner.pipeline.ci_file import Pipeline
from nspawn_runner.pipeline.ci_job import Artifacts
from nspawn_runner.pipeline.event import SOURCES, Event
from nspawn_runner.settings.tables import Settings

FOLDER = Path(__file__).parent / "pipelines"
CHECKOUT = Path(__file__).parents[2]
PREDEFINED = {"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_BRANCH": "main", "CI_DEFAULT_BRANCH": "main",
 "CI_COMMIT_TITLE": "t"}
EVENT = Event(ref="main", variables=PREDEFINED, changed=lambda _: ["src/a/b.c"], files=lambda: ["src/a/b.c"])


def head(path: Path, word: str) -> list[str]:
    return re.findall(rf"^# {word}: (.*)$", path.read_text(), re.MULTILINE)


def names(text: str) -> list[str]:
    return re.findall(r"[^,\[]+(?:\[[^\]]*\])?", text.replace(", ", ","))


def load(path: Path) -> Pipeline:
    return ci_file.load(str(path.parent), path.name, event=EVENT)


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.stem)
def test_a_file_gives_what_its_head_says(path: Path) -> None:
    pipeline = load(path)
    found = roster.make(pipeline, EVENT, PREDEFINED, {})
    listed = {re.sub(r"\[.*", lambda text: text[0].replace(", ", ","), entry.name) for entry in found.entries}
    assert listed == set(names(head(path, "jobs")[0]))
    never = {name for text in head(path, "never") for name in names(text)}
    assert {entry.name for entry in found.entries if not entry.is_in} == never
    here = {name for text in head(path, "here") for name in names(text)} or listed
    broken = {name for text in head(path, "incomplete") for name in names(text)} | (listed - here)
    unread = {entry.name for entry in found.entries if entry.problem}
    assert unread == broken
    said = lint.problems(pipeline, found, EVENT, PREDEFINED, {})
    for message in head(path, "check"):
        assert any(message in line for line in said), said
    assert bool(said) == bool(head(path, "check"))  # of what was left out it says nothing
    if not broken:
        assert preview.text(pipeline)


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.stem)
def test_a_job_reaches_its_own_process_unchanged(path: Path) -> None:
    packed = Checkout("a" * 40, "main", "main", None, ("b" * 40,), ("note",), "https://example.com/a/b.git")
    for entry in roster.make(load(path), EVENT, PREDEFINED, {}).entries:
        if entry.job:
            local = LocalJob(entry.job, "7", packed, "/b", "/p")
            assert local_job.from_json(json.loads(json.dumps(local_job.to_json(local)))) == local


def test_the_corpus_has_each_keyword() -> None:
    text = "\n".join(path.read_text() for path in FOLDER.iterdir())
    for keyword in {*ci_keywords.JOB, *ci_keywords.GLOBAL} - {"inputs", "types"}:
        assert re.search(rf"(^|[{{ ]){keyword}:", text, re.MULTILINE), keyword


PARTS = st.recursive(
    st.sampled_from([None, True, 3, "x", "$A", "build", "test", "a", ".a", "never", "manual", "main", "/x+/", "1h",
     "**/*.c"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["if", "when", "changes", "exists", "paths", "matrix", "job", "A", "name", "max", "dotenv",
         "reports"]),
        inner,
        max_size=3,
    ),
    max_leaves=5,
)


def check_message(error: Error) -> None:
    assert 1 <= len(error.lines()) <= 3


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", ".a", "stages", "variables", "workflow", "default", "include"]),
        PARTS | st.dictionaries(st.sampled_from(sorted(ci_keywords.JOB - {"hooks"})), PARTS, max_size=4),
        max_size=4,
    ),
    st.sampled_from(sorted(SOURCES)),
)
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_file_gives_a_plan_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any], name: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    (folder / ".gitlab-ci.yml").write_text(json.dumps({"c": {"script": ["x"]}, **content}))
    event = EVENT._replace(name=name)
    try:
        pipeline = ci_file.load(str(folder), event=event)
        found = roster.make(pipeline, event, PREDEFINED, {})
    except Error as error:
        check_message(error)
        return
    assert all(entry.problem or entry.job for entry in found.entries)
    assert all("\n" not in line for line in lint.problems(pipeline, found, event, PREDEFINED, {}))
    order = {entry.name: number for number, entry in enumerate(found.entries)}
    for entry in found.entries:
        assert all(each.name in order for each in found.needed(entry))


def test_the_image_of_the_command_line_is_above_the_settings(tmp_path: Path) -> None:
    for name in ("mine", "theirs"):
        (tmp_path / name / "usr").mkdir(parents=True)
    mapped = Settings(state_folder=str(tmp_path), images={"mine": "theirs"})
    assert job_image.find("mine", mapped).name == "theirs"
    assert job_image.find("mine", mapped, as_named=True).name == "mine"


# https://docs.gitlab.com/ci/yaml/#artifactspaths and the runner's own matching
@pytest.mark.parametrize(
    ("artifacts", "expected"),
    [
        (Artifacts(("out",)), "out out/a.o out/d out/d/b"), (Artifacts(("out/",),
        ("out/**/*.o",)), "out out/d out/d/b"),
        (Artifacts(("*.txt",)), "a.txt"), (Artifacts(("out/*",)), "out/a.o out/d out/d/b"),
        (Artifacts(("**/b",)), "out/d/b"),
        (Artifacts(("$DIR/d/**",)), "out/d/b"), (Artifacts(("/builds/p/a.txt",)), "a.txt"),
        (Artifacts(("/etc/passwd",)), ""),
        (Artifacts(("../x",)), ""), (Artifacts((".",)), "a.txt out out/a.o out/d out/d/b"),
        (Artifacts(untracked=True), "out/a.o"),
        (Artifacts(("gone",)), ""),
    ],
)  # fmt: skip
def test_which_files_are_kept(artifacts: Artifacts, expected: str) -> None:
    there = [".", "./a.txt", "./out", "./out/a.o", "./out/d", "./out/d/b", "./../evil", ""]
    values = {"CI_PROJECT_DIR": "/builds/p", "DIR": "out"}
    found = artifact_choice.choose(artifacts, there, ["out/a.o", "../evil"], values)
    assert " ".join(found.paths) == expected
    assert bool(found.notes) == (not expected)


def test_reports_are_kept_whatever_the_result() -> None:
    both = Artifacts(("out/",), untracked=True, reports=("junit.xml",))
    assert artifact_choice.due(both, failed=False) == both
    assert artifact_choice.due(both, failed=True) == Artifacts(reports=("junit.xml",))
    assert artifact_choice.due(Artifacts(("out/",)), failed=True) is None
    assert artifact_choice.due(Artifacts(("log",), when="on_failure", dotenv=("v.env",)), failed=False) == Artifacts(
        when="on_failure", dotenv=("v.env",)
    )


READING = """
import os, signal, sys, threading
from nspawn_runner.errors import Cancelled
from nspawn_runner.host import signals
from nspawn_runner.pipeline import ci_file, roster
from nspawn_runner.pipeline.event import Event
signals.heed()
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    roster.make(ci_file.load(sys.argv[1]), Event(ref="main"), {}, {})
except Cancelled:
    print("cancelled")
"""


@pytest.mark.starts_processes
@pytest.mark.parametrize("what", ["jobs", "expressions"])
def test_reading_a_file_that_takes_long_can_be_stopped(tmp_path: Path, what: str) -> None:
    jobs, rule = "".join(f"j{number}: {{script: x}}\n" for number in range(1900)), ""
    variables = "".join(f"  B{number}: x\n" for number in range(2000))
    if what == "expressions":
        jobs, variables = "job:\n  script: x\n  rules:\n", f"  V: {'abc' * 7000}\n"
        rule = "    - if: '" + " || ".join(["$V =~ /(a?b?c?){60}z/"] * 20) + "'\n"
    (tmp_path / ".gitlab-ci.yml").write_text(f"variables:\n{variables}{jobs}{rule * 100}")
    argv = [sys.executable, "-c", READING, str(tmp_path)]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, check=False, timeout=60)
    assert done.stdout == b"cancelled\n", done.stderr


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://me:p@ss@example.com/g/p.git", "https://example.com/g/p.git"),
        ("HTTPS://token@example.com/g/p", "HTTPS://example.com/g/p"),
        ("ssh://git:secret@example.com:22/g/p", "ssh://git@example.com:22/g/p"),
        ("git@example.com:g/p.git", "git@example.com:g/p.git"),
        ("https://example.com:8443/g/@scope/p", "https://example.com:8443/g/@scope/p"),
        ("ssh://example.com:22/g/p@x", "ssh://example.com:22/g/p@x"),
    ],
)
def test_no_password_of_origin_reaches_a_job(url: str, expected: str) -> None:
    assert repository.without_secrets(url) == expected


def test_a_dotenv_report() -> None:
    """Quotes stay and a bad line is told, as GitLab's parser has it."""
    assert artifact_choice.dotenv_variables(b"A=1\nB = two \n\nC=\"q\"\n1x\n") == (
        {"A": "1", "B": "two", "C": '"q"'},
        ["line 5 of the dotenv report is no variable"],
    )
    assert artifact_choice.dotenv_variables(b"A=" + b"x" * 6000)[0] == {}
    assert len(artifact_choice.dotenv_variables("".join(f"V{n}=\n" for n in range(400)).encode())[0]) == 150


HOW = {"as GitLab", "difference", "ignored", "told", "refused"}


def documented() -> dict[str, str]:
    """Give keyword → how of the tables in docs/exec.md."""
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+?) \|", (CHECKOUT / "docs/exec.md").read_text(), re.MULTILINE)
    return {keyword: how for keyword, how in rows if how in HOW}


def test_every_keyword_is_documented_as_the_code_treats_it() -> None:
    told = documented()
    expected = {
        **dict.fromkeys(ci_keywords.IGNORED, frozenset({"ignored", "difference"})),
        **dict.fromkeys(ci_keywords.TOLD, frozenset({"told"})),
        **dict.fromkeys(ci_keywords.REFUSED, frozenset({"refused"})),
        **dict.fromkeys(ci_keywords.FOLLOWED, frozenset({"as GitLab", "difference"})),
        **dict.fromkeys(ci_keywords.INHERITED, frozenset({"as GitLab", "difference"})),
    }
    for keyword, hows in expected.items():
        assert told.get(keyword) in hows, keyword
    groups = {
        "artifacts": job_options.ARTIFACTS,
        "rules": rules.OF_JOB,
        "workflow:rules": rules.OF_WORKFLOW,
        "default": ci_keywords.DEFAULT,
    }
    for group, keys in groups.items():
        rows = {keyword.removeprefix(f"{group}:") for keyword in told if re.fullmatch(rf"{group}:[a-z_]+", keyword)}
        assert rows == set(keys), group
    top = {keyword for keyword in told if ":" not in keyword}
    assert top == {*ci_keywords.JOB, "default", "include", "stages", "workflow", "spec"}
