"""Reading tar archives: what is in them is found, and nothing in them does more than fail."""

import contextlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nspawn_runner.images.archive.tar_fields import BLOCK, DamagedError
from nspawn_runner.images.archive.tar_reader import Extent, Reader, TarEntry

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def archive(*members: tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return file.getvalue()


def member(name: str = "file", **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], list[tuple[TarEntry, bytes]]]:
    path = tmp_path_factory.mktemp("tar") / "archive"

    def read_all(content: bytes) -> list[tuple[TarEntry, bytes]]:
        path.write_bytes(content)
        fd = os.open(path, os.O_RDONLY)
        try:
            reader = Reader(fd)
            return [(entry, b"".join(reader.data())) for entry in reader]
        finally:
            os.close(fd)

    return read_all


Read = Callable[[bytes], list[tuple[TarEntry, bytes]]]


@pytest.mark.parametrize("form", FORMATS)
def test_members_are_as_they_were_written(read: Read, form: int) -> None:
    content = archive(
        member("folder", type=tarfile.DIRTYPE, mode=0o1777),
        member("folder/file", size=1000, mode=0o4755, uid=1000, gid=65534, mtime=12345),
        member("link", type=tarfile.SYMTYPE, linkname="../else"),
        member("hard", type=tarfile.LNKTYPE, linkname="folder/file"),
        member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("pipe", type=tarfile.FIFOTYPE),
        form=form,
    )
    entries = read(content)
    assert [(entry.kind, entry.name.rstrip(b"/")) for entry, _ in entries] == [
        ("folder", b"folder"), ("file", b"folder/file"), ("symlink", b"link"), ("link", b"hard"), ("char", b"null"),
        ("fifo", b"pipe"),
    ]  # fmt: skip
    file, data = entries[1]
    assert (file.mode, file.uid, file.gid, file.mtime_ns) == (0o4755, 1000, 65534, 12345 * 10**9)
    assert data == b"x" * 1000
    assert entries[0][0].mode == 0o1777
    assert entries[2][0].target == b"../else"
    assert entries[3][0].target == b"folder/file"
    assert entries[4][0].device == (1, 3)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["n" * 250, "d/" * 100 + "ä", "line\nbreak", os.fsdecode(b"\xff\xfe")])
def test_names_of_all_kinds(read: Read, form: int, name: str) -> None:
    [(entry, _)] = read(archive(member(name, type=tarfile.SYMTYPE, linkname=name * 2), form=form))
    assert (entry.name, entry.target) == (os.fsencode(name), os.fsencode(name * 2))


def test_extended_headers_are_exact(read: Read) -> None:
    binary = b"\x01\0\0\x02\xff\n17 a=b\n"
    pax = {"mtime": "1700000000.123456789", "SCHILY.xattr.user.x": os.fsdecode(binary), "uid": "4000000000"}
    [(entry, _)] = read(archive(member(pax_headers=pax)))
    assert entry.mtime_ns == 1700000000123456789
    assert entry.xattrs == {"user.x": binary}
    assert entry.uid == 4000000000


