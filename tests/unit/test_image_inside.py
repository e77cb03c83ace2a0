"""No link that a tree holds leads root out of it."""

import os
import stat
from pathlib import Path

import pytest

from nspawn_runner.errors import HostError
from nspawn_runner.host import tree_files


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "passwd").write_text("untouched")
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "etc").mkdir(parents=True)
    return root


def test_a_linked_folder_is_refused(tree: Path, outside: Path) -> None:
    (tree / "etc").rmdir()
    (tree / "etc").symlink_to(outside)
    for act in (
        lambda: tree_files.write(str(tree), "etc/passwd", b"evil"),
        lambda: tree_files.link(str(tree), "etc/passwd", "x"),
        lambda: tree_files.remove(str(tree), "etc/passwd"),
        lambda: tree_files.remove_files(str(tree), "etc"),
        lambda: tree_files.set_old(str(tree), "etc"),
        lambda: tree_files.read(str(tree), "etc/passwd"),
    ):
        with pytest.raises(HostError, match="not a plain folder"):
            act()
    assert (outside / "passwd").read_text() == "untouched"


def test_a_linked_file_is_replaced_and_its_target_stays(tree: Path, outside: Path) -> None:
    (tree / "etc/passwd").symlink_to(outside / "passwd")
    tree_files.write(str(tree), "etc/passwd", b"new", mode=0o640)
    assert (tree / "etc/passwd").read_bytes() == b"new"
    assert stat.S_IMODE((tree / "etc/passwd").stat().st_mode) == 0o640
    assert (outside / "passwd").read_text() == "untouched"


def test_dot_dot_is_no_way_out(tree: Path, outside: Path) -> None:
    tree_files.write(str(tree), "etc/deep/er/file", b"x")
    (tree / "etc/up").symlink_to("../../outside")
    with pytest.raises(HostError):
        tree_files.write(str(tree), "etc/up/passwd", b"evil")
    assert (tree / "etc/deep/er/file").read_bytes() == b"x"


def test_what_was_read_can_be_put_back(tree: Path) -> None:
    path = tree / "etc/resolv.conf"
    for make in (
        lambda: path.write_bytes(b"nameserver 192.0.2.1\n"),
        lambda: path.symlink_to("../run/systemd/resolve/stub-resolv.conf"),
        lambda: None,
    ):
        make()
        before = tree_files.read(str(tree), "etc/resolv.conf")
        tree_files.write(str(tree), "etc/resolv.conf", b"the host's")
        assert tree_files.read(str(tree), "etc/resolv.conf") != before
        tree_files.put_back(str(tree), "etc/resolv.conf", before)
        assert tree_files.read(str(tree), "etc/resolv.conf") == before
        path.unlink(missing_ok=True)


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tree: Path) -> None:
    os.mkfifo(tree / "etc/resolv.conf")
    assert tree_files.read(str(tree), "etc/resolv.conf").content == b""


def test_removes_files_but_no_folders(tree: Path) -> None:
    (tree / "lists/partial").mkdir(parents=True)
    (tree / "lists/one").write_text("1")
    (tree / "lists/two").symlink_to("partial")
    tree_files.remove_files(str(tree), "lists")
    assert os.listdir(tree / "lists") == ["partial"]


def test_makes_a_folder_old(tree: Path) -> None:
    tree_files.set_old(str(tree), "etc")
    assert (tree / "etc").stat().st_mtime == 0
