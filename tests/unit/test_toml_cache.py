"""What a TOML text says is remembered, and never told of another text."""

import json
import os
import tomllib
from pathlib import Path

import pytest

from nspawn_runner.errors import HostError
from nspawn_runner.settings import cache, parse

TEXT = """keep_failed = "2h"
[limits]
cpus = 1.5
tasks_max = 100
[[policy]]
projects = ["group/*", "ä"]
protected = true
"""


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "RUN_FOLDER", str(tmp_path))
    monkeypatch.setattr(cache, "FILE", str(tmp_path / "settings"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path / "settings"


def test_the_second_time_it_is_remembered(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cache.loads(TEXT)
    assert file.stat().st_mode & 0o777 == 0o600
    monkeypatch.delattr(tomllib, "loads")
    assert cache.loads(TEXT) == first
    with pytest.raises(AttributeError):
        cache.loads(TEXT + " ")


def test_types_stay_what_they_are(file: Path) -> None:
    text = "a = 1\nb = 1.0\nc = true\nd = inf\ne = [1, [2.5]]\nf = {g = 'ä\\u0000'}\nh = 9223372036854775807"
    expected = repr(tomllib.loads(text))
    assert [repr(cache.loads(text)) for _ in range(3)] == [expected] * 3
    assert file.exists()


@pytest.mark.parametrize("text", ["a = 1979-05-27", "a = 07:32:00", "a = 1979-05-27T07:32:00Z"])
def test_a_time_is_not_remembered(file: Path, text: str) -> None:
    assert [cache.loads(text) for _ in range(2)] == [tomllib.loads(text)] * 2
    assert os.listdir(file.parent) == []


def test_a_wrong_text_is_told_each_time(file: Path) -> None:
    cache.loads(TEXT)
    said = set()
    for _ in range(2):
        with pytest.raises(HostError) as told:
            parse.parse(b"a = ", "x.toml", cache.loads)
        said.add(str(told.value.facts))
    assert len(said) == 1
    assert cache.loads(TEXT)["keep_failed"] == "2h"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "7", "null", '{"text": 5}', json.dumps({"text": TEXT, "data": 5}), "\0"]
)
def test_what_cannot_be_understood_is_written_anew(file: Path, content: str) -> None:
    file.write_text(content)
    assert cache.loads(TEXT) == tomllib.loads(TEXT)
    assert json.loads(file.read_text()) == {"text": TEXT, "data": tomllib.loads(TEXT)}


def test_it_does_without(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.mkdir()
    assert cache.loads(TEXT) == tomllib.loads(TEXT)
    assert os.listdir(file.parent) == ["settings"]
    file.rmdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 1000)
        assert cache.loads(TEXT) == tomllib.loads(TEXT)
    monkeypatch.setattr(cache, "RUN_FOLDER", str(file.parent / "none"))
    assert cache.loads(TEXT) == tomllib.loads(TEXT)
    assert os.listdir(file.parent) == []
