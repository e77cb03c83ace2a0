"""Archives as other programs write them: what comes out is what went in, or is counted."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from abilities import require
from test_image_transfer import archive, member, seen, tree, unpack

from nspawn_runner.errors import HostError
from nspawn_runner.images.archive import imports
from nspawn_runner.images.progress import Progress

__all__ = ["tree"]  # a fixture


@pytest.fixture(autouse=True)
def _needs_programs() -> None:
    require(os.geteuid() == 0, "trees with owners need root")
    missing = [program for program in ("bsdtar", "setfacl", "umoci") if not shutil.which(program)]
    require(not missing, f"needs {', '.join(missing)}: script/setup installs them")


@pytest.mark.parametrize("how", ["gnu", "gnu --numeric-owner", "gnu --xattrs", "bsd --xattrs", "bsd --numeric-owner"])
def test_access_control_lists_come_as_they_are(tree: Path, tmp_path: Path, how: str) -> None:
    """By the archive's own names, which mean other numbers here, and by numbers."""
    (tree / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\ndaemon:x:4711:1::/:/bin/sh\ngames:x:5:5::/:\n")
    (tree / "etc/group").write_text("root:x:0:\naudio:x:4712:\n")
    (tree / "a").write_text("x")
    (tree / "a").chmod(0o640)
    (tree / "d").mkdir()
    run("setfacl", "--modify=user:daemon:rwx,group:audio:r--", tree / "a")
    run("setfacl", "--modify=user:1:rx,default:user:daemon:rw,default:group:audio:-", tree / "d")
    kind, *options = how.split()
    options += ["--acls", "--create", f"--directory={tree}", "--file", str(tmp_path / "x.tar")]
    run(*(["tar", "--format=posix"] if kind == "gnu" else ["bsdtar", "--format=pax"]), *options, ".")
    if kind == "gnu" and "--xattrs" not in how:  # it writes names, with --numeric-owner too
        # What the names mean in the tree, not on this machine.
        run("setfacl", "--modify=user:4711:rwx,group:4712:r--,user:1:-,group:29:-", tree / "a")
        run("setfacl", "--remove=user:1,group:29", tree / "a")
        run("setfacl", "--remove-default", "--modify=user:4711:rx", "--remove=user:1", tree / "d")
        run("setfacl", "--modify=default:user:4711:rw,default:group:4712:-", tree / "d")
        os.utime(tree / "d", ns=(0, (tree / "d").stat().st_mtime_ns))
    report = unpack(tmp_path / "x.tar", tmp_path / "copy")
    assert report.attributes_left_out == 0
    before, after = seen(tree), seen(tmp_path / "copy")
    for name in (b"a", b"d", b"etc/shared", b"etc/shared/in", b"usr/bin/ping"):
        if name != b"usr/bin/ping" or "--xattrs" in how:
            assert after[name] == before[name], name


def run(*argv: str | Path) -> None:
    subprocess.run(argv, check=True)


def test_a_list_that_cannot_be_set_is_counted_and_opens_nothing(tmp_path: Path) -> None:
    acl = "user::rw-,user:nobody-at-all:rwx,group::---,mask::rwx,other::---"
    members = [member("usr/", b"5"), member("usr/file", content=b"x")]
    members[1][0].mode = 0o670
    members[1][0].pax_headers = {"SCHILY.acl.access": acl, "SCHILY.fflags": "nodump", "SCHILY.acl.ace": "everyone@:r"}
    report = unpack(archive(tmp_path / "x.tar", *members), tmp_path / "copy")
    assert report.attributes_left_out == 3
    assert (tmp_path / "copy/usr/file").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("form", ["pax", "gnutar", "ustar"])
def test_what_bsdtar_writes_is_read(tree: Path, tmp_path: Path, form: str) -> None:
    """Field by field; other formats than pax know neither attributes nor parts of a second."""
    if form == "ustar":
        for name in ("n" * 200, "etc/dangling"):
            (tree / name).unlink()
    else:
        os.chown(tree / "empty", 3 << 20, 5 << 20)
    os.utime(tree, ns=(0, 0))
    run("bsdtar", f"--format={form}", "--xattrs", "--acls", "-cf", tmp_path / "x.tar", f"--directory={tree}", ".")
    report = unpack(tmp_path / "x.tar", tmp_path / "copy")
    assert (report.attributes_left_out, report.high_ids) == (0, 0 if form == "ustar" else 1)
    before, after = seen(tree), seen(tmp_path / "copy")
    if form == "pax":
        assert after == before
    plain = [{name: (*facts[:3], facts[3] // 10**9, *facts[4:7]) for name, facts in each.items()}
             for each in (before, after)]  # fmt: skip
    assert plain[0] == plain[1]


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0", "gnu"])
def test_each_kind_of_sparse_file_keeps_its_holes(tree: Path, tmp_path: Path, version: str) -> None:
    form = ["--format=gnu"] if version == "gnu" else ["--format=posix", f"--sparse-version={version}"]
    run("tar", *form, "--sparse", "--create", f"--file={tmp_path}/x.tar", f"--directory={tree}", "sparse", "hole")
    unpack(tmp_path / "x.tar", tmp_path / "copy")
    for name in ("sparse", "hole"):
        assert (tmp_path / "copy" / name).read_bytes() == (tree / name).read_bytes()
        assert (tmp_path / "copy" / name).stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_incremental_archives_are_trees_too(tree: Path, tmp_path: Path, form: str) -> None:
    for name in ("pipe", "null"):
        (tree / name).unlink()
    snapshot = f"--listed-incremental={tmp_path}/snapshot"
    run("tar", "--create", f"--format={form}", snapshot, f"--file={tmp_path}/x.tar", f"--directory={tree}", ".")
    unpack(tmp_path / "x.tar", tmp_path / "copy")
    assert [facts[6] for facts in seen(tmp_path / "copy").values()] == [facts[6] for facts in seen(tree).values()]


def test_what_umoci_writes_is_read(tree: Path, tmp_path: Path) -> None:
    """Two layers, the second of which changes, removes and replaces what the first has."""
    layout = tmp_path / "layout"
    (tree / os.fsdecode(b"\xff\xfe")).unlink()  # umoci writes names as UTF-8 alone
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:app")
    run("umoci", "unpack", "--image", f"{layout}:app", tmp_path / "bundle")
    rootfs = tmp_path / "bundle/rootfs"
    run("cp", "--archive", f"{tree}/.", rootfs)
    repack = ["umoci", "repack", "--refresh-bundle", "--image", f"{layout}:app", str(tmp_path / "bundle")]
    run(*repack)
    (rootfs / "etc/os-release").unlink()
    (rootfs / "usr/bin/ping6").unlink()
    (rootfs / "usr/bin/sudo").write_text("other")
    shutil.rmtree(rootfs / "etc/shared")
    (rootfs / "etc/shared").write_text("a file now")
    run(*repack)
    run("umoci", "config", "--image", f"{layout}:app", "--config.env", "A=b c", "--config.workingdir", "/srv")
    source = imports.Source(str(layout), "app", imports.default_limits(str(tmp_path / "state")))
    report, facts = imports.fill(str(tmp_path / "state/tree"), source, Progress("it"))
    assert report.attributes_left_out == 0
    assert (facts["container"]["Env"][-1], facts["container"]["WorkingDir"]) == ("A=b c", "/srv")
    after = seen(tmp_path / "state/tree")
    for name, expected in seen(rootfs).items():
        assert (*after[name][:3], *after[name][4:]) == (*expected[:3], *expected[4:]), name
        assert abs(after[name][3] - expected[3]) <= 10**9, name  # umoci writes whole seconds
    assert after.keys() == seen(rootfs).keys()


def test_a_volume_of_several_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(200 << 10))
    volumes = [f"--file={tmp_path}/{number}.tar" for number in (1, 2, 3)]
    run("tar", "--create", "--multi-volume", "--tape-length=100", *volumes, f"--directory={tmp_path}", "big")
    for number in (1, 2):
        with pytest.raises(HostError) as raised:
            unpack(tmp_path / f"{number}.tar", tmp_path / "copy")
        assert "one volume of several" in raised.value.facts


def test_a_single_top_folder_is_the_tree(tmp_path: Path) -> None:
    os.makedirs(tmp_path / "in/root.x86_64/etc")
    (tmp_path / "in/root.x86_64/usr").mkdir()
    (tmp_path / "in/root.x86_64/root.x86_64").mkdir()
    (tmp_path / "in/root.x86_64/etc/hostname").write_text("builder\n")
    (tmp_path / "in/root.x86_64/etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "in/pkglist.txt").write_text("x")
    (tmp_path / "in/root.x86_64").chmod(0o750)
    run("bsdtar", "--create", f"--file={tmp_path}/x.tar", f"--directory={tmp_path}/in", "root.x86_64", "pkglist.txt")
    source = imports.Source(f"{tmp_path}/x.tar", "", imports.default_limits(str(tmp_path / "state")))
    root = tmp_path / "state/tree"
    report, _ = imports.fill(str(root), source, Progress("it"))
    assert sorted(os.listdir(root)) == ["etc", "root.x86_64", "usr"]
    assert root.stat().st_mode & 0o777 == 0o750
    assert (report.top, report.beside_top) == ("root.x86_64", 1)
    assert not (root / "etc/hostname").exists()
    assert (root / "etc/machine-id").read_bytes() == b""
