"""How an image changes, on a small tree: published in one step, and nothing left whatever happens between."""

import os
import threading
from pathlib import Path

import pytest

from nspawn_runner.errors import Cancelled, HostError
from nspawn_runner.host import locks, process, trees
from nspawn_runner.images import changes, generations, store


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with an image `web` that was made by hand."""
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state/web/etc").mkdir(parents=True)
    (tmp_path / "state/web/etc/version").write_text("0")
    return tmp_path / "state"


def change(state: Path, version: str, *used: str) -> store.Image:
    with changes.copy_to_change(str(state), "web") as (image, draft):
        (Path(draft.root) / "etc/version").write_text(version)
        return changes.publish_change(str(state), image, draft, lambda: list(used))


def version(state: Path) -> str:
    return (state / "web/etc/version").read_text()


def left(state: Path) -> list[str]:
    return sorted(os.listdir(state / ".generations/web"))


def test_every_change_is_a_generation_and_three_are_kept(state: Path) -> None:
    stamps = [change(state, str(number)).generation for number in range(1, 6)]
    assert stamps == sorted(set(stamps))
    assert version(state) == "5"
    assert [image.generation for image in store.generations(str(state), "web")] == stamps[:1:-1]
    assert left(state) == sorted(stamps[2:] + [f"{stamp}.json" for stamp in stamps[2:]])


def test_a_plain_folder_is_the_generation_before_the_first_change(state: Path) -> None:
    change(state, "1")
    first = store.generations(str(state), "web")[1]
    assert (Path(first.root) / "etc/version").read_text() == "0"
    assert store.facts(first)["complete"] is True


def test_a_generation_is_later_than_the_one_before_whatever_the_clock_says(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(state / "web", (1 << 32, 1 << 32))
    made = [change(state, "1")]
    monkeypatch.setattr("time.time", lambda: 1e9)
    made += [change(state, "2"), change(state, "3")]
    there = store.generations(str(state), "web")
    assert [each.generation for each in there[:3]] == [each.generation for each in reversed(made)]
    when = [store.facts(each)["created"] for each in there]
    assert when == sorted(set(when), reverse=True)


def test_a_folder_of_any_date_becomes_a_generation_before_the_first(state: Path) -> None:
    os.utime(state / "web", (-(1 << 33), -(1 << 33)))
    change(state, "1")
    there = store.generations(str(state), "web")
    assert [(Path(each.root) / "etc/version").read_text() for each in there] == ["1", "0"]


def test_a_generation_that_is_read_stays(state: Path) -> None:
    change(state, "1")
    with changes.reading(str(state), "web") as image:
        for number in range(2, 7):
            change(state, str(number))
        assert (Path(image.root) / "etc/version").read_text() == "1"
        with pytest.raises(locks.Busy, match="exported or cloned"), generations.changing(str(state), "web"):
            generations.remove(str(state), "web")
        assert version(state) == "6"
    change(state, "7")
    assert not os.path.exists(image.root)


def test_each_generation_has_a_size_of_its_own(state: Path) -> None:
    with changes.copy_to_change(str(state), "web") as (image, draft):
        (Path(draft.root) / "big").write_bytes(os.urandom(1 << 20))
        changes.publish_change(str(state), image, draft, lambda: [])
    change(state, "2")
    sizes = [store.facts(image)["size_bytes"] for image in store.generations(str(state), "web")]
    assert sizes[0] == sizes[1] >= sizes[2] + (1 << 20)


def test_jobs_do_not_wait_until_the_size_is_counted(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(state, "1")
    with monkeypatch.context() as patched:
        patched.setattr(trees, "size_bytes", cancel)
        with pytest.raises(Cancelled):
            change(state, "2")
    assert version(state) == "2"
    [newest, *_] = store.generations(str(state), "web")
    assert store.facts(newest)["complete"] is True
    assert "size_bytes" not in store.facts(newest)
    with generations.changing(str(state), "web"):
        generations.publish(str(state), newest)
    assert store.facts(newest)["size_bytes"] > 0


def cancel(_path: str) -> int:
    raise Cancelled(15)


def test_while_a_machine_runs_from_what_was_a_plain_folder_all_stay(state: Path) -> None:
    for number in range(1, 6):
        change(state, str(number), str(state / "web"))
    assert len(store.generations(str(state), "web")) == 6


def test_a_generation_in_use_stays(state: Path) -> None:
    used = change(state, "1").root
    for number in range(2, 7):
        change(state, str(number), used)
    assert used in [image.root for image in store.generations(str(state), "web")]
    assert len(store.generations(str(state), "web")) == 4


@pytest.mark.parametrize("failure", [HostError("no"), OSError(5, "no"), Cancelled(15), KeyboardInterrupt()])
def test_whatever_goes_wrong_nothing_is_left(state: Path, failure: BaseException) -> None:
    with pytest.raises(type(failure)), changes.copy_to_change(str(state), "web"):
        raise failure
    assert version(state) == "0"
    assert not (state / ".generations/web").exists()
    assert os.listdir(state / ".generations") == []


def test_what_a_killed_change_left_goes_with_the_next(state: Path) -> None:
    change(state, "1")
    folder = state / ".generations/web"
    (folder / ".20200101T000000Z.new/etc").mkdir(parents=True)
    (folder / ".20200101T000001Z.old").mkdir()
    (folder / "20200101T000002Z.json").write_text("{}")
    (folder / "20200101T000003Z").symlink_to("nowhere")
    (folder / ".link").symlink_to("nowhere")
    assert len(store.generations(str(state), "web")) == 2
    change(state, "2")
    assert [name for name in left(state) if name.startswith((".", "2020"))] == []


def test_a_generation_that_was_never_published_is_no_image(state: Path) -> None:
    with generations.changing(str(state), "new"), generations.draft(str(state), "new") as draft:
        trees.make(draft.root)
        made = generations.complete(str(state), draft, {})
    assert store.find(str(state), "new") is None
    with generations.changing(str(state), "new"):
        generations.remove_unpublished(str(state), "new")
    assert not os.path.exists(os.path.dirname(made.root))


def test_a_link_made_by_hand_is_not_changed(state: Path) -> None:
    (state / "alias").symlink_to(state / "web")
    with pytest.raises(HostError, match="made by hand"), changes.copy_to_change(str(state), "alias"):
        pass
    with generations.changing(str(state), "alias"):
        generations.remove(str(state), "alias")
    assert not os.path.lexists(state / "alias")
    assert version(state) == "0"


def test_two_changes_at_once_are_refused(state: Path) -> None:
    with (
        changes.copy_to_change(str(state), "web"),
        pytest.raises(HostError, match="in use by another process"),
        changes.copy_to_change(str(state), "web"),
    ):
        pass


def test_a_tree_with_links_out_is_copied_and_removed_as_it_is(state: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("untouched")
    (state / "web/out").symlink_to(outside)
    (state / "web/etc/resolv.conf").symlink_to(outside / "file")
    change(state, "1")
    assert os.readlink(state / "web/out") == str(outside)
    with generations.changing(str(state), "web"):
        generations.remove(str(state), "web")
    assert (outside / "file").read_text() == "untouched"
    assert not os.path.lexists(state / "web")


def test_a_full_disk_is_told_from_other_failures(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="is full") as raised, trees.full_disk_told(str(tmp_path)):
        raise OSError(28, "No space left on device")
    assert "MiB free" in raised.value.facts
    with pytest.raises(HostError, match="else"), trees.full_disk_told(str(tmp_path)):
        raise HostError("something else")


def test_the_generation_before_is_never_dropped(state: Path) -> None:
    """Even when it is old, as after going back twice: the next change starts from there."""
    stamps = [change(state, str(number)).generation for number in range(1, 4)]
    first = store.Image("web", stamps[0], str(state / ".generations/web" / stamps[0]))
    with generations.changing(str(state), "web"):
        generations.publish(str(state), first)
    change(state, "4")
    assert stamps[0] in [image.generation for image in store.generations(str(state), "web")]


def test_facts_of_a_wrong_type_are_left_out(state: Path) -> None:
    made = change(state, "1")
    Path(f"{made.root}.json").write_text('{"keep": "3", "aliases": null, "run": 5, "suite": ["x"], "created": 7}')
    assert store.facts(made) == {"run": 5, "created": 7}


def test_a_removal_that_was_killed_is_taken_up(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = change(state, "1")
    for number in ("2", "3"):
        change(state, number)

    def killed(_: str) -> None:
        raise Cancelled(9)

    for function in ("files.remove_file", "trees.remove"):
        with monkeypatch.context() as patch:
            patch.setattr(f"nspawn_runner.images.generations.{function}", killed)
            with pytest.raises(Cancelled):
                generations._remove_generation(made.root)
        assert made.generation not in [image.generation for image in store.generations(str(state), "web")]
        with generations.changing(str(state), "web"):
            generations.remove_leftovers(str(state), "web")
        assert [name for name in left(state) if made.generation in name] == []
        made = store.generations(str(state), "web")[-1]


def test_a_draft_of_facts_that_was_left_goes_with_the_next_change(state: Path) -> None:
    made = change(state, "1")
    Path(f"{made.root}.json.4711.new").write_text("{")
    change(state, "2")
    assert [name for name in left(state) if name.endswith(".new")] == []
    assert store.facts(made)


def test_a_long_copy_is_written_to_disk_meanwhile(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    enough = threading.Event()
    run = process.run

    def write_out(path: str) -> None:
        written.append(path)
        if len(written) == 3:
            enough.set()
            raise HostError("a disk that fails is told at the end")

    def long_copy(argv: list[str]) -> object:
        done = run(argv)
        assert enough.wait(30)
        return done

    threads = threading.active_count()
    monkeypatch.setattr(trees, "_WRITE_SECONDS", 0.001)
    monkeypatch.setattr(trees, "write_out", write_out)
    monkeypatch.setattr(process, "run", long_copy)
    monkeypatch.setattr(trees, "make", os.mkdir)
    monkeypatch.setattr(trees, "is_subvolume", lambda _: False)
    trees.copy(str(state / "web"), str(state / "copy"))
    assert written == [str(state / "copy")] * 3
    assert (state / "copy/etc/version").read_text() == "0"
    assert threading.active_count() == threads
