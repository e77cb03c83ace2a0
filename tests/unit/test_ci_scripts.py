"""The scripts of a local job's stages and the lines around them, as text."""

from __future__ import annotations

import io
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nspawn_runner.pipeline import headings, predefined, scripts
from nspawn_runner.pipeline.ci_job import CiJob
from nspawn_runner.pipeline.event import Event
from nspawn_runner.pipeline.predefined import RunFacts
from nspawn_runner.pipeline.project import Project

JOB = CiJob(
    name="job",
    stage="test",
    image=None,
    services=(),
    variables=(("A", "it's $HOME"),),
    before_script=("first",),
    script=("second\nthird\n",),
    after_script=("last",),
    ignored=(),
)
SHA = "0123456789abcdef0123456789abcdef01234567"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_quoted_text_is_one_word_of_the_shell(text: str) -> None:
    assert shlex.split(scripts.quoted(text)) == [text]


def test_the_build_script_exports_shows_and_runs_in_order() -> None:
    lines = scripts.build_script(JOB, "/builds/it's").decode()
    assert "export A='it'\\''s $HOME'\n" in lines
    assert "cd -- '/builds/it'\\''s'\n" in lines
    commands = shlex.split(lines.partition("eval ")[2].partition(" </dev/null")[0])[0]
    assert commands.split("\n") == [
        "printf '%s\\n' '$ first'",
        "first",
        "printf '%s\\n' '$ second # collapsed multi-line command'",
        "second",
        "third",
        "",
        "",
    ]


@pytest.mark.parametrize(
    "script",
    [
        scripts.build_script(JOB, "/b"),
        scripts.after_script(JOB, "/b", "failed"),
        scripts.get_sources("/bundle", "/b", sha=SHA, ref="main"),
        scripts.get_sources("/bundle", "/b", sha=SHA, ref="main", strategy="none"),
    ],
)
def test_every_script_ends_with_exit(script: bytes) -> None:
    assert script.endswith(b"\nexit 0\n")


def test_commands_are_shown_in_green_where_colour_is_wanted() -> None:
    assert b"\x1b[32;1m$ first\x1b[0;m" in scripts.build_script(JOB, "/b", colour=True)
    assert b"\x1b" not in scripts.build_script(JOB, "/b")


def test_the_after_script_knows_how_the_job_ended() -> None:
    script = scripts.after_script(JOB, "/b", "failed").decode()
    assert "export CI_JOB_STATUS='failed'\n" in script
    assert "last" in script
    assert "first" not in script


def test_variables_that_are_no_utf8_leave_as_they_came() -> None:
    job = JOB._replace(variables=(("A", b"\xff\n".decode(errors="surrogateescape")),))
    assert b"export A='\xff\n'\n" in scripts.build_script(job, "/b")


def test_sources_of_a_repository_with_long_object_names_go_to_one_of_the_same_kind() -> None:
    assert b"--object-format=sha256" in scripts.get_sources("/bundle", "/b", sha="ab" * 32, ref="main")
    assert b"--object-format" not in scripts.get_sources("/bundle", "/b", sha=SHA, ref="main")


def test_colour_is_for_terminals_unless_it_is_declined() -> None:
    assert headings.colour_wanted(Terminal(), {})
    assert headings.colour_wanted(Terminal(), {"NO_COLOR": ""})
    assert not headings.colour_wanted(Terminal(), {"NO_COLOR": "1"})
    assert not headings.colour_wanted(io.StringIO(), {})


def test_headings_are_gitlabs() -> None:
    assert headings.section(headings.PREPARE, colour=True) == "\x1b[36;1mPreparing environment\x1b[0;m"
    assert headings.succeeded(colour=False) == "Job succeeded"
    assert headings.failed("exit code 3", colour=False) == "ERROR: Job failed: exit code 3"
    assert headings.after_script_failed(4, colour=False).startswith("WARNING: after_script failed with exit code 4")


@pytest.mark.parametrize(
    ("folder", "name"),
    [("/a/hello", "hello"), ("/a/my project", "my-project"), ("/a/.x", "x"), ("/", "project"), ("/a/ü", "project")],
)
def test_a_project_has_a_name_that_is_safe_in_a_path(folder: str, name: str) -> None:
    assert predefined.project_name(Project(folder, None)) == name


def test_predefined_variables_say_branch_or_tag_only_where_it_is_known() -> None:
    project = Project("/a/hello", None, sha=SHA, branch="Feature/x")
    run = RunFacts("6", "7", 0, "/builds", ".gitlab-ci.yml")
    known = predefined.variables(project, Event("web", "Feature/x"), run)
    assert known["CI_PROJECT_DIR"] == "/builds/hello"
    assert (known["CI_COMMIT_SHORT_SHA"], known["CI_COMMIT_REF_SLUG"]) == (SHA[:8], "feature-x")
    assert known["CI_COMMIT_BRANCH"] == "Feature/x"
    assert "CI_COMMIT_TAG" not in known
