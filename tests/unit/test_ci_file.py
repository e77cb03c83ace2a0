"""The reader of .gitlab-ci.yml: what it understands, what it refuses, and that odd files end in a message."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nspawn_runner.errors import Error, JobError, UsageError
from nspawn_runner.pipeline import ci_file, project_files, variables, yaml_reader
from nspawn_runner.pipeline import values as ci_values
from nspawn_runner.pipeline.ci_job import CiJob


def job(folder: Path, text: str | bytes, name: str = "job", **arguments: object) -> CiJob:
    write(folder, ".gitlab-ci.yml", text)
    overrides = {str(key): str(value) for key, value in arguments.items()}
    return ci_file.load(str(folder)).job(name, overrides)


def write(folder: Path, name: str, text: str | bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def refusal(folder: Path, text: str | bytes, name: str = "job", **arguments: object) -> str:
    with pytest.raises(JobError) as caught:
        job(folder, text, name, **arguments)
    assert 1 <= len(caught.value.lines()) <= 3
    return "\n".join(caught.value.lines())


def test_a_small_job_is_read_as_it_is_written(tmp_path: Path) -> None:
    script = "  script:\n    - one\n    - |\n      two\n      three\n"
    read = job(tmp_path, f"job:\n  image: bookworm\n{script}  after_script: four\n")
    assert (read.image, read.stage) == ("bookworm", "test")
    assert read.before_script == ()
    assert read.script == ("one", "two\nthree\n")
    assert read.after_script == ("four",)


def test_jobs_are_listed_in_order_without_hidden_ones_and_keywords(tmp_path: Path) -> None:
    hidden = "stages: [a]\n.h: {script: x}\ndefault: {}\n"
    write(tmp_path, ".gitlab-ci.yml", f"z: {{script: x}}\n{hidden}a: {{script: x}}\npages: {{script: x}}\n")
    assert ci_file.load(str(tmp_path)).jobs == ("z", "a", "pages")


def test_defaults_and_top_level_keywords_are_inherited_unless_the_job_has_its_own(tmp_path: Path) -> None:
    text = "image: top\ndefault:\n  before_script: [d]\n  after_script: [d]\njob:\n  after_script: []\n  script: [s]\n"
    read = job(tmp_path, text)
    assert (read.image, read.before_script, read.after_script) == ("top", ("d",), ())


def test_an_empty_keyword_inherits_like_a_missing_one(tmp_path: Path) -> None:
    read = job(tmp_path, "default: {before_script: [d]}\njob:\n  before_script:\n  script: [s]\n")
    assert read.before_script == ("d",)


def test_inherit_chooses_defaults_and_variables(tmp_path: Path) -> None:
    text = (
        "variables: {A: 1, B: 2}\ndefault: {image: i, before_script: [b]}\n"
        "job:\n  inherit: {default: [image], variables: [B]}\n  script: [s]\n"
        "none:\n  inherit: {default: false, variables: false}\n  script: [s]\n"
    )
    some, none = job(tmp_path, text), job(tmp_path, text, "none")
    assert (some.image, some.before_script) == ("i", ())
    assert "A" not in dict(some.variables)
    assert dict(some.variables)["B"] == "2"
    assert (none.image, "B" in dict(none.variables)) == (None, False)


def test_extends_merges_mappings_deeply_and_replaces_lists(tmp_path: Path) -> None:
    text = (
        ".a: {variables: {X: a, Y: a}, script: [a], image: {name: one}}\n"
        ".b: {variables: {Y: b}, before_script: [b]}\n"
        "job: {extends: [.a, .b], variables: {Z: j}, script: [j]}\n"
    )
    read = job(tmp_path, text)
    values = dict(read.variables)
    assert (values["X"], values["Y"], values["Z"]) == ("a", "b", "j")
    assert (read.script, read.before_script, read.image) == (("j",), ("b",), "one")


def test_extends_works_for_eleven_levels_and_not_for_twelve(tmp_path: Path) -> None:
    def chain(levels: int) -> str:
        parents = "".join(f".p{level}: {{extends: .p{level + 1}}}\n" for level in range(1, levels))
        return f"job: {{extends: .p1}}\n{parents}.p{levels}: {{script: [deep]}}\n"

    assert job(tmp_path, chain(11)).script == ("deep",)
    assert ".gitlab-ci.yml:12: extends is nested more than 11" in refusal(tmp_path, chain(12))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("job: {extends: job, script: [x]}", ":1: jobs extend each other in a circle\njob → job"),
        ("job: {extends: .a}\n.a: {extends: .b}\n.b: {extends: .a}", ":3: jobs extend each other in a circle"),
        ("job: {script: [x],\n  extends: .gone}", ':2: "job" extends ".gone", which does not exist'),
        ("job: {extends: 3}", ":1: extends must be the name of a job"),
        ("job: {extends: .a}\n.a: [x]", 'extends ".a", which is a list'),
    ],
)
def test_extends_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text)


def test_references_are_followed_through_extends_and_nested_lists(tmp_path: Path) -> None:
    text = (
        ".base: {script: [one]}\n.mid: {extends: .base, variables: {V: v}}\n"
        ".list:\n  script:\n    - !reference [.mid, script]\n    - two\n"
        "job:\n  variables: {W: !reference [.mid, variables, V]}\n"
        "  script:\n    - !reference [.list, script]\n    - three\n"
    )
    read = job(tmp_path, text)
    assert read.script == ("one", "two", "three")
    assert dict(read.variables)["W"] == "v"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("job:\n  script: !reference [.gone, script]", ":2: !reference [.gone, script] refers to nothing"),
        ("job:\n  script: !reference [job, script]", ":2: !reference [job, script] refers back to itself"),
        ("job:\n  script:\n    - !reference []", ":3: !reference needs a list of strings"),
        (
            "".join(f".r{level}: {{s: !reference [.r{level + 1}, s]}}\n" for level in range(12))
            + ".r12: {s: x}\njob: {script: !reference [.r0, s]}",
            "nested more than 10 levels deep",
        ),
    ],
)
def test_references_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text)


def test_anchors_and_merge_keys(tmp_path: Path) -> None:
    text = (
        ".a: &a {script: [a], image: a}\n.b: &b {image: b}\n"
        "job:\n  <<: [*b, *a]\nlate:\n  image: own\n  <<: *a\ntwice:\n  <<: *a\n  <<: *b\n"
    )
    assert job(tmp_path, text).image == "b", "of a list the first wins"
    assert job(tmp_path, text, "late").image == "a", "a merge overrides what is written above it, as in Ruby"
    assert job(tmp_path, text, "twice").image == "b"


def test_variables_have_their_order_of_precedence_and_refer_to_each_other(tmp_path: Path) -> None:
    text = (
        'variables: {A: global, B: "$A/${C}", N: 010}\n'
        'job:\n  image: "img-$A"\n  script: [x]\n'
        '  variables:\n    A: own\n    C: "$D$$x"\n    D: {value: "$A", expand: false}\n'
    )
    read = job(tmp_path, text)
    values = dict(read.variables)
    assert values["B"] == "own/$A$x"
    assert (values["C"], values["D"], values["N"]) == ("$A$x", "$A", "8")
    assert read.image == "img-own"
    assert values["CI_JOB_IMAGE"] == "img-own"
    assert dict(job(tmp_path, text, A="$D").variables)["A"] == "$D", "an override is taken literally"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("true", ":3: the variable V is a boolean"),
        ("1.5", ":3: the variable V is a number"),
        ("2020-01-01", ":3: the variable V is a date"),
        ("[a]", ":3: the variable V is a list"),
        ("{value: a, secret: b}", ':3: the variable V has an unknown key "secret"'),
        ("{value: a, expand: 1}", '"expand" of the variable V must be true or false'),
        ('"a\\0b"', "NUL"),
        ('"$W"\n    W: "${V}"', "circle: V → W → V"),
        ("x" * 131072, "longer than 128 KiB"),
    ],
)
def test_variables_that_cannot_be(tmp_path: Path, value: str, message: str) -> None:
    assert message in refusal(tmp_path, f"job:\n  variables:\n    V: {value}\n  script: [x]\n")


@pytest.mark.parametrize("name", ["my-var", "1st", "a b", "UID", "ü"])
def test_names_that_bash_refuses(tmp_path: Path, name: str) -> None:
    assert ":2: " in refusal(tmp_path, f'job:\n  variables: {{"{name}": x}}\n  script: [x]\n')
    write(tmp_path, ".gitlab-ci.yml", "job: {script: [x]}")
    pipeline = ci_file.load(str(tmp_path))
    with pytest.raises(UsageError):
        pipeline.job("job", {name: "x"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$A", "a"), ("${A}b", "ab"), ("$Ab", ""), ("$$A", "$A"), ("$", "$"), ("a$ b", "a$ b"), ("${A", "A"),
        ("$/", "$/"), ("${}", ""), ("$1x", "x"), ("${A:-b}", ""), ("$$$A", "$a"),
    ],
)  # fmt: skip
def test_expansion_is_the_runners(text: str, expected: str) -> None:
    assert variables.expand(text, {"A": "a"}) == expected


def test_variables_that_double_each_other_end_in_a_message(tmp_path: Path) -> None:
    lines = "".join(f'    V{level}: "$V{level + 1}$V{level + 1}"\n' for level in range(60))
    assert "longer than 128 KiB" in refusal(tmp_path, f"job:\n  script: [x]\n  variables:\n{lines}    V60: xx\n")


@pytest.mark.parametrize(
    "keyword", ["hooks: {a: b}", "trigger: x", "run: [a]", "inputs: {a: 1}"]
)
def test_what_would_change_what_runs_is_refused_by_name_and_line(tmp_path: Path, keyword: str) -> None:
    name = keyword.split(":", maxsplit=1)[0]
    assert f'.gitlab-ci.yml:3: the job "job" has "{name}"' in refusal(tmp_path, f"job:\n  script: [x]\n  {keyword}\n")


def test_refused_defaults_matter_only_to_the_jobs_that_inherit_them(tmp_path: Path) -> None:
    text = (
        "default:\n  hooks: {pre_get_sources_script: [a]}\njob: {script: [x]}\n"
        "free: {script: [x], hooks: {}}\nown: {script: [x], inherit: {default: false}}\n"
    )
    assert ':2: "default" has "hooks"' in refusal(tmp_path, text)
    assert job(tmp_path, text, "free").script == ("x",)
    assert job(tmp_path, text, "own").script == ("x",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("job:\n  script: [x]\n  scirpt: [y]\n", ':3: the job "job" has an unknown keyword "scirpt"'),
        ("default:\n  stage: y\njob: {script: [x]}\n", ':2: "default" has an unknown keyword "stage"'),
        ("job: {script: [x], image: {name: a, entrypoint: [b]}}\n", '"image: entrypoint" is not supported'),
        ("job: {script: [x], image: {entrypoint: ['']}}\n", '"image" has no name'),
        ("job: {script: [x], image: 3}\n", '"image" is a number'),
        ("image: a\ndefault: {image: b}\njob: {script: [x]}\n", '"image" is both at the top level and in "default"'),
        ("job: {image: a}\n", ':1: the job "job" has no script'),
        ("job: {script: }\n", 'the job "job" has no script'),
        ("job: {script: ['']}\n", 'the job "job" has no script'),
        ("job:\n  script:\n    - echo: a\n", ':3: a command of "script" is a mapping'),
        ("job:\n  script:\n    - true\n", ':3: a command of "script" is a boolean'),
        ('job: {script: ["a\\0"]}\n', "NUL"),
        ("job: {script: [[[[[[[[[[[[x]]]]]]]]]]]]}\n", "nested more than 10 levels deep"),
        ("job: {script: [x], inherit: [a]}\n", '"inherit" is a list'),
        ("job: {script: [x], inherit: {default: 1}}\n", '"inherit: default" must be'),
        ("job: {script: [x]}\nother: {script: [x]}\n", "jobs: job, other"),
        (".gone: {script: [x]}\n", "hidden job"),
    ],
)
def test_what_cannot_be_is_said_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    name = {"jobs: job, other": "gone", "hidden job": ".gone"}.get(message, "job")
    assert message in refusal(tmp_path, text, name)


def test_what_does_not_matter_locally_is_listed_once(tmp_path: Path) -> None:
    text = (
        "default: {tags: [a], retry: 2}\n"
        "job: {script: [x], tags: [b], needs: [], image: {name: a, pull_policy: always}}\n"
    )
    assert sorted(job(tmp_path, text).ignored) == ["image:pull_policy", "tags"]


def test_includes_merge_below_the_including_file(tmp_path: Path) -> None:
    write(tmp_path, "ci/a.yml", "include: /ci/deep/c.yml\nvariables: {A: a, B: a}\njob: {script: [a], image: a}\n")
    write(tmp_path, "ci/b.yaml", "variables: {B: b}\n")
    write(tmp_path, "ci/deep/c.yml", "variables: {A: c, C: c}\n")
    read = job(tmp_path, "include: [ci/a.yml, {local: /ci/b.yaml}]\njob: {image: own}\n")
    values = dict(read.variables)
    assert (values["A"], values["B"], values["C"]) == ("a", "b", "c")
    assert (read.image, read.script) == ("own", ("a",))


def test_globs_include_in_order_and_reach_subfolders_with_two_stars(tmp_path: Path) -> None:
    for name in ("ci/b.yml", "ci/a.yml", "ci/sub/c.yml", ".git/ci/d.yml"):
        write(tmp_path, name, f"variables: {{LAST: {name}, {name[-5].upper()}: x}}\n")
    flat = dict(job(tmp_path, "include: ci/*.yml\njob: {script: [x]}\n").variables)
    assert (flat["LAST"], "C" in flat) == ("ci/b.yml", False)
    deep = dict(job(tmp_path, "include: '**.yml'\njob: {script: [x]}\n".replace("**.yml", "c**.yml")).variables)
    assert (deep["LAST"], "D" in deep) == ("ci/sub/c.yml", False)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("a/*.yml", "a/b.yml", True), ("a/*.yml", "a/b/c.yml", False), ("a/**.yml", "a/b/c.yml", True),
        ("a/**/*.yml", "a/b/c.yml", True), ("*", "", True), ("a.yml", "abyml", False), ("***", "a/b", True),
        ("*a*a*a*a*a*a*a*a*a*a*a*ab", "a" * 3000, False),
    ],
)  # fmt: skip
def test_glob_matching(pattern: str, path: str, expected: bool) -> None:
    assert project_files.matches(pattern, path) is expected


@pytest.mark.parametrize(
    ("include", "message"),
    [
        ("gone.yml", ':1: the included file "gone.yml" does not exist'),
        ("../out.yml", "leads out of the repository"),
        ("a/../../out.yml", "leads out of the repository"),
        ("link.yml", "link that leads out of the repository"),
        ("folder/out.yml", "link that leads out of the repository"),
        ("pipe.yml", "not a regular file"),
        ("loop.yml", "include each other in a circle\n.gitlab-ci.yml → loop.yml → loop.yml"),
        (".gitlab-ci.yml", "include each other in a circle"),
        ("empty.yml", "empty.yml: the file is empty"),
        ("list.yml", "list.yml:1: the file is a list"),
        ("text.txt", "must end in .yml or .yaml"),
        ("{project: a/b}", '"include: project" needs "file"'),
        ("{artifact: a, job: b}", '"include: artifact" is only for child pipelines'),
        ("{local: a.yml, remote: 'https://example.com/a.yml'}", "an include has both local and remote"),
        ("{local: list.yml, when: x}", 'an include has an unknown keyword "when"'),
        ("{local: list.yml, rules: [{if: a}]}", '"if" of a rule is no expression'),
        ("{local: list.yml, inputs: 3}", '"include: inputs" is a number'),
        ("{local: [a]}", '"include: local" is a list'),
        ("{}", "names no file"),
        ("[3]", "an include is a number"),
    ],
)
def test_includes_that_cannot_be(tmp_path: Path, include: str, message: str) -> None:
    root = tmp_path / "repository"
    write(tmp_path, "out.yml", "job: {script: [x]}")
    write(root, "loop.yml", "include: loop.yml")
    write(root, "empty.yml", "")
    write(root, "list.yml", "[a]")
    (root / "link.yml").symlink_to("../out.yml")
    (root / "folder").symlink_to("..")
    os.mkfifo(root / "pipe.yml")
    assert message in refusal(root, f"include: {include}\njob: {{script: [x]}}\n")


def test_a_link_inside_of_the_repository_is_followed(tmp_path: Path) -> None:
    write(tmp_path, "real/a.yml", "job: {script: [a]}")
    (tmp_path / "a.yml").symlink_to("real/a.yml")
    assert job(tmp_path, "include: a.yml").script == ("a",)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(code + 1)}: &{chr(code + 1)} [{','.join([f'*{chr(code)}'] * 9)}]\n" for code in range(97, 110)
)
REFERENCES = "".join(
    f".r{level}: {{s: [{', '.join([f'!reference [.r{level + 1}, s]'] * 20)}]}}\n" for level in range(9)
)
DEEP = "".join(f".d{level}: &d{level} {'[' * 60}{f'*d{level - 1}' if level else ''}{']' * 60}\n" for level in range(30))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ".gitlab-ci.yml: the file is empty"),
        ("---\n", "the file is empty"),
        ("- a\n", "the file is a list"),
        ("text", "the file is a string"),
        ("\tjob: x", ":1: not valid YAML"),
        ("1: {script: [x]}\n", ":1: a key is a number"),
        ("on: {script: [x]}\n", ":1: a key is a boolean"),
        ("? [a]\n: b\n", ":1: a key is a list"),
        ("a: *b\n", ":1: the alias *b has no anchor"),
        ("a: &a [*a]\n", ":1: the alias *a is inside its own anchor"),
        ("a: !ruby/object x\n", ":1: the tag !ruby/object is not supported"),
        ("a: !!binary aGk=\n", ":1: the tag !!binary is not supported"),
        ("a: b\n---\nc: d\n---\ne: f\n", ":4: more than 2 documents"),
        ("a: {<<: 3}\n", ":1: << needs a mapping"),
        ("a: " + "9" * 5000, ":1: a number of more than 100 digits"),
        (b"\x7fELF\x02\x01\x01\x00", "control character"),
        (b"a: b\n\xff\xfe", ":2: the file is not UTF-8"),
        (b"#" * 10_000_000, "larger than 2 MiB"),
        ("[" * 1_000_000, "nested more than 100 levels deep"),
        ("- a\n" * 300_000, "more than 200000 values"),
        (BOMB, ":6: the aliases here expand to more than 200000 values"),
        (DEEP, "nested more than 100 levels deep"),
        (REFERENCES + ".r9: {s: x}\njob: {script: !reference [.r0, s]}\n", "expand to more than 200000 values"),
        (f"a: &a {{a: 1}}\nb: {{<<: [{','.join(['*a'] * 150_000)}]}}\n", "more than 200000 values"),
        (f".a: {{script: [x]}}\njob: {{extends: [{','.join(['.a'] * 150_000)}]}}\n", "more than 200000 values"),
    ],
)
def test_hostile_and_odd_files_end_in_a_message_soon(tmp_path: Path, text: str | bytes, message: str) -> None:
    started = time.monotonic()
    assert message in refusal(tmp_path, text)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("text", [r'a: "\ud800"', r'a: "\U00110000"', "a: [", "\ta: b", "[" * 100_000, r'a: "\x"'])
def test_without_libyaml_odd_files_end_in_a_message_too(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    import yaml

    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    with pytest.raises(JobError):
        yaml_reader.parse(text.encode(), "f.yml", ci_values.Budget())


def test_a_missing_file_and_a_folder_are_said(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"there is no \.gitlab-ci\.yml"):
        ci_file.load(str(tmp_path))
    (tmp_path / ".gitlab-ci.yml").mkdir()
    with pytest.raises(JobError, match="not a regular file"):
        ci_file.load(str(tmp_path))


@given(st.text(alphabet="ab:-[]{}&*<!#|>'\"\n \t0,?%@`~.", max_size=60) | st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_no_content_ends_in_anything_but_a_value_or_a_message(content: str | bytes) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    with contextlib.suppress(Error):
        yaml_reader.parse(raw, "f.yml", ci_values.Budget())


def test_what_multiplies_in_one_job_is_refused(tmp_path: Path) -> None:
    many = "".join(f"  B{number}: $A$A\n" for number in range(1000))
    message = refusal(tmp_path, f"variables:\n  A: {'x' * 60_000}\n{many}job: {{script: x}}\n")
    assert "longer than 2 MiB together" in message
    message = refusal(tmp_path, f".a: &a {'x' * 100_000}\njob:\n  script:\n" + "  - *a\n" * 100)
    assert '"script" is longer than 4 MiB' in message


def test_the_example_is_read() -> None:
    example = Path(__file__).parents[2] / "examples/hello"
    pipeline = ci_file.load(str(example))
    assert pipeline.jobs == ("hello", "greet")
    assert {pipeline.job(name).image for name in pipeline.jobs} == {"bookworm"}
