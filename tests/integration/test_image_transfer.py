# ruff: noqa: S607
"""Images that come and go: imports, exports, clones, roll-backs; and archives that mean harm."""

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import stat
import struct
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from abilities import require
from backends import ON_ONE
from disposable_host import CHECKOUT, STATE_FOLDER, DisposableHost

from nspawn_runner.errors import HostError
from nspawn_runner.images import generations
from nspawn_runner.images.archive import archives, exports, imports
from nspawn_runner.images.archive.unpack import Report
from nspawn_runner.images.progress import Progress

TOOL = f"{CHECKOUT}/nspawn-runner"
LIMITS = archives.UnpackLimits(1 << 30, 10000)
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in [(1, 6, 0xFFFFFFFF), (2, 4, 5), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 4, 0xFFFFFFFF)]
)
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


@pytest.fixture(autouse=True)
def _needs_root() -> None:
    require(os.geteuid() == 0, "trees with owners need root")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with something of everything."""
    root = tmp_path / "tree"
    (root / "etc").mkdir(parents=True)
    (root / "usr/bin").mkdir(parents=True)
    (root / "etc/os-release").write_text('ID=debian\nVERSION_CODENAME="trixie"\n')
    (root / "usr/bin/sudo").write_bytes(b"\x7fELF" * 1000)
    os.chown(root / "usr/bin/sudo", 0, 27)
    (root / "usr/bin/sudo").chmod(0o4755)
    (root / "usr/bin/ping").write_bytes(b"ping")
    os.setxattr(root / "usr/bin/ping", "security.capability", CAPABILITY)
    os.setxattr(root / "usr/bin/ping", "user.binary", b"\xff\0\n=x")
    os.link(root / "usr/bin/ping", root / "usr/bin/ping6")
    (root / "bin").symlink_to("usr/bin")
    (root / "etc/dangling").symlink_to("/nowhere/" + "x" * 200)
    (root / "etc/shared").mkdir(0o2775)
    (root / "etc/shared/in").write_text("in")
    os.setxattr(root / "etc/shared", "system.posix_acl_default", ACL)
    os.setxattr(root / "etc/shared/in", "system.posix_acl_access", ACL)
    (root / "secret").mkdir(0o700)
    (root / ("n" * 200)).write_text("long")
    (root / "line\nbreak").write_text("x")
    (root / os.fsdecode(b"\xff\xfe")).write_text("x")
    with (root / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(32 << 20)
        file.write(b"end")
        file.truncate(64 << 20)
    (root / "empty").write_bytes(b"")
    with (root / "hole").open("wb") as file:
        file.truncate(1 << 20)
    os.mkfifo(root / "pipe", 0o640)
    os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.chown(root / "etc/dangling", 1000, 1000, follow_symlinks=False)
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        os.utime(path, ns=(0, 1_600_000_000_123_456_789 + number * 10**9), follow_symlinks=False)
    os.utime(root, ns=(0, -5_000_000_000))
    return root


def seen(root: Path) -> dict[bytes, tuple[Any, ...]]:
    """All that is to be seen of a tree but inode numbers and times of access and change."""
    found = {}
    top = os.fsencode(root)
    for folder, folders, files in os.walk(top):
        for name in [b".", *files, *(name for name in folders if os.path.islink(os.path.join(folder, name)))]:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            content = b""
            if stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).digest()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
            }
            links = status.st_nlink if not stat.S_ISDIR(status.st_mode) else 0
            found[os.path.relpath(path, top)] = (
                status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_rdev, links, content,
                xattrs,
            )  # fmt: skip
    return found


def unpack(archive: Path, root: Path, *, layer: bool = False, limits: archives.UnpackLimits = LIMITS) -> Report:
    root.mkdir(exist_ok=True)
    fd = archives.open_archive(str(archive))
    try:
        return archives.unpack(fd, str(root), what="it", limits=limits, layer=layer)
    finally:
        os.close(fd)


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tar.xz", ".tar.zst"])
def test_import_of_an_export_is_identical(tree: Path, tmp_path: Path, ending: str) -> None:
    program = {"gz": "gzip", "xz": "xz", "zst": "zstd"}.get(ending.rpartition(".")[2], "tar")
    require(shutil.which(program) is not None, f"needs {program}")
    first, second, third = (tmp_path / f"{number}{ending}" for number in (1, 2, 3))
    before = seen(tree)
    exports.write_file(str(tree), str(first), ending)
    exports.write_file(str(tree), str(second), ending)
    assert first.read_bytes() == second.read_bytes()
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    report = unpack(first.rename(tmp_path / "named-otherwise"), tmp_path / "copy")
    assert (report.devices_left_out, report.attributes_left_out) == (0, 0)
    assert seen(tmp_path / "copy") == before == seen(tree)
    assert (tmp_path / "copy/sparse").stat().st_blocks * 512 < 1 << 20
    exports.write_file(str(tmp_path / "copy"), str(third), ending)
    assert third.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("form", ["gnu", "oldgnu", "pax", "ustar", "v7"])
def test_what_tar_writes_is_read(tree: Path, tmp_path: Path, form: str) -> None:
    if form in ("ustar", "v7"):
        for name in ("n" * 200, "etc/dangling", "pipe", "null"):
            (tree / name).unlink()
    os.utime(tree, ns=(0, 0))
    options = ["--sparse"] if form in ("gnu", "oldgnu", "pax") else []
    command = ["tar", "--create", f"--format={form}", *options, f"--file={tmp_path}/x.tar", f"--directory={tree}", "."]
    subprocess.run(command, check=True)
    unpack(tmp_path / "x.tar", tmp_path / "copy")
    plain = [{name: (*facts[:3], facts[3] // 10**9, facts[4], *facts[5:7]) for name, facts in seen(root).items()}
             for root in (tree, tmp_path / "copy")]  # fmt: skip
    assert plain[0] == plain[1]


def member(
    name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **fields: Any
) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.mode = kind, len(content), 0o755
    for field, value in fields.items():
        setattr(made, field, value)
    return made, content


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


LINK, SYMLINK, FOLDER = tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE
EVIL = b"evil"
HOSTILE = {
    "absolute": [member("{outside}/file", content=EVIL)],
    "up": [member("../outside/file", content=EVIL)],
    "up in the middle": [member("a/../../outside/file", content=EVIL)],
    "through a link": [member("l", SYMLINK, linkname="{outside}"), member("l/file", content=EVIL)],
    "through a relative link": [member("l", SYMLINK, linkname="../outside"), member("l/file", content=EVIL)],
    "through links of links": [
        member("a", SYMLINK, linkname=".."), member("b", SYMLINK, linkname="a/.."), member("b/file", content=EVIL)],
    "onto a link": [member("l", SYMLINK, linkname="{outside}/file"), member("l", content=EVIL)],
    "hard link out": [member("h", LINK, linkname="{outside}/file"), member("h", content=EVIL)],
    "hard link up": [member("h", LINK, linkname="../outside/file"), member("h", content=EVIL)],
    "hard link through a link": [
        member("l", SYMLINK, linkname="{outside}"), member("h", LINK, linkname="l/file"), member("h", content=EVIL)],
    "hard link to a link": [
        member("l", SYMLINK, linkname="{outside}/file"), member("h", LINK, linkname="l"), member("h", content=EVIL)],
    "mode of a link": [member("l", SYMLINK, linkname="{outside}/file"), member("l/.", FOLDER, mode=0o777)],
    "folder onto a link": [member("l", SYMLINK, linkname="{outside}"), member("l", FOLDER, mode=0o777),
                           member("l/file", content=EVIL)],
    "whiteout up": [member(".wh...", content=b""), member("a/.wh...", content=b"")],
    "whiteout of a link": [member("l", SYMLINK, linkname="{outside}"), member("l/.wh.file")],
    "opaque link": [member("l", SYMLINK, linkname="{outside}"), member("l/.wh..wh..opq")],
    "top is a link": [member(".", SYMLINK, linkname="{outside}")],
    "proc": [member("l", SYMLINK, linkname="/proc/self/root{outside}"), member("l/file", content=EVIL)],
    "descriptor": [member("l", SYMLINK, linkname="/proc/self/fd/0"), member("l", content=EVIL)],
}  # fmt: skip


@pytest.mark.parametrize("layer", [False, True], ids=["archive", "layer"])
@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_outside_is_touched(tmp_path: Path, name: str, layer: bool) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(0o700)
    (outside / "file").write_text("untouched")
    before = seen(outside)
    for info, _ in HOSTILE[name]:
        info.name, info.linkname = (text.replace("{outside}", str(outside)) for text in (info.name, info.linkname))
    with contextlib.suppress(HostError):
        unpack(archive(tmp_path / "x.tar", *HOSTILE[name]), tmp_path / "root", layer=layer)
    assert seen(outside) == before
    assert sorted(os.listdir(tmp_path)) == ["outside", "root", "x.tar"]
    for path in (tmp_path / "root").rglob("*"):
        assert path.is_symlink() or not path.is_file() or path.read_bytes() != b"untouched"


def test_links_lead_where_they_will_in_the_machine(tmp_path: Path) -> None:
    members = [member("usr/bin", FOLDER), member("bin", SYMLINK, linkname="/usr/bin"), member("bin/sh", content=b"sh")]
    unpack(archive(tmp_path / "x.tar", *members), tmp_path / "root")
    assert (tmp_path / "root/usr/bin/sh").read_bytes() == b"sh"


def test_devices_that_are_no_ones_business_are_left_out(tmp_path: Path) -> None:
    nodes = [("disk", tarfile.BLKTYPE, 8, 0), ("mem", tarfile.CHRTYPE, 1, 1), ("whiteout", tarfile.CHRTYPE, 0, 0),
             ("null", tarfile.CHRTYPE, 1, 3)]  # fmt: skip
    members = [member(name, kind, devmajor=major, devminor=minor) for name, kind, major, minor in nodes]
    report = unpack(archive(tmp_path / "x.tar", *members), tmp_path / "root")
    assert (report.devices_left_out, os.listdir(tmp_path / "root")) == (3, ["null"])


def test_devices_of_a_folder_are_left_out_too(tree: Path, tmp_path: Path) -> None:
    os.mknod(tree / "etc/disk", 0o666 | stat.S_IFBLK, os.makedev(1, 3))
    os.mknod(tree / "etc/mem", 0o666 | stat.S_IFCHR, os.makedev(1, 1))
    fill(tree, tmp_path / "root")
    assert seen(tree).keys() - seen(tmp_path / "root").keys() == {b"etc/disk", b"etc/mem"}


def test_orders_to_the_kernel_are_left_out(tmp_path: Path) -> None:
    names = ["trusted.overlay.redirect", "user.overlay.redirect", "security.selinux", "user.kept"]
    pax = {f"SCHILY.xattr.{name}": "/x" for name in names}
    report = unpack(archive(tmp_path / "x.tar", member("d", FOLDER, pax_headers=pax)), tmp_path / "root")
    assert report.attributes_left_out == 3
    assert os.listxattr(tmp_path / "root/d") == ["user.kept"]


def test_the_last_of_several_entries_counts(tmp_path: Path) -> None:
    members = [member("a", FOLDER), member("a/deep/file"), member("a", content=b"now a file"),
               member("b", content=b"1"), member("c", LINK, linkname="b"), member("b", content=b"2")]  # fmt: skip
    unpack(archive(tmp_path / "x.tar", *members), tmp_path / "root")
    assert [(tmp_path / "root" / name).read_bytes() for name in "abc"] == [b"now a file", b"2", b"1"]


@pytest.mark.parametrize(
    ("size", "limits", "reason"),
    [
        (3 << 20, archives.UnpackLimits(1 << 20, 100), "more than 1 MiB"),
        (10, archives.UnpackLimits(1 << 20, 100), "more than 100 files"),
    ],
)
def test_more_than_allowed_is_refused(tmp_path: Path, size: int, limits: archives.UnpackLimits, reason: str) -> None:
    content = archive(tmp_path / "x.tar", *(member(str(number), content=bytes(size)) for number in range(200)))
    with pytest.raises(HostError, match="cannot unpack it") as raised:
        unpack(content, tmp_path / "root", limits=limits)
    assert reason in raised.value.facts


def test_a_bomb_is_stopped(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.tar.gz"
    zeros = gzip.compress(bytes(64 << 20), 1)
    bomb.write_bytes(gzip.compress(archive(tmp_path / "x.tar", member("x")).read_bytes()) + zeros * 20)
    assert bomb.stat().st_size < 10 << 20
    with pytest.raises(HostError) as raised:
        unpack(bomb, tmp_path / "root", limits=archives.UnpackLimits(1 << 20, 100))
    assert "more than 1025 MiB" in raised.value.facts


def test_a_file_that_claims_to_be_huge_takes_no_room(tmp_path: Path) -> None:
    pax = {"GNU.sparse.size": str(1 << 42), "GNU.sparse.map": f"{(1 << 42) - 5},5"}
    unpack(archive(tmp_path / "x.tar", member("huge", content=b"12345", pax_headers=pax)), tmp_path / "root")
    assert (tmp_path / "root/huge").stat().st_blocks < 100


@pytest.mark.parametrize("program", ["cat", "gzip", "xz", "zstd"])
def test_a_damaged_archive_is_told(tree: Path, tmp_path: Path, program: str) -> None:
    require(shutil.which(program) is not None, f"needs {program}")
    exports.write_file(str(tree), str(tmp_path / "x.tar"), ".tar")
    whole = (tmp_path / "x.tar").read_bytes()
    content = subprocess.run([program], input=whole, stdout=subprocess.PIPE, check=True).stdout
    (tmp_path / "x.tar").write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(HostError, match="cannot unpack it") as raised:
        unpack(tmp_path / "x.tar", tmp_path / "root")
    assert raised.value.facts.count(f"{program}: " if program != "cat" else "the archive ends")
    assert len(raised.value.lines()) <= 3


# Container images.


def oci(root: Path, *layers: list[tuple[tarfile.TarInfo, bytes]], packed: bool = True, wrong: str = "") -> Path:
    """Make an OCI image layout of one image; ``wrong`` is what digest is a lie."""
    blobs = root / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {
            "digest": f"sha256:{digest}",
            "size": len(content),
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        }

    described, diff_ids = [], []
    for members in layers:
        content = archive(root / "layer", *members).read_bytes()
        (root / "layer").unlink()
        diff_ids.append(f"sha256:{hashlib.sha256(content + b'x' * (wrong == 'diff_id')).hexdigest()}")
        if packed:
            content = subprocess.run(["gzip", "-1"], input=content, stdout=subprocess.PIPE, check=True).stdout
        described.append(blob(content))
        if wrong == "blob":
            (blobs / described[-1]["digest"].partition(":")[2]).write_bytes(content + b"x")
    config = blob(json.dumps({"rootfs": {"diff_ids": diff_ids}}).encode())
    manifest = blob(json.dumps({"config": config, "layers": described}).encode())
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "2"}
    (root / "oci-layout").write_text("{}")
    (root / "index.json").write_text(json.dumps({"manifests": [manifest]}))
    return root


LAYERS = [
    [member("etc", FOLDER), member("etc/a", content=b"1"), member("etc/b", content=b"1"), member("d/x"),
     member("d/y/z"), member("e/old/x"), member("e/both", content=b"1"), member("f/x"),
     member("out", SYMLINK, linkname="/etc")],
    [member("etc/.wh.a"), member("etc/b", content=b"2"), member("d", FOLDER), member("d/.wh..wh..opq"), member("d/new"),
     member("e/both", content=b"2"), member("e/.wh..wh..opq"), member("e/.wh.both"), member(".wh..wh.plnk", FOLDER),
     member("f", content=b"a file"), member(".wh.gone")],
]  # fmt: skip
AFTER = ["d", "d/new", "e", "e/both", "etc", "etc/b", "f", "out"]


def fill(source: Path, root: Path, reference: str = "") -> None:
    imports.fill(str(root), imports.Source(str(source), reference, LIMITS), Progress("x", io.StringIO()))


def below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.parametrize("how", ["folder", "archive", "packed archive"])
def test_layers_of_an_oci_image(tmp_path: Path, how: str) -> None:
    source = oci(tmp_path / "layout", *LAYERS, packed=how != "archive")
    if how != "folder":
        option = "--gzip" if how == "packed archive" else "--sort=name"
        subprocess.run(["tar", "--create", option, f"--file={tmp_path}/x", f"--directory={source}", "."], check=True)
        source = tmp_path / "x"
    fill(source, tmp_path / "root")
    assert below(tmp_path / "root") == AFTER
    assert (tmp_path / "root/etc/b").read_bytes() == (tmp_path / "root/e/both").read_bytes() == b"2"
    assert not (tmp_path / "root.layout").exists()


@pytest.mark.parametrize("by_link", [False, True])
def test_layers_of_a_saved_image(tmp_path: Path, by_link: bool) -> None:
    saved = tmp_path / "saved"
    images = []
    for number in (1, 2):
        paths, diff_ids = [], []
        for layer, members in enumerate(LAYERS[:number]):
            (saved / f"{number}{layer}").mkdir(parents=True)
            path = archive(saved / f"{number}{layer}/layer.tar", *members)
            diff_ids.append(f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}")
            paths.append(f"{number}{layer}/layer.tar")
            if by_link and number == 2 and layer == 0:  # as docker did before version 25 where two layers are the same
                path.unlink()
                path.symlink_to("../10/layer.tar")
        config = json.dumps({"rootfs": {"diff_ids": diff_ids}}).encode()
        name = f"{hashlib.sha256(config).hexdigest()}.json"
        (saved / name).write_bytes(config)
        images.append({"Config": name, "RepoTags": [f"registry.example.com/tools:{number}"], "Layers": paths})
    (saved / "manifest.json").write_text(json.dumps(images))
    subprocess.run(
        ["tar", "--create", f"--file={tmp_path}/x.tar", f"--directory={saved}", *os.listdir(saved)], check=True
    )
    with pytest.raises(HostError, match="there are several images in it"):
        fill(tmp_path / "x.tar", tmp_path / "root")
    shutil.rmtree(tmp_path / "root", ignore_errors=True)
    fill(tmp_path / "x.tar", tmp_path / "root", "tools:2")
    assert below(tmp_path / "root") == AFTER


@pytest.mark.parametrize("wrong", ["blob", "diff_id"])
def test_a_wrong_digest_is_told(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(HostError, match=r"digest of .* is wrong") as raised:
        fill(oci(tmp_path / "layout", *LAYERS, wrong=wrong), tmp_path / "root")
    assert "sha256:" in raised.value.facts


# The commands.


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A settings file for a state folder of its own."""
    file = tmp_path / "settings.toml"
    file.write_text(f'state_folder = "{tmp_path}/state"\n')
    file.chmod(0o600)
    return file


