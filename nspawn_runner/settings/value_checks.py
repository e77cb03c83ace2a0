"""Checks of the values of settings; each returns what is wrong in words that follow the key, or nothing."""

from __future__ import annotations

from collections.abc import Callable

from ..light_typing import Any, NamedTuple
from ..names import is_image_name, is_plain_path
from .quantities import AUTO, INFINITY, is_number, is_share, seconds, shown_bytes, size_bytes
from .tables import UNLIMITED


class Key(NamedTuple):
    """A key of a table that there can be more than one of: its ``check``, and what the documents say of it."""

    check: Callable[[Any], str] | None
    help: str
    details: str = ""


def one_of(*words: str) -> Callable[[Any], str]:
    """Return the check that a value is one of ``words``."""
    return lambda value: "" if value in words else f"must be one of {', '.join(words)}"


def absolute_path(value: str) -> str:
    """Check an absolute path."""
    return "" if is_plain_path(value) else "must be an absolute path of letters, digits and . _ + @ -"


def between(least: int, most: int) -> Callable[[int], str]:
    """Return the check that a number is at least ``least`` and at most ``most``."""
    return lambda value: "" if least <= value <= most else f"must be between {least} and {most}"


def size(value: str) -> str:
    """Check a size, or a share of the host's memory."""
    ok = is_share(value) or size_bytes(value)
    return "" if ok else 'must be a size such as "512M", "4G" or "50%"'


def room(value: str) -> str:
    """Check a size of which ``infinity`` is one."""
    return "" if value == INFINITY or size_bytes(value) else 'must be a size such as "20G"'


def image_name(value: str) -> str:
    """Check the name of an image."""
    return "" if is_image_name(value) else "must be the name of an image"


def interface(value: str) -> str:
    """Check the name of a network interface."""
    ok = 0 < len(value) <= 15 and value.isascii() and all(char.isalnum() or char in "-_" for char in value)
    return "" if ok else "must be a network interface's name of at most 15 letters, digits, - and _"


def subnet(value: str) -> str:
    """Check an IPv4 /20; empty is one that is chosen."""
    from ipaddress import IPv4Network

    if not value:
        return ""
    try:
        network = IPv4Network(value)
    except ValueError as error:
        return f"must be an IPv4 network: {error}"
    return "" if network.prefixlen == 20 else "must be a /20: one address for each of up to 4094 machines"


def user(value: str) -> str:
    """Check the name of a user; empty is root."""
    plain = value.isascii() and all(char.isalnum() or char in "._-" for char in value)
    ok = plain and len(value) <= 31 and not value[:1].isdigit() and value[:1] not in {".", "-"}
    return "" if ok else "must be a user's name: at most 31 letters, digits and . _ -, a letter or _ first"


def program(value: str) -> str:
    """Check the path of a program, which may be found by itself or left out."""
    return "" if value in {"auto", ""} else absolute_path(value)


def time(value: str) -> str:
    """Check a time; empty is none."""
    return "" if not value or seconds(value) is not None else 'must be a time such as "30min", "2h" or "1d"'


def relative_file(value: str) -> str:
    """Check the path of a file below a folder; empty is none."""
    plain = is_plain_path(f"/{value}") and not {"", ".", ".."} & set(value.split("/"))
    return "" if not value or plain else "must be a relative path of letters, digits and . _ + @ -"


def list_of(fits: Callable[[Any], bool], what: str, *, kind: type = str, least: int = 0) -> Callable[[Any], str]:
    """Return the check of a list of at least ``least`` items of the type ``kind``, which fit and are ``what``."""

    def check(value: Any) -> str:
        if not isinstance(value, list) or len(value) < least:
            return f"must be a list{', not empty,' if least else ''} of {what}"
        wrong = next((item for item in value if type(item) is not kind or not fits(item)), None)
        return "" if wrong is None else f"must be a list of {what}, not {str(wrong)[:60]!r}"

    return check


def is_address(text: str) -> bool:
    """Return whether ``text`` is an IP address."""
    from ipaddress import ip_address

    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def is_closable(text: str) -> bool:
    """Return whether ``text`` names a network that machines can be kept from."""
    from ipaddress import IPv4Network

    try:
        return text in {"private", "metadata"} or str(IPv4Network(text)) == text
    except ValueError:
        return False