@pytest.mark.parametrize(
    "pax",
    [
        {"GNU.sparse.size": "1000", "GNU.sparse.map": "0,5,995,5"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1000", "GNU.sparse.name": "other"},
    ],
)
def test_sparse_files(read: Read, pax: dict[str, str]) -> None:
    mapped = b"2\n0\n5\n995\n5\n".ljust(BLOCK, b"\0") if "GNU.sparse.major" in pax else b""
    stored = mapped + b"1" * 10
    content = archive(member(size=len(stored), pax_headers=pax)).replace(b"x" * len(stored), stored)
    [(entry, data)] = read(content)
    assert (entry.size, entry.extents, data) == (1000, (Extent(0, 5), Extent(995, 5)), b"1" * 10)
    assert entry.name == pax.get("GNU.sparse.name", "file").encode()


def header(**fields: bytes) -> bytes:
    """A plain header with some fields overwritten and a right checksum."""
    block = bytearray(archive(member(), form=tarfile.USTAR_FORMAT)[:BLOCK])
    places = {"size": 124, "kind": 156, "mtime": 136, "uid": 108, "mode": 100}
    for field, value in fields.items():
        block[places[field] : places[field] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = bytes(2 * BLOCK)


def pax_header(text: bytes) -> bytes:
    return header(kind=b"x", size=b"%011o\0" % len(text)) + text.ljust(-(-len(text) // BLOCK) * BLOCK, b"\0")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive" * 100,
        header(),
        header(size=b"77777777777\0") + END,
        header(size=b"\xff" * 12) + END,
        header(size=b"\x80" + b"\xff" * 11) + END,
        header(size=b"-0000000001\0") + END,
        header(kind=b"Q") + END,
        header(kind=b"x", size=b"77777777777\0") + END,
        header(kind=b"L", size=b"77777777777\0") + END,
        pax_header(b"5 a=") + header() + END,
        pax_header(b"0 a=b\n") + header() + END,
        pax_header(b"99999999999999999999999 a=b\n") + header() + END,
        pax_header(b"12 size=-10\n") + header() + END,
        pax_header(b"11 uid=1e5\n") + header() + END,
        pax_header(b"14 path=a\0bcd\n") + header() + END,
        pax_header(b"28 GNU.sparse.map=0,9999999\n26 GNU.sparse.size=10000\n") + header() + END,
        pax_header(b"22 GNU.sparse.major=1\n") + header() + END,
        bytes(range(256)) * 4,
    ],
)  # fmt: skip
def test_what_is_damaged_is_told(read: Read, content: bytes) -> None:
    with pytest.raises(DamagedError):
        read(content)


@pytest.mark.parametrize(
    "seconds", [b"\xff" * 12, b"\x80\0\0\0\x3f" + b"\x7f" * 7, b"\xff" + b"\0" * 11, b"77777777777\0"]
)
def test_times_are_bounded(read: Read, seconds: bytes) -> None:
    [(entry, _)] = read(header(mtime=seconds) + END)
    assert abs(entry.mtime_ns) < 1 << 63


def test_an_archive_that_ends_anywhere_is_told(read: Read) -> None:
    content = archive(member(size=700), member("n" * 150, size=10))
    whole = content[: len(content.rstrip(b"\0")) // BLOCK * BLOCK + BLOCK]
    for end in range(0, len(whole) + 1, 100):
        with pytest.raises(DamagedError):
            read(whole[:end])


BASE = archive(
    member("a" * 150, size=600, pax_headers={"SCHILY.xattr.user.x": "y", "mtime": "1.5"}),
    member("s", size=10, pax_headers={"GNU.sparse.size": "1000", "GNU.sparse.map": "0,5,995,5"}),
    member("l", type=tarfile.SYMTYPE, linkname="b" * 150),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, len(BASE) - 1), st.integers(0, 255)), max_size=6), mend=st.booleans())
def test_no_archive_does_more_than_fail(read: Read, changes: list[tuple[int, int]], mend: bool) -> None:
    content = bytearray(BASE)
    for at, value in changes:
        content[at] = value
        if mend:
            start = at // BLOCK * BLOCK
            content[start + 148 : start + 156] = b" " * 8
            content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + BLOCK])
    with contextlib.suppress(DamagedError):
        for entry, _ in read(bytes(content)):
            assert entry.size >= 0
            assert all(extent.offset + extent.size <= entry.size for extent in entry.extents)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=3000))
def test_no_pax_header_does_more_than_fail(read: Read, content: bytes) -> None:
    with contextlib.suppress(DamagedError):
        read(pax_header(content) + header() + END)


def test_a_bound_on_all_that_comes(tmp_path: Path) -> None:
    (tmp_path / "zeros").write_bytes(archive(member(size=5000)) + bytes(4 << 20))
    fd = os.open(tmp_path / "zeros", os.O_RDONLY)
    reader = Reader(fd, most_bytes=3 << 20)
    with pytest.raises(DamagedError, match="3 MiB"):  # noqa: PT012
        for _ in reader:
            pass
        reader.drain()
    os.close(fd)