def call(settings: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([TOOL, "--config", settings, *arguments], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 8
    return done


def left(settings: Path, name: str) -> list[str]:
    folder = settings.parent / "state/.generations" / name
    return sorted(os.listdir(folder)) if folder.exists() else []


def test_a_failed_import_leaves_nothing(settings: Path, tmp_path: Path) -> None:
    bad = archive(tmp_path / "bad.tar", member("etc/x"), member("../x"))
    done = call(settings, "chroot-import", "web", bad)
    assert done.returncode != 0
    assert "'../x': a name with \"..\" in it" in done.stderr
    assert os.listdir(tmp_path / "state/.generations") == []
    assert os.listdir(tmp_path / "state") == [".generations"]


def test_an_image_is_replaced_only_when_asked(settings: Path, tree: Path, tmp_path: Path) -> None:
    first = call(settings, "chroot-import", "web", tree)
    assert first.returncode == 0, first.stderr
    assert "holds no systemd, so no machine can boot from it" in first.stderr
    assert "chroot-login web" in first.stderr
    assert "--replace" in call(settings, "chroot-import", "web", tree).stderr
    (tree / "etc/version").write_text("2")
    assert call(settings, "chroot-import", "--replace", "web", tree).returncode == 0
    rows = json.loads(call(settings, "chroot-list", "--generations", "--json").stdout)
    assert [(row["suite"], row["state"]) for row in rows] == [("trixie", "current"), ("trixie", "old")]
    assert seen(tmp_path / "state/web").keys() == seen(tree).keys()


def test_a_roll_back_and_forth(settings: Path, tree: Path, tmp_path: Path) -> None:
    for version in "123":
        (tree / "etc/version").write_text(version)
        assert call(settings, "chroot-import", "--replace", "web", tree).returncode == 0
    newest, middle, _ = (name for name in reversed(left(settings, "web")) if not name.endswith(".json"))

    def current() -> str:
        return (tmp_path / "state/web/etc/version").read_text()

    done = call(settings, "chroot-rollback", "web")
    assert (done.returncode, current()) == (0, "2")
    assert f"generation {middle} is the current one now (was {newest})" in done.stdout
    rows = json.loads(call(settings, "chroot-list", "--generations", "--json").stdout)
    assert [row["state"] for row in rows] == ["newer", "current", "old"]
    assert call(settings, "chroot-rollback", "web").returncode == 0
    assert current() == "1"
    too_far = call(settings, "chroot-rollback", "web")
    assert "no generation before this" in too_far.stderr
    assert newest in too_far.stderr
    assert call(settings, "chroot-rollback", "web", newest).returncode == 0
    assert current() == "3"
    assert "already" in call(settings, "chroot-rollback", "web", newest).stdout
    assert "has no generation 20200101T000000Z" in call(settings, "chroot-rollback", "web", "20200101T000000Z").stderr
    assert "has no generation ../web" in call(settings, "chroot-rollback", "web", "../web").stderr

    assert call(settings, "chroot-rollback", "web", middle).returncode == 0
    (tree / "etc/version").write_text("4")
    assert call(settings, "chroot-import", "--replace", "web", tree).returncode == 0
    assert current() == "4"
    assert os.readlink(tmp_path / "state/web") > f".generations/web/{newest}"


def test_a_clone_is_an_image_of_its_own(settings: Path, tree: Path, tmp_path: Path) -> None:
    assert call(settings, "chroot-import", "web", tree).returncode == 0
    done = call(settings, "chroot-clone", "web", "other")
    assert done.returncode == 0, done.stderr
    assert seen(tmp_path / "state/other") == seen(tmp_path / "state/web")
    assert "already an image other" in call(settings, "chroot-clone", "web", "other").stderr
    assert "there is no image none" in call(settings, "chroot-clone", "none", "new").stderr
    assert "cannot be an image's name" in call(settings, "chroot-clone", "web", "../x").stderr
    assert call(settings, "chroot-remove", "web").returncode == 0
    assert (tmp_path / "state/other/etc/os-release").exists()
    assert sorted(os.listdir(tmp_path / "state")) == [".generations", "other"]


def test_an_image_goes_out_while_it_changes_and_from_a_read_only_disk(
    settings: Path, tree: Path, tmp_path: Path
) -> None:
    assert call(settings, "chroot-import", "web", tree).returncode == 0
    state, out = tmp_path / "state", tmp_path / "x.tar"
    with generations.changing(str(state), "web"):
        done = call(settings, "chroot-export", "web", out)
        assert done.returncode == 0, done.stderr
        done = call(settings, "chroot-clone", "web", "other")
        assert done.returncode == 0, done.stderr
    mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    export: list[str | Path] = [TOOL, "--config", settings, "chroot-export", "--force"]
    shutil.copytree(tree / "etc", state / "plain/etc", symlinks=True)
    for name in ("web", "plain"):
        argv: list[str | Path] = ["unshare", "--mount", "sh", "-c", mount, state, *export, name, out]
        read_only = subprocess.run(argv, capture_output=True, check=False)
        assert read_only.returncode == 0, read_only.stderr.decode()


def test_exports_that_cannot_be(settings: Path, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "state/web").parent.mkdir(mode=0o700)
    shutil.copytree(tree / "etc", tmp_path / "state/web/etc", symlinks=True)
    assert "how to compress" in call(settings, "chroot-export", "web", tmp_path / "x.zip").stderr
    assert "there is no image none" in call(settings, "chroot-export", "none", tmp_path / "x.tar").stderr
    assert "cannot write" in call(settings, "chroot-export", "web", tmp_path / "no/x.tar").stderr
    assert call(settings, "chroot-export", "web", tmp_path / "x.tar").returncode == 0
    assert "--force" in call(settings, "chroot-export", "web", tmp_path / "x.tar").stderr
    piped = subprocess.run([TOOL, "--config", settings, "chroot-export", "web", "-"], capture_output=True, check=True)
    assert piped.stdout == (tmp_path / "x.tar").read_bytes()
    export: list[str | Path] = [TOOL, "--config", settings, "chroot-export", "web", "-"]
    with open("/dev/full", "wb") as output:
        full = subprocess.run(export, stdout=output, stderr=subprocess.PIPE, check=False)
    assert full.returncode != 0
    assert b"No space left" in full.stderr
    assert sorted(os.listdir(tmp_path)) == ["settings.toml", "state", "tree", "x.tar"]
    assert sorted(os.listdir(tmp_path / "state")) == [".generations", "web"]


@pytest.mark.parametrize("how", ["archive", "container image"])
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_an_import_that_is_killed(settings: Path, tmp_path: Path, kill: signal.Signals, how: str) -> None:
    members = [member(f"f{number}", content=bytes(50000)) for number in range(600)]
    if how == "archive":
        content = archive(tmp_path / "x.tar", *members)
    else:
        content = tmp_path / "x.tar"
        layout = oci(tmp_path / "layout", members[:300], members[300:], packed=False)
        subprocess.run(["tar", "--create", f"--file={content}", f"--directory={layout}", "."], check=True)
    command: list[str | Path] = [TOOL, "--config", settings, "chroot-import", "web", content]
    for number in range(6):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(0.08 + 0.06 * number)
        process.send_signal(kill)
        process.wait(10)
        if os.path.lexists(tmp_path / "state/web"):  # also of an import struck between its publishing and its end
            assert len(os.listdir(tmp_path / "state/web")) == 600
            break
        complete = [name for name in left(settings, "web") if not name.startswith(".") and not name.endswith(".json")]
        if kill == signal.SIGTERM and not complete:
            assert left(settings, "web") == []
    done = call(settings, "chroot-import", "--replace", "web", content)
    assert done.returncode == 0, done.stderr
    assert len(os.listdir(tmp_path / "state/web")) == 600
    assert [name for name in left(settings, "web") if name.startswith(".")] == []
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True).stdout
    assert f"{tmp_path}/state".encode() not in processes


def test_a_folder_with_mounts_or_the_images_is_refused(settings: Path, tmp_path: Path) -> None:
    assert (
        "something is mounted in /"
        in call(settings, "chroot-import", "x", "/sys").stderr + call(settings, "chroot-import", "x", "/dev").stderr
    )
    assert "holds the images themselves" in call(settings, "chroot-import", "x", tmp_path).stderr


# A real image, on a real host.


def tool(host: DisposableHost, *arguments: str | Path) -> bytes:
    done = host.run([TOOL, *arguments], check=False, timeout=240)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout + done.stderr


@pytest.fixture
def removed(host: DisposableHost) -> Iterator[None]:
    yield
    for name in ("copy", "clone"):
        host.run([TOOL, "chroot-remove", "--force", name], check=False)
    host.run(["rm", "--force", "/root/a.tar", "/root/b.tar"])


def test_a_real_image_goes_and_comes_back_and_boots(host: DisposableHost, removed: None) -> None:
    tool(host, "chroot-export", "bookworm", "/root/a.tar")
    told = tool(host, "chroot-import", "copy", "/root/a.tar")
    assert b"left out" not in told
    assert b"holds no systemd" not in told
    tool(host, "chroot-export", "copy", "/root/b.tar")
    host.run(["cmp", "/root/a.tar", "/root/b.tar"])
    clone_began = time.monotonic()
    tool(host, "chroot-clone", "copy", "clone")
    if host.state == "btrfs":
        assert time.monotonic() - clone_began < 5
        assert host.path(f"{STATE_FOLDER}/.generations/clone").exists()
    tool(host, "prepare", "--id", "901", "clone")
    try:
        used = os.readlink(host.path(STATE_FOLDER) / "clone")
        tool(host, "chroot-import", "--replace", "clone", "/usr/share/doc")
        tool(host, "chroot-rollback", "clone")
        assert os.readlink(host.path(STATE_FOLDER) / "clone") == used
        host.path("/root/script").write_text("systemctl is-system-running; stat -c %a /usr/bin/sudo; ls /home")
        assert b"running\n4755" in tool(host, "run", "--id", "901", "/root/script")
    finally:
        tool(host, "cleanup", "--id", "901")


@ON_ONE
def test_jobs_get_the_environment_that_a_container_image_names(host: DisposableHost, removed: None) -> None:
    odd = "a 'quoted' \"word\" of 5 %d $HOME `id` \\ and\na line"
    unusual = ["no name=x", "EMPTY=", "1=2", f"BIG={'x' * 65536}"]
    config = {
        "Env": [f"ODD={odd}", "PATH=/opt/tool/bin:/usr/bin:/bin", "CI_OWN=image", *unusual],
        "Entrypoint": ["/bin/entry", "--now"],
        "WorkingDir": "/srv/app",
        "User": "worker",
    }
    host.run(["mkdir", "/root/saved"])
    tool(host, "chroot-export", "bookworm", "/root/saved/layer.tar")
    layer = hashlib.sha256(host.path("/root/saved/layer.tar").read_bytes()).hexdigest()
    image = {"rootfs": {"diff_ids": [f"sha256:{layer}"]}, "config": config}
    host.path("/root/saved/config.json").write_text(json.dumps(image))
    described = [{"Config": "config.json", "RepoTags": ["app:1"], "Layers": ["layer.tar"]}]
    host.path("/root/saved/manifest.json").write_text(json.dumps(described))
    done = host.run([TOOL, "chroot-import", "copy", "/root/saved"], timeout=300)
    assert b"but ignore its ENTRYPOINT /bin/entry --now, WORKDIR /srv/app, USER worker" in done.stderr
    assert b"that jobs do not get, because of name or size: no name, 1, BIG\n" in done.stderr
    host.run(["rm", "--recursive", "/root/saved"])
    tool(host, "chroot-login", "copy", "--", "true")  # a change keeps what is known
    tool(host, "prepare", "--id", "902", "copy")
    try:
        script = 'CI_OWN=${CI_OWN}-job; printf "%s|%s|%s|%s|%s" "$ODD" "$PATH" "$CI_OWN" "${EMPTY-unset}" "$USER"'
        host.path("/root/script").write_text(f"#!/bin/bash\n\nset -eu\n{script}\n")
        said = tool(host, "run", "--id", "902", "/root/script").decode()
        assert said == f"{odd}|/opt/tool/bin:/usr/bin:/bin|image-job||root"
    finally:
        tool(host, "cleanup", "--id", "902")
