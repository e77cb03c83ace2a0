"""What chroot-list says of what lies in the state folder."""

import json
from pathlib import Path

import pytest

from nspawn_runner.commands import chroot_list
from nspawn_runner.images import store
from nspawn_runner.output import human_age, human_size

OLD, NEW = "20261121T093015Z", "20261121T093016Z"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    for stamp in (OLD, NEW):
        (tmp_path / ".generations/web" / stamp).mkdir(parents=True)
        known = {"suite": "trixie", "size_bytes": 3 << 20, "created": 1000, "complete": True}
        (tmp_path / f".generations/web/{stamp}.json").write_text(json.dumps(known))
    (tmp_path / "web").symlink_to(f".generations/web/{NEW}")
    (tmp_path / "by-hand").mkdir()
    (tmp_path / f".generations/half/.{NEW}.new").mkdir(parents=True)
    (tmp_path / "broken").symlink_to(f".generations/broken/{OLD}")
    (tmp_path / ".generations/gone").mkdir()
    (tmp_path / "file").write_text("")
    return tmp_path


def rows(state: Path, **how: bool) -> dict[tuple[str, str], chroot_list.ImageRow]:
    wanted = {"older": False, "measure": False, **how}
    return {(row.name, row.state): row for row in chroot_list.listing(str(state), **wanted)}


def test_every_kind_of_image_is_told(state: Path) -> None:
    there = rows(state)
    assert list(there) == [("broken", "broken"), ("by-hand", "plain"), ("half", "half-made"), ("web", "current")]
    web = there["web", "current"]
    assert (web.suite, web.size_bytes, web.created) == ("trixie", 3 << 20, 1000)
    assert (web.generation, web.complete) == (NEW, True)
    assert not there["half", "half-made"].complete
    assert not there["broken", "broken"].complete


def test_older_generations_are_told_when_asked(state: Path) -> None:
    assert rows(state, older=True)["web", "old"].generation == OLD


def test_generations_that_no_link_names_are_told(state: Path) -> None:
    (state / "web").unlink()
    assert ("web", "unpublished") in rows(state)


def test_a_half_made_image_is_no_image(state: Path) -> None:
    assert store.names(str(state)) == ["by-hand", "web"]
    assert store.find(str(state), "half") is None


def test_the_table_is_aligned(state: Path) -> None:
    lines = chroot_list.table(list(rows(state).values()), 1000 + 3 * 86400)
    assert lines[0].split() == ["NAME", "SUITE", "SIZE", "AGE", "GENERATION", "STATE"]
    assert lines[-1] == f"web      trixie  3 MiB  3 days  {NEW}  complete"


@pytest.mark.parametrize(
    ("size", "said"), [(None, "-"), (0, "0 MiB"), (310 << 20, "310 MiB"), (1 << 30, "1.0 GiB"), (5 << 29, "2.5 GiB")]
)
def test_sizes(size: int | None, said: str) -> None:
    assert human_size(size) == said


@pytest.mark.parametrize(
    ("age", "said"), [(-5, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172800, "2 days"), (86400, "24 h")]
)
def test_ages(age: float, said: str) -> None:
    assert human_age(age) == said


@pytest.mark.parametrize("text", ["20261121T093015Z"])
def test_stamps(text: str) -> None:
    assert store.is_stamp(text)


@pytest.mark.parametrize("text", ["", "20261121T093015", f"{NEW}.json", f".{NEW}", "2026112xT093015Z"])
def test_no_stamps(text: str) -> None:
    assert not store.is_stamp(text)
