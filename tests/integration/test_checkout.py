# ruff: noqa: S607
"""Packing a folder with real git, and cloning from the bundle as the machine does."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nspawn_runner.errors import JobError, UsageError
from nspawn_runner.pipeline import checkout, ci_file, predefined, scripts
from nspawn_runner.pipeline import project as ci_project
from nspawn_runner.pipeline.checkout import Checkout
from nspawn_runner.pipeline.predefined import RunFacts

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{role}_{key}": "t@t" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")},
}


def git(folder: Path, *arguments: str) -> str:
    configuration = ["-c", "safe.directory=*", "-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main"]
    argv = ["git", *configuration, *arguments]
    return subprocess.run(argv, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of two commits on main, with an ignored file and a subfolder."""
    folder = tmp_path / "repository"
    (folder / "sub").mkdir(parents=True)
    git(folder, "init", "--quiet")
    (folder / "file").write_text("one\n")
    (folder / ".gitignore").write_text("*.log\n")
    (folder / "sub/inner").write_text("inner\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    (folder / "file").write_text("two\n")
    git(folder, "commit", "--quiet", "-am", "second")
    return folder


def clone(folder: Path, *, dirty: bool = False, depth: int = 0) -> tuple[Path, Checkout]:
    """Pack ``folder`` and run the script that gets the sources; return the clone."""
    place = folder.parent / f"out-{folder.name}"
    place.mkdir(exist_ok=True)
    bundle = place / "bundle"
    packed = checkout.pack(str(folder), str(bundle), dirty=dirty)
    project = place / "project"
    script = scripts.get_sources(
        str(bundle),
        str(project),
        sha=packed.sha,
        ref=packed.ref,
        tag=packed.tag,
        shallow=packed.shallow,
        remote=packed.remote,
        depth=depth,
    )
    done = subprocess.run(["bash"], input=script, env=ENVIRONMENT, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert git(project, "rev-parse", "HEAD") == packed.sha
    assert git(project, "status", "--porcelain") == ""
    assert sorted(os.listdir(place)) == ["bundle", "project"]
    return project, packed


def files(project: Path) -> set[str]:
    return set(git(project, "ls-files").split("\n"))


def state(folder: Path) -> tuple[str, str, bytes]:
    """What a run must leave alone: status, references, the index to the byte."""
    status = git(folder, "status", "--porcelain", "--ignored")
    return status, git(folder, "show-ref"), (folder / ".git/index").read_bytes()


def make_dirty(folder: Path) -> None:
    (folder / "file").write_text("three\n")
    (folder / "sub/inner").unlink()
    (folder / "new").write_text("new\n")
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o755)
    (folder / "link").symlink_to("new")
    (folder / "noise.log").write_text("noise\n")
    (folder / "staged").write_text("staged\n")
    git(folder, "add", "staged")


def test_the_committed_state_is_cloned_with_its_history(repository: Path) -> None:
    make_dirty(repository)
    before = state(repository)
    project, packed = clone(repository)
    assert packed == Checkout(git(repository, "rev-parse", "HEAD"), "main", "main", None, (), ())
    assert (project / "file").read_text() == "two\n"
    assert files(project) == {".gitignore", "file", "sub/inner"}
    assert git(project, "rev-list", "--count", "HEAD") == "2"
    assert git(project, "rev-parse", "origin/main") == packed.sha
    assert git(project, "branch", "--show-current") == ""
    assert state(repository) == before


def test_with_dirty_the_files_are_as_they_lie_and_the_repository_stays_as_it_is(repository: Path) -> None:
    make_dirty(repository)
    before = state(repository)
    project, packed = clone(repository, dirty=True)
    assert files(project) == {".gitignore", "file", "new", "run", "link", "staged"}
    assert (project / "file").read_text() == "three\n"
    assert os.access(project / "run", os.X_OK)
    assert os.readlink(project / "link") == "new"
    assert git(project, "rev-parse", "HEAD^") == git(repository, "rev-parse", "HEAD")
    assert packed.branch == "main"
    assert state(repository) == before


def test_with_dirty_and_no_change_it_is_the_commit_itself(repository: Path) -> None:
    assert clone(repository, dirty=True)[1].sha == git(repository, "rev-parse", "HEAD")


def test_files_that_became_folders_and_links_are_taken(repository: Path) -> None:
    (repository / "file").unlink()
    (repository / "file").mkdir()
    (repository / "file/below").touch()
    (repository / "sub/inner").unlink()
    (repository / "sub").rmdir()
    (repository / "sub").symlink_to("/etc")
    os.mkfifo(repository / "pipe")
    assert files(clone(repository, dirty=True)[0]) == {".gitignore", "file/below", "sub"}


def test_odd_names_survive(repository: Path) -> None:
    for name in ("a\nb", "ä", " lead", "-rf", '"q"', "back\\slash"):
        (repository / name).write_text(name)
    (repository / os.fsdecode(b"\xff")).touch()
    project, _ = clone(repository, dirty=True)
    assert set(os.listdir(repository)) == set(os.listdir(project))


def test_a_detached_head_and_a_tag(repository: Path) -> None:
    git(repository, "checkout", "--quiet", "--detach", "HEAD^")
    assert clone(repository)[1][1:4] == ("HEAD", None, None)
    git(repository, "tag", "v1")
    project, packed = clone(repository)
    assert packed[1:4] == ("v1", None, "v1")
    assert git(project, "describe", "--tags") == "v1"


def test_a_shallow_repository(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{repository}", "shallow")
    for dirty in (False, True):
        (tmp_path / "shallow/new").touch()
        project, packed = clone(tmp_path / "shallow", dirty=dirty)
        assert packed.shallow == (git(repository, "rev-parse", "HEAD"),)
        assert ("new" in files(project)) is dirty


def test_a_work_tree_of_its_own(repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "--quiet", "-b", "side", str(tmp_path / "tree"))
    (tmp_path / "tree/new").touch()
    project, packed = clone(tmp_path / "tree", dirty=True)
    assert (packed.branch, "new" in files(project)) == ("side", True)


def test_a_repository_with_long_object_names(tmp_path: Path) -> None:
    folder = tmp_path / "long"
    folder.mkdir()
    git(folder, "init", "--quiet", "--object-format=sha256")
    (folder / "file").touch()
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    assert len(clone(folder)[1].sha) == 64


def test_a_repository_without_commits(tmp_path: Path) -> None:
    folder = tmp_path / "fresh"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "file").touch()
    with pytest.raises(JobError, match="has no commit yet"):
        clone(folder)
    project, packed = clone(folder, dirty=True)
    assert (files(project), packed.branch) == ({"file"}, "main")


def test_a_folder_that_is_in_no_repository(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / ".gitignore").write_text("*.o\n")
    (folder / "a.o").touch()
    (folder / "a.c").touch()
    project, packed = clone(folder)
    assert files(project) == {".gitignore", "a.c"}
    assert packed.ref == "HEAD"
    assert any("not a git repository" in note for note in packed.notes)


def test_a_folder_within_a_repository_is_a_project_of_its_own(repository: Path) -> None:
    sub = repository / "sub"
    (sub / "new").touch()
    (sub / "noise.log").touch()
    project, packed = clone(sub)
    assert files(project) == {"inner"}
    assert git(project, "rev-list", "--count", "HEAD") == "1"
    assert any("the folder sub/" in note for note in packed.notes)
    assert clone(sub)[1].sha == packed.sha, "the same commit each time"
    assert files(clone(sub, dirty=True)[0]) == {"inner", "new"}


def test_a_folder_that_no_commit_holds(repository: Path) -> None:
    fresh = repository / "fresh"
    fresh.mkdir()
    (fresh / "file").touch()
    with pytest.raises(JobError, match="no commit holds"):
        clone(fresh)
    assert files(clone(fresh, dirty=True)[0]) == {"file"}


def test_submodules_and_other_repositories_within_are_left_out_and_said(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", str(repository), "other")
    git(repository, "submodule", "--quiet", "add", str(tmp_path / "other"), "module")
    git(repository, "commit", "--quiet", "-m", "module")
    git(repository, "clone", "--quiet", str(tmp_path / "other"), "nested")
    for dirty in (False, True):
        _, packed = clone(repository, dirty=dirty)
        assert packed.sha == git(repository, "rev-parse", "HEAD")
        assert packed.notes == ("submodules are not cloned: module",)


def test_files_left_out_by_a_sparse_checkout_are_there(repository: Path) -> None:
    git(repository, "sparse-checkout", "set", "--no-cone", "/file")
    assert not (repository / "sub").exists()
    (repository / "new").touch()
    assert files(clone(repository, dirty=True)[0]) == {".gitignore", "file", "sub/inner", "new"}


def test_lfs_is_said(repository: Path) -> None:
    (repository / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "lfs")
    assert any("LFS" in note for note in clone(repository)[1].notes)


@pytest.mark.parametrize("dirty", [False, True])
def test_nothing_of_a_hostile_repository_is_run(repository: Path, tmp_path: Path, dirty: bool) -> None:
    proof = tmp_path / "proof"
    command = f"touch {proof}; cat"
    script = tmp_path / "hostile"
    script.write_text(f"#!/bin/sh\ntouch {proof}\n")
    script.chmod(0o755)
    git(repository, "clone", "--quiet", ".", "module")
    (repository / ".gitattributes").write_text("* filter=evil diff=evil merge=evil\n")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "attributes and a repository within")
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-index-change", "reference-transaction", "post-checkout", "pre-commit"):
        (hooks / name).symlink_to(script)
        (repository / ".git/hooks" / name).unlink(missing_ok=True)
        (repository / ".git/hooks" / name).symlink_to(script)
    for folder in (repository, repository / "module"):
        for key in ("filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "diff.evil.textconv"):
            git(folder, "config", key, command)
        git(folder, "config", "diff.external", str(script))
        git(folder, "config", "core.sshCommand", str(script))
        git(folder, "config", "core.pager", str(script))
        git(folder, "config", "core.editor", str(script))
        git(folder, "config", "gpg.program", str(script))
        git(folder, "config", "log.showSignature", "true")
        git(folder, "config", "commit.gpgSign", "true")
        git(folder, "config", "remote.origin.url", f"ext::{script}")
        git(folder, "config", "remote.origin.promisor", "true")
        git(folder, "config", "protocol.allow", "always")
        git(folder, "config", "core.hooksPath", str(hooks))
        git(folder, "config", "core.fsmonitor", str(script))
    (repository / "file").write_text("changed\n")
    (repository / "module/file").write_text("changed\n")
    git(repository, "status")
    assert proof.exists(), "the trap works"
    proof.unlink()
    packed = checkout.pack(str(repository), str(tmp_path / "bundle"), dirty=dirty)
    assert not proof.exists()
    assert packed.branch == "main"


def test_a_repository_that_lacks_its_objects_is_said_and_fetches_nothing(repository: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    script = tmp_path / "hostile"
    script.write_text(f"#!/bin/sh\ntouch {proof}\n")
    script.chmod(0o755)
    for name, value in (("url", f"ext::{script}"), ("promisor", "true"), ("partialclonefilter", "blob:none")):
        git(repository, "config", f"remote.origin.{name}", value)
    git(repository, "config", "extensions.partialClone", "origin")
    head = git(repository, "rev-parse", "HEAD")
    (repository / ".git/objects" / head[:2] / head[2:]).unlink()
    with pytest.raises(JobError):
        checkout.pack(str(repository), str(tmp_path / "bundle"), dirty=False)
    assert not proof.exists()


def test_a_broken_repository_and_a_bare_one_are_said(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--bare", "bare")
    with pytest.raises(JobError, match="not in the work tree"):
        checkout.pack(str(tmp_path / "bare"), str(tmp_path / "bundle"), dirty=False)
    (repository / ".git/config").write_text("[core\n")
    with pytest.raises(JobError, match="git cannot read"):
        checkout.pack(str(repository), str(tmp_path / "bundle"), dirty=False)


ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
STRANGER = 12345


def give(path: Path) -> None:
    for folder, folders, names in os.walk(path):
        for name in (*folders, *names, "."):
            os.chown(os.path.join(folder, name), STRANGER, STRANGER, follow_symlinks=False)


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that every user can reach, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def strangers(repository: Path, reachable: Path) -> Path:
    """The repository, as another user's."""
    folder = reachable / "project"
    shutil.copytree(repository, folder, symlinks=True)
    give(folder)
    return folder


@pytest.fixture
def secret(repository: Path, reachable: Path) -> Path:
    """A repository that only root can read, although its place is known; its commit is no other's."""
    folder = reachable / "secret"
    shutil.copytree(repository, folder, symlinks=True)
    (folder / "file").write_text("secret\n")
    git(folder, "commit", "--quiet", "-am", "secret")
    folder.chmod(0o700)
    return folder


@ROOT_ONLY
@pytest.mark.parametrize("dirty", [False, True])
def test_a_repository_of_another_user(strangers: Path, reachable: Path, dirty: bool) -> None:
    make_dirty(strangers)
    give(strangers)
    before = state(strangers)
    project, packed = clone(strangers, dirty=dirty)
    assert packed.branch == "main"
    assert ("new" in files(project)) is dirty
    assert state(strangers) == before
    bundle = (reachable / "out-project/bundle").stat()
    assert (bundle.st_uid, bundle.st_mode & 0o777) == (0, 0o644)
    assert not list(Path("/var/tmp").glob("checkout-*"))
    assert (os.geteuid(), os.getegid()) == (0, 0)


@ROOT_ONLY
@pytest.mark.parametrize("dirty", [False, True])
@pytest.mark.parametrize("way", ["gitdir", "link", "objects", "alternates", "common", "root's folder"])
def test_no_way_leads_to_a_repository_its_owner_cannot_read(
    strangers: Path, secret: Path, way: str, dirty: bool
) -> None:
    folder, there = strangers, secret / ".git"
    head = git(secret, "rev-parse", "HEAD")
    if way in {"gitdir", "link", "root's folder"}:
        shutil.rmtree(folder / ".git")
    if way == "link":
        (folder / ".git").symlink_to(there)
    elif way in {"gitdir", "root's folder"}:
        (folder / ".git").write_text(f"gitdir: {there}\n")
    elif way == "common":
        (folder / ".git/commondir").write_text(f"{there}\n")
    else:
        (folder / ".git/refs/heads/main").write_text(f"{head}\n")
    if way == "objects":
        shutil.rmtree(folder / ".git/objects")
        (folder / ".git/objects").symlink_to(there / "objects")
    elif way == "alternates":
        (folder / ".git/objects/info/alternates").write_text(f"{there}/objects\n")
    give(folder)
    if way == "root's folder":
        folder = folder / "mine"
        folder.mkdir()
        (folder / "file").touch()
    try:
        project, packed = clone(folder, dirty=dirty)
    except JobError:
        assert way not in {"link", "objects"}
    else:
        # To git there is no repository then.
        assert way in {"link", "objects"}
        assert any("not a git repository" in note for note in packed.notes)
        assert git(project, "rev-list", "--all", "--count") == "1"
        assert (project / "file").read_text() == "two\n"


@ROOT_ONLY
def test_files_that_their_folder_s_owner_cannot_read_are_not_taken(strangers: Path, tmp_path: Path) -> None:
    (strangers / "private").write_text("root's\n")
    (strangers / "private").chmod(0o600)
    with pytest.raises(JobError, match="cannot pack"):
        checkout.pack(str(strangers), str(tmp_path / "bundle"), dirty=True)


@ROOT_ONLY
def test_a_folder_out_of_its_owner_s_reach_is_said(strangers: Path, reachable: Path, tmp_path: Path) -> None:
    reachable.chmod(0o700)
    with pytest.raises(JobError, match="the user 12345 cannot read"):
        checkout.pack(str(strangers), str(tmp_path / "bundle"), dirty=False)


@ROOT_ONLY
def test_root_s_private_repository_in_a_stranger_s_folder_is_root_s(secret: Path, reachable: Path) -> None:
    os.chown(reachable, STRANGER, STRANGER)
    assert clone(secret)[1].branch == "main"


@ROOT_ONLY
def test_no_link_stands_in_for_the_bundle(strangers: Path, reachable: Path) -> None:
    (reachable / "bundle").symlink_to("victim")
    with pytest.raises(OSError, match="symbolic links"):
        checkout.pack(str(strangers), str(reachable / "bundle"), dirty=False)
    assert not (reachable / "victim").exists()


@ROOT_ONLY
def test_the_jobs_are_read_as_the_owner_of_the_folder(strangers: Path, secret: Path) -> None:
    file = strangers / ".gitlab-ci.yml"
    file.write_text("job: {script: a}\n")
    assert ci_file.load(str(strangers)).jobs == ("job",)
    file.write_text("include: more.yml\n")
    (strangers / "more.yml").write_text("words of a secret\n")
    (strangers / "more.yml").chmod(0o600)
    with pytest.raises(JobError, match="Permission denied"):
        ci_file.load(str(strangers))
    file.unlink()
    for target in ("more.yml", str(secret / "file")):
        file.symlink_to(target)
        with pytest.raises(JobError, match="Permission denied"):
            ci_file.load(str(strangers))
        file.unlink()


def test_describe_and_merge_base_work_in_the_clone(repository: Path) -> None:
    git(repository, "tag", "-a", "v1", "-m", "one", "HEAD^")
    git(repository, "tag", "light")
    git(repository, "remote", "add", "origin", "https://user:secret@gitlab.example.com/group/name.git")
    git(repository, "checkout", "--quiet", "-b", "feature")
    (repository / "file").write_text("four\n")
    git(repository, "commit", "--quiet", "-am", "third")
    git(repository, "tag", "elsewhere", "main")
    git(repository, "checkout", "--quiet", "-b", "other")
    (repository / "file").write_text("five\n")
    git(repository, "commit", "--quiet", "-am", "not in the history of feature")
    git(repository, "tag", "not-ours")
    git(repository, "checkout", "--quiet", "feature")
    project, packed = clone(repository)
    assert git(project, "describe", "HEAD").startswith("v1-2-g")
    assert git(project, "merge-base", "origin/main", "HEAD") == git(repository, "rev-parse", "main")
    assert set(git(project, "tag").split()) == {"v1", "light", "elsewhere"}
    assert git(project, "remote", "get-url", "origin") == "https://gitlab.example.com/group/name.git"
    assert packed.remote == "https://gitlab.example.com/group/name.git"
    shutil.rmtree(project.parent)
    project, _ = clone(repository, depth=1)
    assert git(project, "rev-list", "--count", "HEAD") == "1"
    assert git(project, "rev-parse", "origin/feature") == packed.sha
    shutil.rmtree(project.parent)
    project, _ = clone(repository, dirty=True, depth=2)
    assert git(project, "rev-list", "--count", "HEAD") == "2"


def test_what_is_known_of_a_project_without_a_server(repository: Path) -> None:
    git(repository, "remote", "add", "origin", "git@gitlab.example.com:group/sub/name.git")
    git(repository, "update-ref", "refs/remotes/origin/main", "HEAD^")
    known = ci_project.read(str(repository))
    event = ci_project.event(known, None)
    assert (known.branch, known.default_branch, event.described()) == ("main", "main", "push of main")
    assert event.changed("") == ["file"]
    assert event.changed("main") == ["file"]
    assert sorted(event.files()) == [".gitignore", "file", "sub/inner"]
    assert ci_project.event(known, "schedule").changed("") is None
    run = RunFacts("1", "2", 0, "/builds", ".gitlab-ci.yml")
    values = predefined.variables(known, event, run)
    assert values["CI_PROJECT_PATH"] == "group/sub/name"
    assert (values["CI_PROJECT_NAMESPACE"], values["CI_PROJECT_ROOT_NAMESPACE"]) == ("group/sub", "group")
    assert (values["CI_SERVER_URL"], values["CI_REGISTRY_IMAGE"]) == (
        "https://gitlab.example.com",
        "registry.gitlab.example.com/group/sub/name",
    )
    assert (values["CI_COMMIT_TITLE"], values["CI_COMMIT_AUTHOR"]) == ("second", "t@t <t@t>")
    assert values["CI_COMMIT_BEFORE_SHA"] == git(repository, "rev-parse", "HEAD^")
    with pytest.raises(UsageError):
        ci_project.event(known, "tag")
    git(repository, "tag", "v1")
    git(repository, "checkout", "--quiet", "--detach")
    tagged = ci_project.event(ci_project.read(str(repository)), None)
    assert (tagged.name, tagged.ref, tagged.is_tag) == ("tag", "v1", True)
    assert ci_project.read(str(repository / "sub")).prefix == "sub/"
    inner = ci_project.event(ci_project.read(str(repository / "sub")), "merge_request", "main")
    assert inner.changed("") == []


def test_a_project_is_found_from_its_subfolders(repository: Path, tmp_path: Path) -> None:
    (repository / ".gitlab-ci.yml").write_text("a: {script: x}")
    (repository / "sub/deep").mkdir()
    assert ci_project.folder_of(str(repository / "sub/deep"), ".gitlab-ci.yml") == str(repository)
    (tmp_path / "plain/sub").mkdir(parents=True)
    (tmp_path / "plain/.gitlab-ci.yml").write_text("a: {script: x}")
    assert ci_project.folder_of(str(tmp_path / "plain/sub"), ".gitlab-ci.yml") == str(tmp_path / "plain/sub")


def test_what_is_asked_of_a_repository_runs_nothing_of_its_configuration(repository: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    for key in ("gpg.program", "core.fsmonitor", "diff.external", "core.pager", "core.editor", "diff.x.textconv",
                "filter.x.clean", "core.sshCommand", "remote.origin.uploadpack", "credential.helper",
                 "alias.cat-file"):  # fmt: skip
        git(repository, "config", key, str(program))
    git(repository, "config", "log.showSignature", "true")
    git(repository, "config", "remote.origin.url", f"ext::{program}")
    (repository / ".gitattributes").write_text("* diff=x filter=x\n")
    known = ci_project.read(str(repository))
    event = ci_project.event(known, "merge_request", "main")
    event.changed("")
    event.changed("main")
    event.files()
    assert known.commit.message == "second\n"
    assert not mark.exists()