def is_port(text: str) -> bool:
    """Return whether ``text`` is a port such as tcp/8080."""
    protocol, _, number = text.partition("/")
    digits = number.isascii() and number.isdigit() and len(number) <= 5 and number[0] != "0"
    return protocol in {"tcp", "udp"} and digits and int(number) <= 65535


def extra_hosts(value: Any) -> str:
    """Check a table of host names and their addresses."""
    ok = isinstance(value, dict) and all(
        _is_host_name(name) and type(address) is str and is_address(address) for name, address in value.items()
    )
    return "" if ok else 'must be a table of host names and addresses such as { "mirror" = "192.0.2.7" }'


def _is_host_name(name: str) -> bool:
    plain = name.isascii() and all(char.isalnum() or char in ".-" for char in name)
    return 0 < len(name) <= 253 and plain and name[0].isalnum()


def images(value: Any) -> str:
    """Check the table of what jobs ask for and the local images that they get; its values are checked one by one."""
    return "" if isinstance(value, dict) else 'must be a table of "what a job asks for" = "local image"'


def environment(value: Any) -> str:
    """Check a table of variables and their values, as a shell can set them."""
    ok = isinstance(value, dict) and all(
        is_variable(name) and type(text) is str and "\0" not in text and len(text) < 1 << 15
        for name, text in value.items()
    )
    return "" if ok else "must be a table of variables and texts such as { PIP_INDEX_URL = \"http://…\" }"


def is_variable(name: str) -> bool:
    """Return whether a shell can set a variable ``name``."""
    return name.isascii() and name.replace("_", "a").isalnum() and not name[0].isdigit()


def cpu_list(value: str) -> str:
    """Check a list of CPUs; empty is all."""
    for part in value.split(",") if value else []:
        first, dash, last = part.partition("-")
        if not is_number(first, 4) or (dash and not (is_number(last, 4) and int(first) <= int(last))):
            return 'must be a list of CPUs such as "0-3,6"'
    return ""


# The limits of machines: classes, since a job's own limits are held against the same numbers.


class Count(NamedTuple):
    """Check a whole number from ``least`` to ``most``; with ``zero`` also 0."""

    least: int
    most: float = UNLIMITED
    zero: bool = False
    auto: bool = False

    def problem(self, value: Any) -> str:
        """Return what is wrong with ``value``."""
        if type(value) is not int:
            return "must be a whole number"
        if self.least <= value <= min(self.most, 10**9 - 1) or (value == 0 and self.zero):
            return ""
        least, most = f"{self.least:g}", f"{self.most:g}"
        return f"must be at least {least}" if self.most == UNLIMITED else f"must be between {least} and {most}"


class Size(NamedTuple):
    """Check a size of at least ``least`` bytes, or infinity; where set also auto, or a share of the memory."""

    least: int
    most: float = 1 << 60  # what fits into the kernel's and systemd's 64 bits
    auto: bool = False
    share: bool = True

    def problem(self, value: Any) -> str:
        """Return what is wrong with ``value``."""
        if type(value) is not str:
            return "must be a text in quotes"
        words = (INFINITY, *([AUTO] if self.auto else []))
        if value in words or (self.share and is_share(value)):
            return ""
        size = size_bytes(value)
        if size is None:
            examples = '"512M", "4G" or "50%"' if self.share else '"512M" or "4G"'
            return f"must be a size such as {examples}, or {' or '.join(words)}"
        if size > self.most:
            return f"must be at most {shown_bytes(self.most)}"
        return "" if size >= self.least else f"must be at least {shown_bytes(self.least)}"


class Cpus(NamedTuple):
    """Check a number of CPUs from ``least`` on, infinity or auto."""

    least: float = 0.1
    most: float = UNLIMITED
    auto: bool = True

    def problem(self, value: Any) -> str:
        """Return what is wrong with ``value``."""
        if type(value) in {int, float}:
            ok = self.least <= value < 10000
        else:
            ok = type(value) is str and value in {AUTO, INFINITY}
        return "" if ok else f"must be a number of CPUs from {self.least} on, or {INFINITY} or {AUTO}"
