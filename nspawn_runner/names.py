"""Legal names of images, jobs and machines; pure functions on untrusted text."""

from __future__ import annotations

MAX_IMAGE_NAME = 64


def host_name(text: str) -> str:
    """Return ``text`` as a legal host name: at most 40 letters, digits and - (hostname(7))."""
    words = "".join(char if char.isascii() and char.isalnum() else " " for char in text).split()
    return "-".join(words)[:40].strip("-") or "image"


def is_image_name(name: str) -> bool:
    """Return whether ``name`` can be an image's: 1 to 64 ASCII letters, digits, and . _ - after the first."""
    return (
        0 < len(name) <= MAX_IMAGE_NAME
        and name.isascii()
        and name[0].isalnum()
        and all(char.isalnum() or char in "._-" for char in name)
    )


def is_image_pattern(text: str) -> bool:
    """Return whether ``text`` is an image's name or a shell pattern (* ? [...]) that some image's name could match."""
    plain = text.isascii() and all(char.isalnum() or char in "._-*?[]!" for char in text)
    return plain and 0 < len(text) <= MAX_IMAGE_NAME


def is_plain_path(text: str) -> bool:
    """Return whether ``text`` is an absolute path other than / of letters, digits and . _ + @ -, without ``..``."""
    plain = all(char.isalnum() or char in "/._+@-" for char in text)
    return plain and text.startswith("/") and ".." not in text.split("/") and text != "/"


def is_job_id(text: str) -> bool:
    """Return whether ``text`` is a job's id: 1 to 20 ASCII digits (GitLab's are 64-bit integers)."""
    return 0 < len(text) <= 20 and text.isascii() and text.isdigit()


def is_machine_name(name: str) -> bool:
    """Return whether ``name`` can be a machine's name of ours: at most 40 of a-z, 0-9 and -, a letter first."""
    return (
        0 < len(name) <= 40
        and name.isascii()
        and name[0].isalpha()
        and all(char.isdigit() or char.islower() or char == "-" for char in name)
    )
