"""Includes: from mapped folders, left out, with rules, inputs and variables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nspawn_runner.errors import Error, JobError, UsageError
from nspawn_runner.pipeline import ci_file, include_map
from nspawn_runner.pipeline.ci_file import Pipeline
from nspawn_runner.pipeline.event import Event
from nspawn_runner.pipeline.include_map import Elsewhere, MappedFolder, Place


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def load(folder: Path, text: str, *mapped: str, variables: dict[str, str] | None = None, **inputs: str) -> Pipeline:
    write(folder, ".gitlab-ci.yml", text)
    event = Event(variables=variables or {}, files=lambda: ["Makefile", "src/a.c"], changed=lambda _: ["src/a.c"])
    return ci_file.load(str(folder), event=event, mapped=include_map.parse(mapped), inputs=inputs)


def refusal(folder: Path, text: str, *mapped: str, **inputs: str) -> str:
    with pytest.raises(JobError) as caught:
        load(folder, text, *mapped, variables=None, **inputs)
    return "\n".join(caught.value.lines())


def test_of_duplicate_keys_the_last_counts_and_both_lines_are_told(tmp_path: Path) -> None:
    pipeline = load(tmp_path, "job: {script: [x]}\nb: {script: [b]}\njob: {script: [y]}\n")
    assert pipeline.job("job").script == ("y",)
    told = '.gitlab-ci.yml:3: the key "job" is there twice, first in line 1; this one counts'
    assert pipeline.notices.lines() == [told]


def test_many_notices_are_cut(tmp_path: Path) -> None:
    pipeline = load(tmp_path, "".join(f"j{n}: {{script: x}}\nj{n}: {{script: y}}\n" for n in range(60)))
    assert len(pipeline.notices.lines()) == 31
    assert pipeline.notices.lines()[-1] == "and 30 more of these"


def test_notices_reach_a_terminal_without_control_characters(tmp_path: Path) -> None:
    pipeline = load(tmp_path, 'job: {script: x}\n"\\e]0;owned\\a\\n": 3\n')
    told = '.gitlab-ci.yml:2: "\\x1b]0;owned\\x07\\n" is no keyword, and a number is no job'
    assert pipeline.notices.lines() == [told]


LEFT_OUT = """
include:
  - remote: https://example.com/ci/base.yml
  - {project: group/tools, ref: v1, file: [/a.yml, b.yml]}
  - template: Auto-DevOps.gitlab-ci.yml
  - component: $CI_SERVER_FQDN/group/part/check@1.0
  - https://example.com/other.yml
