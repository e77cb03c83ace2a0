"""Write a tree to a tar archive; the same tree always gives the same bytes."""

from __future__ import annotations

import os

from ...errors import HostError, UsageError
from ...host import files, process
from . import archives

# File name ending → compressor. The number of threads and the block size are fixed because the output of xz and
# zstd depends on them. gzip leaves out name and time.
_COMPRESSORS = {
    ".tar": [],
    ".tar.gz": ["gzip", "--no-name", "--stdout"],
    ".tar.xz": ["xz", "--threads=2", "--block-size=64MiB", "--stdout"],
    ".tar.zst": ["zstd", "--quiet", "--threads=2", "--stdout"],
}
# GNU tar manual, "Reproducibility": fixed order, numeric owners, and no process ids and no times but the files' own in
# extended headers. tar still writes its pid into the names of sparse files, so it runs in its own PID namespace, where
# its pid is 1. trusted.* belongs to this host's file systems, mainly to overlay.
_OPTIONS = (
    "--create", "--format=posix", "--sort=name", "--numeric-owner", "--sparse", "--xattrs", "--xattrs-include=*",
    "--xattrs-exclude=trusted.*", "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
    "--warning=no-file-ignored",
)  # fmt: skip


def compression(path: str) -> str:
    """Return the ending of ``path`` that selects the compression; raises UsageError when it is unknown."""
    if path == "-":
        return ".tar"
    found = [ending for ending in _COMPRESSORS if path.endswith(ending) and path != ending]
    if not found:
        raise UsageError(
            f"the name {path} does not say how to compress", advice=f"use one of the endings {', '.join(_COMPRESSORS)}"
        )
    return found[-1]


def write_file(root: str, path: str, ending: str) -> int:
    """Write the tree ``root`` to the file ``path`` atomically and return the file's size in bytes."""
    draft = f"{path}.{os.getpid()}.new"
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from None
    try:
        try:
            write(root, fd, ending)
            size = os.fstat(fd).st_size
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(draft, path)
    except BaseException:
        files.remove_file(draft)
        raise
    return size


def write(root: str, fd: int, ending: str) -> None:
    """Write the tree ``root`` to ``fd``, compressed as for a file with ``ending``; raises HostError."""
    tar = [*archives.ALONE, "tar", *_OPTIONS, f"--directory={root}", "--", "."]
    compressor = _COMPRESSORS[ending]
    children = []
    try:
        children.append(process.spawn(tar, stdout=process.PIPE if compressor else fd, stderr=process.PIPE))
        if compressor:
            source = children[0].stdout
            assert source is not None  # noqa: S101  (tells mypy about PIPE)
            children.append(process.spawn(compressor, stdin=source.fileno(), stdout=fd, stderr=process.PIPE))
            source.close()  # or tar would not notice the compressor's end
        for child in reversed(children):
            said = process.output_of(child)[1]
            if child.returncode:
                lines = said.decode(errors="replace").strip().splitlines()
                raise HostError("cannot write the archive", facts=lines[0] if lines else f"status {child.returncode}")
    finally:
        for child in children:
            process.end_confined(child)
