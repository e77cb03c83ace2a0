"""Ten thousand odd payloads, pipelines and playbooks: each ends in a valid result or in a message, never otherwise."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from nspawn_runner.errors import Error
from nspawn_runner.gitlab import job as jobs
from nspawn_runner.images import lookup, spec
from nspawn_runner.images.ansible import playbooks
from nspawn_runner.images.ansible.playbooks import Playbook
from nspawn_runner.pipeline import ci_file
from nspawn_runner.pipeline import keywords as ci_keywords
from nspawn_runner.pipeline.event import Event
from nspawn_runner.settings.machine_settings import problems_of

PAYLOAD: dict[str, Any] = {
    "id": 4711,
    "job_info": {"name": "test", "project_id": 12, "project_name": "p"},
    "git_info": {"repo_url": "https://ci-token:secret@gitlab.example.com:8443/group/x.git", "protected": True},
    "runner_info": {"timeout": 3600},
    "variables": [{"key": "CI_COMMIT_REF_PROTECTED", "value": "true"}, {"key": "CI_SERVER_HOST", "value": "x"}],
    "image": {"name": "registry.example.com/debian:bookworm"},
    "services": [{"name": "redis"}],
}
PIPELINE = """
include: []
default: {image: bookworm, before_script: [a]}
variables: {A: b, B: {value: "$A", expand: false}}
.base: &base {script: [x, [y]], variables: {C: $B}}
one: {extends: .base, inherit: {variables: [A]}, stage: test}
stages: [build, test]
workflow: {rules: [{if: $CI && $A != "x", variables: {E: f}}, {when: always}]}
two:
  <<: *base
  image: {name: $A, entrypoint: [""]}
  after_script: [!reference [.base, script]]
  rules: [{if: $CI =~ /t.+e/i, changes: ["**/*.{c,h}"], variables: {D: e}, allow_failure: true}, {when: manual}]
three: {script: x, needs: [one, {job: two, optional: true}], parallel: {matrix: [{P: [1, b], Q: c}]}, timeout: 1h 30m,
        artifacts: {paths: [a/], exclude: ["*.o"], reports: {dotenv: v.env}}, retry: {max: 1, when: [script_failure]},
        environment: {name: prod/$A, url: "https://$A"}, only: {refs: [main, /^v/], variables: [$A]},
        allow_failure: {exit_codes: [3]}}
"""
PLAYBOOK = """
- hosts: all
  vars: &vars
    nspawn_runner_chroot_suite: trixie
    nspawn_runner_chroot_packages: [git, curl]
    nspawn_runner_maint_max_age: 4w
    nspawn_runner_run_memory_max: 4G
    other: "{{ x }}"
