"""Untrusted archives: detect the compression, and unpack safely."""

from __future__ import annotations

import json
import os
import stat
import sys
from typing import NamedTuple

from ...errors import HostError
from ...host import process
from .unpack import Report

# Magic numbers: RFC 1952, the xz file format 1.2.1, RFC 8878, and what bzip2(1) writes.
_MAGIC = ((b"\x1f\x8b", "gzip"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bzip2"))
# Commands with this prefix see no network and die with us. Decompressors run as nobody: they need only their pipes.
ALONE = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--mount", "--net", "--ipc", "--pid", "--fork",
          "--kill-child", "--"]  # fmt: skip
_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--"]
_START = "import sys; sys.path.insert(0, sys.argv[1]); from nspawn_runner.images.archive import unpack; " \
         "sys.exit(unpack.main(sys.argv[2:]))"  # fmt: skip
_SIGPIPE = -13


class UnpackLimits(NamedTuple):
    """How much may be unpacked: bytes on disk, and files of all kinds."""

    size_bytes: int
    files: int


def compression(head: bytes) -> str:
    """Return the program that decompresses data that begins with ``head``, or nothing if it looks uncompressed."""
    return next((program for magic, program in _MAGIC if head.startswith(magic)), "")


def open_archive(path: str) -> int:
    """Open the file ``path`` and return its descriptor; raises HostError when it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise HostError(f"cannot import {path}: neither a file nor a folder", advice="save it to a file first")
    return fd


def unpack(fd: int, root: str, *, what: str, limits: UnpackLimits, layer: bool = False) -> Report:
    """Unpack the archive ``fd`` (from its start) into the folder ``root`` and return a report.

    ``layer`` applies it as a layer of a container image, on top of the present content. Raises HostError about
    ``what`` when the archive is damaged, hostile or too big; files unpacked until then stay in ``root``.
    """
    program = compression(os.pread(fd, 6, 0))
    os.lseek(fd, 0, os.SEEK_SET)
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    argv = [*ALONE, sys.executable, "-ISc", _START, package, root, str(limits.size_bytes), str(limits.files),
            "layer" if layer else "archive"]  # fmt: skip
    children: list[process.Popen] = []
    try:
        if program:
            children.append(process.spawn([*ALONE, *_NOBODY, program, "--decompress", "--stdout"], stdin=fd,
                                          stdout=process.PIPE, stderr=process.PIPE, own_session=True))  # fmt: skip
        source = children[0].stdout if children else None
        unpacker = process.spawn(argv, stdin=source.fileno() if source else fd,
                                 stdout=process.PIPE, stderr=process.PIPE, own_session=True)  # fmt: skip
        children.append(unpacker)
        if source:
            source.close()  # or the program would not notice the unpacker's end
        output, said = process.output_of(unpacker)
        complaint = _end(children[0], program) if program else ""
    finally:
        for child in children:
            process.end_confined(child)
    if unpacker.returncode or complaint:
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        reason = complaint or last or f"unpacking ended with status {unpacker.returncode}"
        raise HostError(f"cannot unpack {what}", facts=reason)
    return Report(**json.loads(output))


def _end(child: process.Popen, program: str) -> str:
    """Wait for the decompressing program and return its error message, unless that is a closed pipe."""
    said = process.output_of(child)[1].decode(errors="replace").strip()
    status = child.returncode
    if status in {0, _SIGPIPE, 128 - _SIGPIPE} or "roken pipe" in said:
        return ""
    if "No such file" in said and "setpriv" in said:
        return process.missing([program]).what
    return f"{program}: {said.rpartition(chr(10))[2].removeprefix(program).lstrip(': ') or f'exit status {status}'}"
