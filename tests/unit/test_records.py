"""What is noted of a machine's job."""

from pathlib import Path

import pytest

from nspawn_runner.machines import notes, records

MACHINE = "run-1"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "RUN_FOLDER", str(tmp_path))
    (tmp_path / MACHINE).mkdir()


def test_nothing_has_failed_yet() -> None:
    assert notes.failure(MACHINE) == ""
    notes.note_result(MACHINE, "get_sources", "success")
    assert notes.failure(MACHINE) == ""


def test_the_first_failure_stays() -> None:
    notes.note_result(MACHINE, "build_script", "canceled")
    notes.note_result(MACHINE, "upload_artifacts_on_failure", "failed")
    notes.note_result(MACHINE, "cleanup_file_variables", "success")
    assert notes.failure(MACHINE) == "canceled"


def test_a_second_try_that_succeeds() -> None:
    notes.note_result(MACHINE, "get_sources", "system failure")
    notes.note_result(MACHINE, "get_sources", "success")
    assert notes.failure(MACHINE) == ""


@pytest.mark.parametrize("trace", ["", "removal"])
def test_a_machine_that_is_gone_or_goes(tmp_path: Path, trace: str) -> None:
    folder = tmp_path / MACHINE
    (folder / trace).touch() if trace else folder.rmdir()
    notes.note_result(MACHINE, "build_script", "failed")
    assert notes.failure(MACHINE) == ""
    assert [path.name for path in tmp_path.rglob("*") if path != folder] == ([trace] if trace else [])