"""
# Most of what is read looks for a few words; by chance alone none of them would ever be met.
WORDS = ["bookworm", "$A", "${A}", "$$", "true", "4G", "../x", "/etc", "a\0b", "\x1b[31m", "\ud800", "ü", "%n", ""]
MARKS = [*(bytes([byte]) for byte in b"\0\n\t :,-?!&*#|>%@`'\"[]{}\\<\x7f\x85\xff"), b"\n- ", b"<<: ", b"!!binary ",
         b"!reference ", b"&a ", b"*a", b"---\n", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"1e999", b"0x_", b"2001-02-30",
         b"1:60", b".inf", b"9" * 500, b"[" * 1200]  # fmt: skip


def cases(number: int) -> settings:
    """That many of them; a slow one is no mistake on a machine that does other things too."""
    return settings(max_examples=number, deadline=None, suppress_health_check=list(HealthCheck))


def values(*words: str) -> SearchStrategy[Any]:
    """Values as JSON has them, with ``words`` among their texts and keys."""
    texts = st.sampled_from([*WORDS, *words]) | st.text(max_size=8)
    numbers = st.sampled_from([0, -1, 1, 10**30, 1e400, -0.0, float("nan")]) | st.integers()
    return st.recursive(
        st.none() | st.booleans() | numbers | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=4,
    )


def changed(valid: bytes) -> SearchStrategy[bytes]:
    """What is valid with pieces of it put elsewhere or replaced by a few odd bytes; at times nothing but such bytes."""
    pieces = st.sampled_from(MARKS) | st.binary(max_size=6)
    places = st.integers(0, len(valid))

    def cut(changes: list[tuple[int, int, bytes]]) -> bytes:
        content = valid
        for start, length, piece in changes:
            content = content[:start] + piece + content[start + length :]
        return content

    changes = st.lists(st.tuples(places, st.integers(0, 12), pieces), min_size=1, max_size=4)
    return changes.map(cut) | st.lists(pieces, max_size=12).map(b"".join)


def message(error: Error) -> None:
    """Check the form of a message."""
    lines = error.lines()
    assert 1 <= len(lines) <= 3
    assert all(line and line.isprintable() for line in lines)


def write(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.write_bytes(content)
    path.chmod(0o644)
    return str(path)


# Payloads


def read_payload(read: Callable[[], jobs.Job]) -> None:
    try:
        job = read()
    except Error as error:
        message(error)
        return
    assert job.id.isascii()
    assert job.id.isdigit()
    # Folders are named after these two.
    assert len(job.project) <= 20
    assert len(job.server) <= 100
    assert "/" not in job.server
    assert job.timeout_seconds is None or 0 < job.timeout_seconds < 2**40
    if lookup.is_plausible(job.image):
        found = lookup.local_name(job.image, mapping={"deb*": "sid", "[!a-": "sid"}, there=["bookworm", "sid"])
        assert found in {None, "bookworm", "sid"}


FIELDS = {
    name: values(*inner)
    for name, inner in {
        "id": [], "job_info": ["project_id"], "git_info": ["repo_url", "protected", "http://x/y"],
        "runner_info": ["timeout"], "variables": ["key", "value", "CI_SERVER_HOST"], "image": ["name"],
        "services": ["name"],
    }.items()
}  # fmt: skip


@pytest.mark.parametrize("field", [*PAYLOAD, "repo_url", "project_id", "timeout", "name"])
def test_payloads_with_other_values(field: str) -> None:
    outer = {"repo_url": "git_info", "project_id": "job_info", "timeout": "runner_info", "name": "image"}.get(field)

    @cases(300)
    @given(FIELDS.get(field, values("http://a@b/c", "x" * 300)))
    def check(value: Any) -> None:
        inside = {**PAYLOAD[outer], field: value} if outer else value
        read_payload(lambda: jobs.from_payload({**PAYLOAD, outer or field: inside}, "f"))

    check()


@cases(2200)
@given(changed(json.dumps(PAYLOAD).encode()))
def test_payloads_with_other_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = write(tmp_path_factory.getbasetemp(), "payload", content)
    read_payload(lambda: jobs.from_environment({"JOB_RESPONSE_FILE": file}))


# Pipelines


def read_pipeline(folder: Path, content: bytes) -> None:
    write(folder, ".gitlab-ci.yml", content)
    try:
        pipeline = ci_file.load(str(folder))
    except Error as error:
        message(error)
        return
    for name in [*pipeline.jobs, ".base"]:
        try:
            job = pipeline.job(name, {"D": "given"}, predefined={"CI": "true"}, event=Event(ref="main"))
        except Error as error:
            message(error)
            continue
        texts = [text for pair in job.variables for text in pair]
        texts += [*job.before_script, *job.script, *job.after_script, job.stage, job.image or ""]
        assert all(type(text) is str and "\0" not in text for text in texts)


KEYWORDS = [
    *sorted(ci_keywords.JOB - {"hooks", "identity"}), "default", "include", "workflow", "stages", "value", "expand",
    "name", "entrypoint", "one", ".base", "if", "changes", "exists", "matrix", "paths", "refs", "job", "exit_codes",
    "max", "$A == 'b'", "$A =~ /b/", "**/*", "never", "always", "main", "1h",
]  # fmt: skip


@cases(1600)
@given(st.dictionaries(st.sampled_from(KEYWORDS), values(*KEYWORDS), max_size=4), st.booleans(), st.booleans())
@example({"extends": [], "variables": {"A": "$A"}}, False, False)
@example({"image": "a\0b"}, False, False)
def test_pipelines_with_other_values(
    tmp_path_factory: pytest.TempPathFactory, keywords: dict[str, Any], top: bool, references: bool
) -> None:
    base = {"script": ["x"], "variables": {"A": "b"}}
    content: dict[str, Any] = {".base": base, "one": {"script": "x", "extends": ".base"}}
    if top:
        content |= keywords
    else:
        content["one"] = {**content["one"], **keywords}
    text = json.dumps(content)
    if references:
        text = text.replace("[", "!reference [")
    folder = tmp_path_factory.getbasetemp() / "pipeline"
    folder.mkdir(exist_ok=True)
    read_pipeline(folder, text.encode())


@cases(1600)
@given(changed(PIPELINE.encode()))
def test_pipelines_with_other_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "pipeline"
    folder.mkdir(exist_ok=True)
    read_pipeline(folder, content)


# Playbooks


@pytest.fixture
def owned(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for playbooks that count as root's, whoever runs the tests."""
    monkeypatch.setattr(playbooks, "OWNER", os.getuid())
    folder = tmp_path_factory.mktemp("playbooks")
    folder.chmod(0o755)
    return folder


def read_playbook(folder: Path, content: bytes) -> None:
    problems: list[str] = []
    file = write(folder, "web.yaml", content)
    try:
        made = spec.read(Playbook("web", file), problems, lambda run: problems_of(run, {}))
    except Error as error:
        message(error)
        return
    assert all(problem.startswith(f"{file}:") for problem in problems)
    if not problems:
        assert made.image == "web"
        assert made.base_digest
        assert made.digest


@cases(650)
@given(st.data())
def test_playbooks_with_other_values(owned: Path, data: st.DataObject) -> None:
    given_values = values("{root}", "12h", "main", "x y")
    own = data.draw(st.dictionaries(st.sampled_from(spec.VARIABLES), given_values, max_size=4))
    other = data.draw(values("vars", "hosts"))
    play = {"hosts": "all", "vars": own, "tasks": other} if own else other
    read_playbook(owned, json.dumps([play]).encode())


@cases(650)
@given(changed(PLAYBOOK.encode()))
def test_playbooks_with_other_bytes(owned: Path, content: bytes) -> None:
    read_playbook(owned, content)
