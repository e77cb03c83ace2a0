"""Read an untrusted tar archive as a stream, in bounded memory.

Formats: ustar and pax as in POSIX.1-2017 (pax, "ustar Interchange Format" and "pax Header Block"), GNU's long names,
base-256 numbers and sparse files, old and pax 0.0 to 1.0 (GNU tar manual, "Tar Internals"). Not tarfile: it takes a
damaged header in the middle for the end, reads headers of any length into memory, and decodes names and values.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from . import tar_fields
from .tar_fields import BLOCK, DamagedError

# A pax header holds names and extended attributes; the kernel's limits are 4 KiB for a path, 64 KiB for an attribute.
MOST_HEADER_BYTES = 4 << 20
_MOST_EXTENTS = 1 << 20
_CHUNK_BYTES = 1 << 20
_XATTR = b"SCHILY.xattr."
_ACLS = {b"SCHILY.acl.access": "system.posix_acl_access", b"SCHILY.acl.default": "system.posix_acl_default"}
# File properties that we do not restore: flags, labels, NFS access control lists.
_NOT_KEPT = (b"SCHILY.acl.ace", b"SCHILY.fflags", b"RHT.security.selinux")
# Records whose empty value means what the header says (POSIX.1-2017, pax).
_OVERRIDES = (b"path", b"linkpath", b"size", b"mtime", b"uid", b"gid")


class Hash(Protocol):
    """A hash object of hashlib."""

    def update(self, data: bytes, /) -> None:
        """Take in more."""

    def hexdigest(self) -> str:
        """Return the digest."""


class Extent(NamedTuple):
    """A run of data in a sparse file; between the runs are holes."""

    offset: int
    size: int


class TarEntry(NamedTuple):
    """A member: ``kind`` is one of "file", "link", "symlink", "folder", "fifo", "char", "block".

    ``name`` and ``target`` are raw bytes, ``mtime_ns`` nanoseconds, ``size`` includes holes. Read the
    data of a file with ``Reader.data`` before the next entry. ``acls`` are access control lists as text, by attribute
    name; ``not_kept`` counts properties that have no field here.
    """

    kind: str
    name: bytes
    target: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    device: tuple[int, int]
    xattrs: dict[str, bytes]
    extents: tuple[Extent, ...]
    acls: dict[str, bytes]
    not_kept: int


_KINDS = {b"0": "file", b"\0": "file", b"7": "file", b"S": "file", b"1": "link", b"2": "symlink", b"3": "char",
          b"4": "block", b"5": "folder", b"D": "folder", b"6": "fifo"}  # fmt: skip


class Reader:
    """Reads an archive from ``fd``; raises DamagedError after ``most_bytes``; ``digest`` is updated with all of it."""

    def __init__(self, fd: int, *, most_bytes: int = 1 << 62, digest: Hash | None = None) -> None:
        self._fd = fd
        self._most = most_bytes
        self._digest = digest
        self._buffer = b""
        self._at = 0
        self._taken = 0
        self._unread = 0  # data of the current member, with its padding
        self._padding = 0

    def __iter__(self) -> Iterator[TarEntry]:
        """Yield the members up to the end mark; raises DamagedError."""
        global_pax: dict[bytes, bytes] = {}
        while True:
            header, pax = self._header(global_pax)
            if header is None:
                return
            yield self._entry(header, pax)
            self._skip()

    def data(self) -> Iterator[bytes]:
        """Yield the current member's data, without its holes."""
        while self._unread:
            yield self._part(min(self._unread, _CHUNK_BYTES))

    def drain(self) -> None:
        """Read past the end mark, so that the writer of the stream exits normally and the digest is complete."""
        while self._fill():
            self._at = len(self._buffer)

    def _header(self, global_pax: dict[bytes, bytes]) -> tuple[bytes | None, dict[bytes, bytes]]:
        """Return the next member's header block and the extended headers before it; None at the end."""
        pax = dict(global_pax)
        while True:
            block = self._exactly(BLOCK)
            if not block.strip(b"\0"):
                return None, pax
            tar_fields.check_sum(block)
            kind = block[156:157]
            if kind in b"xXgLK":
                text = self._header_text(tar_fields.number(block[124:136]))
                if kind == b"g":
                    global_pax.update(tar_fields.pax_records(text))
                    pax.update(global_pax)
                elif kind in b"xX":
                    pax.update(tar_fields.pax_records(text))
                else:
                    pax[b"path" if kind == b"L" else b"linkpath"] = text.split(b"\0", 1)[0]
            elif kind == b"V":
                self._header_text(tar_fields.number(block[124:136]))
            elif kind == b"M" or b"GNU.volume.filename" in pax:
                raise DamagedError("it is one volume of several: join them into one archive first")
            else:
                return block, {key: value for key, value in pax.items() if value or key not in _OVERRIDES}

    def _header_text(self, size: int) -> bytes:
        if size > MOST_HEADER_BYTES:
            raise DamagedError(f"an extended header has {size} bytes, more than {MOST_HEADER_BYTES}")
        return self._exactly(tar_fields.padded(size))[:size]

    def _entry(self, block: bytes, pax: dict[bytes, bytes]) -> TarEntry:
        kind = _KINDS.get(block[156:157])
        if kind is None:
            raise DamagedError(f"a member of an unknown type: {block[156:157]!r}")
        name, target = tar_fields.member_name(block, pax), pax.get(b"linkpath", tar_fields.text(block[157:257]))
        if kind == "file" and name.endswith(b"/") and block[156:157] in b"\00":
            kind = "folder"  # before ustar, folders were files with such names
        stored = tar_fields.decimal(pax[b"size"]) if b"size" in pax else tar_fields.number(block[124:136])
        if b"\0" in name or b"\0" in target:
            raise DamagedError("a name holds a NUL byte")
        # In an incremental archive, a folder's data is a list of its content.
        self._unread = stored if kind == "file" or block[156:157] == b"D" else 0
        self._padding = tar_fields.padded(self._unread) - self._unread
        size, extents = self._sparse(block, pax, stored) if kind == "file" else (0, ())
        device = (0, 0)
        if kind in {"char", "block"}:
            device = (tar_fields.number(block[329:337]), tar_fields.number(block[337:345]))
        mtime_ns = tar_fields.seconds(block[136:148]) * 10**9
        if b"mtime" in pax:
            mtime_ns = tar_fields.nanoseconds(pax[b"mtime"])
        return TarEntry(
            kind=kind,
            name=name,
            target=target,
            mode=tar_fields.number(block[100:108]) & 0o7777,
            uid=tar_fields.owner(pax, b"uid", block[108:116]),
            gid=tar_fields.owner(pax, b"gid", block[116:124]),
            mtime_ns=mtime_ns,
            size=size,
            device=device,
            xattrs={os.fsdecode(key[len(_XATTR) :]): value for key, value in pax.items() if key.startswith(_XATTR)},
            extents=extents,
            acls={name: pax[key] for key, name in _ACLS.items() if pax.get(key)},
            not_kept=sum(key in pax for key in _NOT_KEPT),
        )

    def _sparse(self, block: bytes, pax: dict[bytes, bytes], stored: int) -> tuple[int, tuple[Extent, ...]]:
        """Return a file's size with holes and its extents; usually a single one."""
        if block[156:157] == b"S":
            numbers = self._old_sparse(block)
            size = tar_fields.number(block[483:495])
        elif pax.get(b"GNU.sparse.major") == b"1":
            numbers = self._sparse_map()
            size = tar_fields.decimal(pax.get(b"GNU.sparse.realsize", b""))
        elif b"GNU.sparse.map" in pax:
            numbers = [tar_fields.decimal(word) for word in pax[b"GNU.sparse.map"].split(b",") if word]
            size = tar_fields.decimal(pax.get(b"GNU.sparse.size", b""))
        else:
            return stored, (Extent(0, stored),)
        extents = tuple(Extent(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=False))
        if sum(extent.size for extent in extents) != self._unread or any(sum(each) > size for each in extents):
            raise DamagedError("the map of a sparse file does not fit its data")
        return size, extents

    def _old_sparse(self, block: bytes) -> list[int]:
        fields, more = block[386:482], block[482]
        while more:
            if len(fields) > _MOST_EXTENTS * 24:
                raise DamagedError("a sparse file has too many pieces")
            extension = self._exactly(BLOCK)
            fields, more = fields + extension[:504], extension[504]
        words = (fields[at : at + 12] for at in range(0, len(fields), 12))
        return [tar_fields.number(word) for word in words if word.strip(b"\0")]

    def _sparse_map(self) -> list[int]:
        """Read the map that precedes the data in format 1.0: lines of numbers, their count first."""
        first = self._part(BLOCK)
        count = tar_fields.decimal(first.partition(b"\n")[0])
        parts, lines = [first], first.count(b"\n")
        while lines < 1 + 2 * count:
            if count > _MOST_EXTENTS or len(parts) * BLOCK > MOST_HEADER_BYTES:
                raise DamagedError("a sparse file has too many pieces")
            parts.append(self._part(BLOCK))
            lines += parts[-1].count(b"\n")
        return [tar_fields.decimal(line) for line in b"".join(parts).split(b"\n")[1 : 1 + 2 * count]]

    def _part(self, size: int) -> bytes:
        if size > self._unread:
            raise DamagedError("the map of a sparse file does not fit its data")
        self._unread -= size
        return self._exactly(size)

    def _skip(self) -> None:
        for _ in self.data():
            pass
        self._exactly(self._padding)
        self._padding = 0

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            if self._at == len(self._buffer) and not self._fill():
                raise DamagedError("the archive ends in the middle, or is one volume of several")
            part = self._buffer[self._at : self._at + size]
            self._at += len(part)
            size -= len(part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _fill(self) -> bool:
        self._buffer, self._at = os.read(self._fd, _CHUNK_BYTES), 0
        self._taken += len(self._buffer)
        if self._taken > self._most:
            raise DamagedError(f"the archive unpacks to more than {self._most >> 20} MiB")
        if self._digest:
            self._digest.update(self._buffer)
        return bool(self._buffer)