own: {script: [x]}
extending: {extends: .base}
borrowing: {script: [!reference [.base, script]]}
configured: {variables: {A: b}}
"""


def test_what_is_elsewhere_is_left_out_and_only_the_jobs_that_need_it_say_so(tmp_path: Path) -> None:
    pipeline = load(tmp_path, LEFT_OUT, variables={"CI_SERVER_FQDN": "gitlab.example.com"})
    assert pipeline.jobs == ("own", "extending", "borrowing", "configured")
    assert pipeline.job("own").script == ("x",)
    assert len(pipeline.notices.lines()) == 6
    for name, what in (
        ("extending", '"extending" extends ".base", which does not exist'),
        ("borrowing", "!reference [.base, script] refers to nothing"),
        ("configured", 'the job "configured" has no script'),
    ):
        with pytest.raises(JobError) as caught:
            pipeline.job(name)
        lines = caught.value.lines()
        assert what in lines[0]
        assert "the component gitlab.example.com/group/part/check@1.0" in lines[1]
        assert "--include-map" in lines[2]


def test_without_a_missing_include_nothing_is_blamed_on_one(tmp_path: Path) -> None:
    pipeline = load(tmp_path, "job: {extends: .gone}\n")
    with pytest.raises(JobError) as caught:
        pipeline.job("job")
    assert len(caught.value.lines()) == 1


def test_mapped_folders_stand_in_for_each_kind(tmp_path: Path) -> None:
    for folder, file in (
        ("web", "ci/base.yml"), ("tools", "a.yml"), ("tools", "b.yml"), ("templates", "Auto-DevOps.gitlab-ci.yml"),
        ("part", "templates/check/template.yml"), ("web", "other.yml"),
    ):  # fmt: skip
        own = f".base: {{script: [{folder}]}}\n" if file == "ci/base.yml" else ""
        write(tmp_path / folder, file, f"variables: {{FROM_{folder.upper()}: {file}}}\n{own}")
    pipeline = load(
        tmp_path,
        LEFT_OUT,
        f"https://example.com={tmp_path}/web",
        f"group/tools={tmp_path}/tools",
        f"template={tmp_path}/templates",
        f"gitlab.example.com/group/part={tmp_path}/part",
        variables={"CI_SERVER_FQDN": "gitlab.example.com"},
    )
    assert pipeline.notices.lines() == []
    assert pipeline.job("extending").script == ("web",)
    values = dict(pipeline.job("own").variables)
    found = [values[f"FROM_{folder}"] for folder in ("WEB", "TOOLS", "TEMPLATES", "PART")]
    assert found == ["other.yml", "b.yml", "Auto-DevOps.gitlab-ci.yml", "templates/check/template.yml"]


def test_local_includes_of_a_mapped_project_are_in_that_project(tmp_path: Path) -> None:
    write(tmp_path / "copies/tools", "ci/a.yml", "include: /inner.yml")
    write(tmp_path / "copies/tools", "inner.yml", "job: {script: [theirs]}")
    write(tmp_path / "own", "inner.yml", "job: {script: [own]}")
    include = "include: {project: group/tools, file: ci/a.yml}"
    assert load(tmp_path / "own", include, f"group={tmp_path}/copies").job("job").script == ("theirs",)


@pytest.mark.parametrize("file", ["../secret.yml", "link.yml", "a/../../secret.yml"])
def test_nothing_outside_a_mapped_folder_is_read(tmp_path: Path, file: str) -> None:
    write(tmp_path, "secret.yml", "job: {script: [secret]}")
    (tmp_path / "map").mkdir()
    (tmp_path / "map/link.yml").symlink_to("../secret.yml")
    text = f"include: {{project: group/tools, file: {file}}}\nown: {{script: x}}"
    if file == "link.yml":
        assert "leads out" in refusal(tmp_path / "own", text, f"group/tools={tmp_path}/map")
    else:
        assert load(tmp_path / "own", text, f"group/tools={tmp_path}/map").jobs == ("own",)


def test_no_project_of_a_mapped_folder_is_a_link_out_of_it(tmp_path: Path) -> None:
    write(tmp_path / "secret", "x.yml", "job: {script: [secret]}")
    write(tmp_path / "map/evil", "y.yml", "job: {script: [ours]}")
    (tmp_path / "map/evil/sub").symlink_to("../../secret")
    text = "include: {project: group/evil/sub, file: x.yml}\nown: {script: x}"
    assert "leads out of" in refusal(tmp_path / "own", text, f"group={tmp_path}/map")


@pytest.mark.parametrize(
    ("prefixes", "places", "project", "expected"),
    [
        (["a/b"], ("a/b/x.yml",), "a/b", ["M0:x.yml"]),
        (["a", "a/b"], ("a/b/x.yml",), "a/b", ["M1:x.yml", "M0/b:x.yml"]),
        (["a/b/ci"], ("a/b/ci/x.yml",), "a/b", ["M0:x.yml"]),
        (["a/bc"], ("a/b/x.yml",), "a/b", []),
        (["a"], ("a",), "", []),
        (["h/p"], ("h/p/templates/c.yml", "h/p/templates/c/template.yml"), "h/p",
         ["M0:templates/c.yml", "M0:templates/c/template.yml"]),
    ],
)  # fmt: skip
def test_places(prefixes: list[str], places: tuple[str, ...], project: str, expected: list[str]) -> None:
    mapped = [MappedFolder(prefix, f"M{number}") for number, prefix in enumerate(prefixes)]
    found = include_map.places(Elsewhere("x", places, project), mapped)
    assert found == [Place(root, path, root[:2]) for root, _, path in (text.partition(":") for text in expected)]


@pytest.mark.parametrize("given", ["a", "=b", "a=", "a=/does/not/exist"])
def test_a_map_that_cannot_be(given: str) -> None:
    with pytest.raises(UsageError):
        include_map.parse([given])


def test_the_users_file_names_folders_too(tmp_path: Path) -> None:
    (tmp_path / "copies").mkdir()
    write(tmp_path, ".config/nspawn-runner/exec.toml", '[include_map]\n"group/tools" = "copies"\n')
    assert include_map.of_user(str(tmp_path)) == (MappedFolder("group/tools", str(tmp_path / "copies")),)
    assert include_map.of_user(str(tmp_path / "copies")) == ()
    for text in ("[include_map]\na = 3\n", "[", 'include_map = "x"\n'):
        write(tmp_path, ".config/nspawn-runner/exec.toml", text)
        with pytest.raises(UsageError):
            include_map.of_user(str(tmp_path))


# https://docs.gitlab.com/ci/yaml/includes/#use-rules-with-include
@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("[{if: $DO}]", True), ("[{if: $NOT}]", False), ("[{if: $DO, when: never}]", False), ("[{when: always}]", True),
        ("[{exists: [Makefile]}]", True), ("[{exists: ['*.txt']}]", False), ("[{changes: ['src/*.c']}]", True),
        ("[{changes: {paths: [doc/*]}}]", False), ("[{if: $NOT}, {if: $DO}]", True),
    ],
)  # fmt: skip
def test_rules_of_an_include(tmp_path: Path, rules: str, expected: bool) -> None:
    write(tmp_path, "a.yml", "job: {script: [x]}")
    text = f"include: {{local: a.yml, rules: {rules}}}\nown: {{script: x}}"
    assert ("job" in load(tmp_path, text, variables={"DO": "1"}).jobs) is expected


def test_variables_in_paths(tmp_path: Path) -> None:
    write(tmp_path, "ci/linux.yml", "job: {script: [x]}")
    assert load(tmp_path, "include: ci/$OS.yml", variables={"OS": "linux"}).jobs == ("job",)
    pipeline = load(tmp_path, "include: ci/$OTHER.yml\nown: {script: x}", variables={"OS": "linux"})
    assert pipeline.jobs == ("own",)
    assert "variables that are not set (OTHER)" in pipeline.notices.lines()[0]
    assert load(tmp_path, "include: $OTHER\nown: {script: x}").jobs == ("own",)


def test_wildcards_that_match_nothing_include_nothing(tmp_path: Path) -> None:
    pipeline = load(tmp_path, "include: ci/*.yml\nown: {script: x}")
    assert pipeline.notices.lines() == ['.gitlab-ci.yml:1: no file matches the include "ci/*.yml"']


# https://docs.gitlab.com/ci/inputs/#define-input-parameters-with-specinputs
SPEC = """spec:
  inputs:
    stage: {default: test}
    who: {options: [a, b], default: a}
    count: {type: number, default: 1}
    deep: {type: boolean, default: true}
    list: {type: array, default: [x, 'y y']}
    version: {regex: '^v\\d+$', default: v1}
    kind:
      rules:
        - {if: '$[[ inputs.who ]] == "b" && $[[ inputs.deep ]] == true', options: [k], default: k}
        - {default: none}
