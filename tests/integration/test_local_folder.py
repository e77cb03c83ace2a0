"""What a job's archive can do where its artifacts are unpacked: nothing outside of its folder."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from nspawn_runner.errors import JobError
from nspawn_runner.host.owners import Owner
from nspawn_runner.jobs import artifact_files
from nspawn_runner.jobs.local_folder import LocalFolder
from nspawn_runner.pipeline.ci_job import Artifacts


def archive(path: Path, outside: Path) -> str:
    """Write an archive whose members lead out of the folder, or would be more than files."""
    with tarfile.open(path, "w") as tar:
        def add(name: str, content: bytes = b"evil", **fields: object) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            tar.addfile(member, io.BytesIO(content) if member.isreg() else None)

        add("good", b"good")
        add("../up", b"evil")
        add(f"{outside}/absolute", b"evil")
        add("door", b"", type=tarfile.SYMTYPE, linkname=str(outside))
        add("door/through", b"evil")
        add("hard", b"", type=tarfile.LNKTYPE, linkname=str(outside / "secret"))
        add("device", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3)
        add("setuid", b"evil", mode=0o6755)
        add(".git/hooks/post-checkout", b"evil", mode=0o755)
    return str(path)


@pytest.mark.parametrize("uid", [0, 65534])
def test_an_archive_stays_in_its_folder(tmp_path: Path, uid: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root acts as others")
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o777)
    outside.chmod(0o777)
    (outside / "secret").write_text("secret")
    project = tmp_path / "project"
    project.mkdir()
    os.chown(project, uid, uid)
    for parent in [tmp_path, *tmp_path.parents][:4]:  # below /tmp, or beside other workers
        parent.chmod(parent.stat().st_mode | 0o055)
    folder = LocalFolder(str(project / "left"), Owner(uid, uid, ()) if uid else None)
    os.close(folder.begin("a job/../x"))
    problem = folder.unpack("a job/../x", archive(tmp_path / "a.tar", outside), "artifacts")
    assert problem
    place = Path(folder.of("a job/../x"))
    assert place.parent == project / "left"
    there = {str(path.relative_to(place)) for path in place.rglob("*")}
    assert (place / "artifacts/good").read_text() == "good"
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    assert (outside / "secret").read_text() == "secret"
    assert sorted(path.name for path in project.iterdir()) == ["left"]
    assert not any(name.startswith("artifacts/.git") for name in there)
    for name in there:
        mode = (place / name).lstat().st_mode
        assert not stat.S_ISCHR(mode), name
        assert not mode & 0o6000, name
        assert (place / name).lstat().st_uid == uid


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "link").symlink_to("private")
    with pytest.raises(JobError, match="is not a folder"):
        LocalFolder(str(tmp_path / "link"), None)
    (tmp_path / "left").mkdir()
    (tmp_path / "left/.gitignore").symlink_to("../private/file")
    with pytest.raises(JobError, match="cannot write"):
        LocalFolder(str(tmp_path / "left"), None)
    (tmp_path / "left/.gitignore").unlink()
    folder = LocalFolder(str(tmp_path / "left"), None)
    (tmp_path / "left/job").symlink_to("../private")
    os.close(folder.begin("job"))
    assert not list((tmp_path / "private").iterdir())


def test_each_job_has_a_folder_of_its_own(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path / "left"), None)
    jobs = ["test", "test: [a, b]", "test-a-b", "тест", "сборка", "x" * 150, "x" * 151]
    places = [folder.of(job) for job in jobs]
    assert len(set(places)) == len(jobs)
    assert [folder.of(job) for job in jobs] == places
    assert places[:2] == [str(tmp_path / "left/test"), str(tmp_path / "left/test-a-b")]


def test_artifacts_that_have_no_place_are_told(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path / "left"), None)
    assert "No such file" in folder.unpack("gone", archive(tmp_path / "a.tar", tmp_path), "artifacts")


def test_what_the_machine_leaves_is_taken_only_as_plain_files(tmp_path: Path) -> None:
    results = str(tmp_path / "results")
    shared = Path(artifact_files.make_shared(results))
    (shared / "artifacts.tar").symlink_to("/etc/passwd")
    with pytest.raises(JobError, match="something else"):
        artifact_files.take(results)
    assert not os.path.lexists(f"{results}/artifacts.tar")
    (shared / "files").symlink_to("/etc/passwd")
    with pytest.raises(JobError, match="list of the job's files"):
        artifact_files.choose(Artifacts(("a",)), str(shared), {})
    (shared / "artifacts.tar").write_bytes(b"x")
    os.link(shared / "artifacts.tar", shared / "second")
    with pytest.raises(JobError, match="something else"):
        artifact_files.take(results)


@pytest.mark.parametrize("content", [b"a\0" * 200_001, b"\0" * (64 << 20)], ids=["many files", "a full list"])
def test_a_list_of_too_many_files_is_refused_whole(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "files").write_bytes(content)
    with pytest.raises(JobError, match="more than 200000 files"):
        artifact_files.choose(Artifacts(("a",)), str(tmp_path), {})
