"""Create the files of a tar archive, in a process of its own that can reach only the folder it fills.

    python3 -IS -c … ROOT MOST_BYTES MOST_ENTRIES layer|archive      the archive on stdin; a Report as JSON on stdout

The process sees no other folder of the host (host/confine.py) and no network, and has only the capabilities needed to
create files. A malicious link leads to somewhere in ROOT, as it will in the machine, and a bug in here cannot harm the
host either. tar(1) could not be confined like this, because it would need itself and its libraries in the tree; and it
does not support whiteouts. Layers: OCI image specification 1.1, "Image Layer Filesystem Changeset".
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import sys
from contextlib import suppress
from typing import NamedTuple

from ...host import confine
from . import tar_acl
from .tar_fields import DamagedError
from .tar_reader import Reader, TarEntry

# null, zero, full, random, urandom; tty, console, ptmx: usual in trees, and they give no access to the host
# (the kernel's devices.txt). With other nodes, a shell in the tree could reach the host's disks.
HARMLESS_DEVICES = {*((1, minor) for minor in (3, 5, 7, 8, 9)), *((5, minor) for minor in (0, 1, 2))}
_XATTRS = {"security.capability", "system.posix_acl_access", "system.posix_acl_default"}
_DEFAULT_ACL = "system.posix_acl_default"
_HIGHEST_ID = 65535
_WHITEOUT, _AUFS, _OPAQUE = b".wh.", b".wh..wh.", b".wh..wh..opq"
# The approximate disk space of a file besides its content.
_ENTRY_BYTES = 1024
_HEADERS_BYTES = 1 << 30
_NAME_FILES = ((True, b"passwd"), (False, b"group"))
_MOST_NAMES_BYTES = 16 << 20


class Report(NamedTuple):
    """What was unpacked: entries, bytes of content; what was left out or is unusable; the archive's SHA-256.

    ``top`` is the archive's folder that became the tree, ``beside_top`` counts the removed entries beside it.
    """

    entries: int = 0
    size_bytes: int = 0
    devices_left_out: int = 0
    attributes_left_out: int = 0
    high_ids: int = 0
    beside_top: int = 0
    sha256: str = ""
    top: str = ""

    def plus(self, other: Report) -> Report:
        """Return the sum of two reports; the digest and the top are the other's."""
        sums = {key: getattr(self, key) + getattr(other, key) for key in self._fields[:-2]}
        return other._replace(**sums)