---
"$[[ inputs.who ]]-job":
  stage: $[[ inputs.stage ]]
  allow_failure: $[[ inputs.deep ]]
  parallel: $[[ inputs.count ]]
  script: $[[ inputs.list ]]
  variables:
    V: "$[[ inputs.version | truncate(0,1) ]] $[[ inputs.count ]] $[[ inputs.deep ]] $[[inputs.kind]]"
    E: $[[ inputs.stage | expand_vars | posix_escape ]]
"""


def test_inputs_have_defaults_and_types(tmp_path: Path) -> None:
    read = load(tmp_path, SPEC).job("a-job")
    assert (read.stage, read.allow_failure, read.script) == ("test", True, ("x", "y y"))
    assert dict(read.variables)["V"] == "v 1 true none"


def test_inputs_are_given_by_an_include_and_on_the_command_line(tmp_path: Path) -> None:
    write(tmp_path, "part.yml", SPEC)
    include = "include: {local: part.yml, inputs: {who: b, list: [z], count: 2, stage: '$S t'}}"
    read = load(tmp_path, include, variables={"S": "it's"}).job("b-job 2/2")
    assert (read.script, dict(read.variables)["E"]) == (("z",), shell_word("it's t"))
    assert dict(read.variables)["V"] == "v 2 true k"
    read = load(tmp_path, SPEC, who="b", list=json.dumps(["q"]), deep="false").job("b-job")
    assert (read.script, read.allow_failure) == (("q",), False)


def shell_word(text: str) -> str:
    return "'" + text.replace("'", "'\"'\"'") + "'"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"gone": "x"}, 'there is no input "gone"'),
        ({"who": "c"}, 'the input "who" must be one of: a, b'),
        ({"count": "many"}, 'the input "count" is a string; its type is number'),
        ({"deep": "yes"}, 'the input "deep" is a string; its type is boolean'),
        ({"list": "a,b"}, "a list is given as JSON"),
        ({"version": "1"}, 'the input "version" does not match'),
    ],
)
def test_inputs_that_cannot_be(tmp_path: Path, inputs: dict[str, str], message: str) -> None:
    assert message in refusal(tmp_path, SPEC, **inputs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spec: {inputs: {a: }}\n---\njob: {script: '$[[ inputs.a ]]'}", 'the input "a" has no value'),
        ("spec: {inputs: {a: {default: b}}}\n---\nj: {script: '$[[ inputs.b ]]'}", "$[[ inputs.b ]] stands for"),
        ("spec: {inputs: {a: {default: b}}}\n---\njob: {script: '$[[ inputs.a | shout ]]'}", '"shout" is not known'),
        ("spec: {inputs: {a: {default: b, size: 3}}}\n---\njob: {script: x}", 'has an unknown keyword "size"'),
        ("spec: {inputs: {a: {type: thing}}}\n---\njob: {script: x}", "has an unknown type"),
        ("spec: {inputs: {a: {default: b, regex: '(a'}}}\n---\njob: {script: x}", "cannot be used"),
        ("spec: 3\n---\njob: {script: x}", '"spec" is a number'),
        ("include: {local: plain.yml, inputs: {a: b}}", "plain.yml takes no inputs"),
    ],
)
def test_specs_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, "plain.yml", "job: {script: x}")
    assert message in refusal(tmp_path, text)


def test_only_the_first_of_two_documents_is_read_unless_it_is_a_header(tmp_path: Path) -> None:
    pipeline = load(tmp_path, "job: {script: x}\n---\nother: {script: x}\n")
    assert pipeline.jobs == ("job",)
    assert ":3: a second part" in pipeline.notices.lines()[0]


def test_a_reference_that_names_nothing_matters_only_to_its_job(tmp_path: Path) -> None:
    pipeline = load(tmp_path, ".a: [x]\ngood: {script: x}\nbad: {script: x, services: [!reference [.a, 0]]}\n")
    assert pipeline.job("good").script == ("x",)
    with pytest.raises(JobError, match=":3: !reference needs a list of strings"):
        pipeline.job("bad")


def test_mistakes_of_one_job_do_not_stop_the_others(tmp_path: Path) -> None:
    pipeline = load(
        tmp_path, "good: {script: [x]}\nodd: {scirpt: [x]}\nstray: 3\nbad: {script: {a: b}}\nr: {script: x, rules: 3}\n"
    )
    assert pipeline.job("good").script == ("x",)
    assert pipeline.notices.lines() == ['.gitlab-ci.yml:3: "stray" is no keyword, and a number is no job']
    for name in ("odd", "bad"):
        with pytest.raises(Error):
            pipeline.job(name)


def test_words_that_are_keywords_can_be_jobs_where_gitlab_takes_them(tmp_path: Path) -> None:
    """GitLab's Entry::Root reserves only some names."""
    names = ("default", "workflow", "types", "pages")
    pipeline = load(tmp_path, "".join(f"{name}: {{script: [{name[0]}]}}\n" for name in names))
    assert pipeline.jobs == names
    assert pipeline.job("types").script == ("t",)
    assert load(tmp_path, "default: {image: d}\nworkflow: {rules: [{when: always}]}\njob: {script: x}").jobs == ("job",)


def test_inputs_that_multiply_are_refused(tmp_path: Path) -> None:
    text = f"spec: {{inputs: {{a: {{default: {'x' * 900_000}}}}}}}\n---\nj:\n  script:\n"
    assert "expand to more than" in refusal(tmp_path, text + "  - x$[[inputs.a]]\n" * 3000)


def test_many_wildcards_are_refused(tmp_path: Path) -> None:
    includes = "".join(f"  - /{number}*.yml\n" for number in range(200))
    assert "more than 150 files" in refusal(tmp_path, f"include:\n{includes}job: {{script: x}}\n")
