"""What cannot be looked at is not taken for gone."""

import errno
import os
from pathlib import Path

import pytest

from nspawn_runner.host import files


@pytest.mark.parametrize("number", [errno.EPERM, errno.EIO])
def test_a_tree_that_cannot_be_looked_at_is_not_told_as_removed(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(_: str) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "lstat", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        files.remove_tree("/nonesuch")


def test_a_tree_that_is_not_there_is_removed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    files.remove_tree(str(tmp_path / "nonesuch"))
    files.remove_tree(str(tmp_path / "file/nonesuch"))