class Unpacker:
    """Creates entries below ``root`` (bytes, no slash at the end: empty for "/"); ``layer`` applies whiteouts."""

    def __init__(self, root: bytes, *, most_bytes: int, most_entries: int, layer: bool) -> None:
        self._root = root
        self._most_bytes = most_bytes
        self._most_entries = most_entries
        self._layer = layer
        self._made: set[bytes] = set()  # by this layer: its whiteouts apply only to those below
        self._folders: dict[bytes, tuple[int, bytes | None]] = {}  # modification time, default ACL: set last
        self._acls: dict[bytes, tuple[dict[str, bytes], int]] = {}  # lists as text, mode: users are known at the end
        self.report = Report()

    def unpack(self, reader: Reader) -> None:
        """Create all entries that ``reader`` yields; raises DamagedError and OSError."""
        for entry in reader:
            try:
                self._count(entries=1)
                self._make(entry, reader)
            except OSError as error:
                if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                    raise
                raise DamagedError(f"cannot create {shown(entry.name)}: {error.strerror}") from error
            except (DamagedError, OverflowError, ValueError) as error:
                raise DamagedError(f"{shown(entry.name)}: {error}") from None
        self._set_acls()
        for path, (mtime_ns, acl) in reversed(self._folders.items()):
            with suppress(FileNotFoundError, NotADirectoryError):
                if acl is not None:
                    self._set_xattr(path, _DEFAULT_ACL, acl)
                os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
        reader.drain()

    def _make(self, entry: TarEntry, reader: Reader) -> None:
        name = _inner(entry.name)
        folder, _, last = name.rpartition(b"/")
        if self._layer and last.startswith(_WHITEOUT):
            self._hide(folder, last)
            return
        path = self._path(name)
        if self._layer:
            self._note(name)
        self._make_room(path, name, entry)
        match entry.kind:
            case "folder":
                self._folders[path] = (entry.mtime_ns, entry.xattrs.get(_DEFAULT_ACL))
            case "file":
                self._write(path, entry, reader)
            case "link":
                os.link(self._path(_inner(entry.target)), path, follow_symlinks=False)
                return
            case "symlink":
                os.symlink(entry.target, path)
            case "fifo":
                os.mkfifo(path, 0o600)
            case _:
                if entry.kind != "char" or entry.device not in HARMLESS_DEVICES:
                    self.report = self.report._replace(devices_left_out=self.report.devices_left_out + 1)
                    return
                os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(*entry.device))
        self._dress(path, entry)

    def _make_room(self, path: bytes, name: bytes, entry: TarEntry) -> None:
        """Remove what ``entry`` replaces; create its parent folders, and ``entry`` itself if it is a folder."""
        if not name:
            if entry.kind != "folder":
                raise DamagedError(f"the top of the tree would be a {entry.kind}")
            return
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            folder = os.path.dirname(path)
            if not os.path.isdir(folder):
                os.makedirs(folder, 0o755)
        else:
            if stat.S_ISDIR(mode) and entry.kind == "folder":
                return
            self._remove(path)
        if entry.kind == "folder":
            os.mkdir(path, 0o700)

    def _write(self, path: bytes, entry: TarEntry, reader: Reader) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            extents = iter(entry.extents)
            left = 0
            for read in reader.data():
                self._count(size_bytes=len(read))
                chunk = memoryview(read)
                while chunk:
                    while not left:
                        extent = next(extents)
                        left = extent.size
                        os.lseek(fd, extent.offset, os.SEEK_SET)
                    written = os.write(fd, chunk[:left])
                    left -= written
                    chunk = chunk[written:]
            if len(entry.extents) != 1 or entry.size != entry.extents[0].size:
                os.ftruncate(fd, entry.size)
        finally:
            os.close(fd)

    def _dress(self, path: bytes, entry: TarEntry) -> None:
        """Set the new file's owner, then its mode and attributes, which a change of owner clears."""
        os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
        if max(entry.uid, entry.gid) > _HIGHEST_ID:
            self.report = self.report._replace(high_ids=self.report.high_ids + 1)
        if entry.kind != "symlink":
            os.chmod(path, entry.mode)
        for name, value in entry.xattrs.items():
            if name != _DEFAULT_ACL:
                self._set_xattr(path, name, value)
        self._acls.pop(path, None)
        lists = {name: text for name, text in entry.acls.items() if name not in entry.xattrs}
        if lists and entry.kind != "symlink":
            self._acls[path] = lists, entry.mode
        self._leave_out(entry.not_kept)
        if entry.kind != "folder":
            os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)

    def _set_xattr(self, path: bytes, name: str, value: bytes) -> None:
        """Set an attribute if it means the same everywhere; overlayfs would act on its own ones."""
        kept = name in _XATTRS or (name.startswith("user.") and not name.startswith("user.overlay."))
        try:
            if kept:
                os.setxattr(path, name, value, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise DamagedError(f"its attribute {name[:40]} is too big for this file system") from error
            kept = False
        self._leave_out(not kept)

    def _leave_out(self, count: int) -> None:
        self.report = self.report._replace(attributes_left_out=self.report.attributes_left_out + count)

    def _set_acls(self) -> None:
        """Set the text access control lists. If one cannot be set, the mode must not grant more than it."""
        numbers = _Numbers(self._root)
        for path, (lists, mode) in self._acls.items():
            for name, text in lists.items():
                try:
                    os.setxattr(path, name, tar_acl.binary(text, numbers), follow_symlinks=False)
                except (ValueError, OSError):
                    self._leave_out(1)
                    group = tar_acl.group_mode(text)
                    if name != _DEFAULT_ACL and group is not None:
                        os.chmod(path, mode & ~0o070 | (mode & group << 3))

    def _hide(self, folder: bytes, last: bytes) -> None:
        """Apply a whiteout in ``folder``: remove the named entry of the layers below, or all their entries there."""
        if last == _OPAQUE:
            with suppress(FileNotFoundError, NotADirectoryError):
                for name in os.listdir(self._path(folder) or b"/"):
                    self._hide_one(folder, name)
        elif not last.startswith(_AUFS):
            hidden = last[len(_WHITEOUT) :]
            if hidden in {b"", b".", b".."}:
                raise DamagedError("a whiteout of nothing")
            self._hide_one(folder, hidden)

    def _hide_one(self, folder: bytes, name: bytes) -> None:
        """Remove what the layers below have at ``name``; keep what this layer created there or deeper."""
        waiting = [b"/".join(filter(None, (folder, name)))]
        while waiting:
            inner = waiting.pop()
            path = self._path(inner)
            if inner not in self._made:
                if os.path.lexists(path):
                    self._remove(path)
            elif os.path.isdir(path) and not os.path.islink(path):
                waiting += [inner + b"/" + deeper for deeper in os.listdir(path)]

    def _note(self, name: bytes) -> None:
        """Record that this layer created ``name``, and thus something in each of its parent folders."""
        while name and name not in self._made:
            self._made.add(name)
            name = name.rpartition(b"/")[0]

    def _path(self, name: bytes) -> bytes:
        return self._root + b"/" + name if name else self._root or b"/"

    def _remove(self, path: bytes) -> None:
        """Remove ``path`` without recursion: a tree may be deeper than Python's stack."""
        folders = []
        waiting = [path]
        while waiting:
            at = waiting.pop()
            if stat.S_ISDIR(os.lstat(at).st_mode):
                folders.append(at)
                waiting += [os.path.join(at, name) for name in os.listdir(at)]
            else:
                os.unlink(at)
                self._acls.pop(at, None)
        for folder in reversed(folders):
            os.rmdir(folder)
            self._acls.pop(folder, None)
            self._folders.pop(folder, None)

    def _count(self, *, entries: int = 0, size_bytes: int = 0) -> None:
        report = self.report
        self.report = report._replace(entries=report.entries + entries, size_bytes=report.size_bytes + size_bytes)
        if self.report.entries > self._most_entries:
            raise DamagedError(f"there are more than {self._most_entries} files (see --max-files)")
        if self.report.size_bytes + self.report.entries * _ENTRY_BYTES > self._most_bytes:
            raise DamagedError(f"it unpacks to more than {self._most_bytes >> 20} MiB (see --max-size)")


class _Numbers:
    """The tree's own user and group ids, by name."""

    def __init__(self, root: bytes) -> None:
        self._known = {is_user: _numbers(root + b"/etc/" + file) for is_user, file in _NAME_FILES}

    def __call__(self, is_user: bool, name: bytes) -> int:
        if name not in self._known[is_user]:
            raise ValueError(f"there is no user or group {shown(name)}")
        return self._known[is_user][name]


def _numbers(path: bytes) -> dict[bytes, int]:
    """Return the ids by name in a file such as /etc/passwd (passwd(5), group(5)); empty if there is no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return {}
    with open(fd, "rb") as file:
        lines = file.read(_MOST_NAMES_BYTES).splitlines() if stat.S_ISREG(os.fstat(fd).st_mode) else []
    fields = (line.split(b":") for line in lines)
    return {each[0]: int(each[2]) for each in fields if len(each) > 2 and each[2].isdigit() and len(each[2]) < 10}


def _inner(name: bytes) -> bytes:
    """Return ``name`` as a path below the root, without "." and leading slashes; raises DamagedError for ".."."""
    parts = [part for part in name.split(b"/") if part not in {b"", b"."}]
    if b".." in parts:
        raise DamagedError('a name with ".." in it')
    return b"/".join(parts)


def shown(name: bytes) -> str:
    """Return a member's name for a message: on one line, truncated, whatever bytes it contains."""
    return repr(os.fsdecode(name[:200]))


def main(arguments: list[str]) -> int:
    """Unpack stdin according to ``arguments`` (see the module docstring); 1 with a message on stderr on failure."""
    root, most_bytes, most_entries, kind = arguments
    os.umask(0)
    os.fsencode("ä").decode("utf-8", "surrogateescape")  # loads the codecs: no library is reachable later
    digest = hashlib.sha256()
    try:
        confine.lock_in(root)
        unpacker = Unpacker(b"", most_bytes=int(most_bytes), most_entries=int(most_entries), layer=kind == "layer")
        unpacker.unpack(Reader(0, most_bytes=int(most_bytes) + _HEADERS_BYTES, digest=digest))
    except DamagedError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(os.strerror(error.errno or 0) if error.errno == errno.ENOSPC else str(error))
    except MemoryError:
        return _fail("it takes too much memory to unpack")
    print(json.dumps(unpacker.report._replace(sha256=digest.hexdigest())._asdict()))
    return 0


def _fail(reason: str) -> int:
    print(reason.encode("utf-8", "backslashreplace").decode(), file=sys.stderr)
    return 1
