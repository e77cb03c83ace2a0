"""Checks of the values of settings; each returns what is wrong, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ..light_typing import Any
from ..names import is_image_name, is_image_pattern, is_plain_path
from .amounts import (
    AUTO,
    CAN_BE_AUTO,
    INFINITY,
    LEAST,
    MOST,
    SIZES,
    UNLIMITED,
    is_number,
    is_share,
    seconds,
    shown_bytes,
    size_bytes,
)


def _one_of(*words: str) -> Callable[[Any], str]:
    return lambda value: "" if value in words else f"must be one of {', '.join(words)}"


def _absolute_path(value: str) -> str:
    return "" if is_plain_path(value) else "must be an absolute path of letters, digits and . _ + @ -"


def _between(least: int, most: int) -> Callable[[int], str]:
    return lambda value: "" if least <= value <= most else f"must be between {least} and {most}"


def _size(value: str) -> str:
    ok = is_share(value) or size_bytes(value)
    return "" if ok else 'must be a size such as "512M", "4G" or "50%"'


def _room(value: str) -> str:
    return "" if value == INFINITY or size_bytes(value) else 'must be a size such as "20G"'


def _image_name(value: str) -> str:
    return "" if is_image_name(value) else "must be the name of an image"


def _interface(value: str) -> str:
    ok = 0 < len(value) <= 15 and value.isascii() and all(char.isalnum() or char in "-_" for char in value)
    return "" if ok else "must be a network interface's name of at most 15 letters, digits, - and _"


def _subnet(value: str) -> str:
    from ipaddress import IPv4Network

    if not value:
        return ""
    try:
        network = IPv4Network(value)
    except ValueError as error:
        return f"must be an IPv4 network: {error}"
    return "" if network.prefixlen == 20 else "must be a /20: one address for each of up to 4094 machines"


def _user(value: str) -> str:
    plain = value.isascii() and all(char.isalnum() or char in "._-" for char in value)
    ok = plain and len(value) <= 31 and not value[:1].isdigit() and value[:1] not in {".", "-"}
    return "" if ok else "must be a user's name: at most 31 letters, digits and . _ -, a letter or _ first"


def _program(value: str) -> str:
    return "" if value in {"auto", ""} else _absolute_path(value)


def _time(value: str) -> str:
    return "" if not value or seconds(value) is not None else 'must be a time such as "30min", "2h" or "1d"'


def _relative_file(value: str) -> str:
    plain = is_plain_path(f"/{value}") and not {"", ".", ".."} & set(value.split("/"))
    return "" if not value or plain else "must be a relative path of letters, digits and . _ + @ -"


CHECKS: Mapping[str, Callable[[Any], str]] = {
    "state_folder": _absolute_path,
    "backend": _one_of("auto", "overlay", "btrfs", "tmpfs"),
    "tmpfs_size": _size,
    "default_image": lambda value: _image_name(value) if value else "",
    "profile": lambda value: "" if is_image_name(value) else "must be the name of a profile",
    "shell": _absolute_path,
    "user": _user,
    "builds_dir": _absolute_path,
    "cache_dir": _absolute_path,
    "gitlab_runner": _program,
    "stop_grace_seconds": _between(0, 180),
    "keep_failed": _time,
    "journal_file": _relative_file,
    "gc.cache_days": _between(0, 36500),
    "gc.cache_size": _room,
    "metrics.file": lambda value: _absolute_path(value) if value else "",
    "network.mode": _one_of("private", "none", "host"),
    "network.bridge": _interface,
    "network.subnet": _subnet,
    "network.connections_max": _between(1, 10_000_000),
}


def list_of(fits: Callable[[Any], bool], what: str, *, kind: type = str, least: int = 0) -> Callable[[Any], str]:
    """Return the check of a list of at least ``least`` items of the type ``kind``, which fit and are ``what``."""

    def check(value: Any) -> str:
        if not isinstance(value, list) or len(value) < least:
            return f"must be a list{', not empty,' if least else ''} of {what}"
        wrong = next((item for item in value if type(item) is not kind or not fits(item)), None)
        return "" if wrong is None else f"must be a list of {what}, not {str(wrong)[:60]!r}"

    return check


def _is_address(text: str) -> bool:
    from ipaddress import ip_address

    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _is_closable(text: str) -> bool:
    from ipaddress import IPv4Network

    try:
        return text in {"private", "metadata"} or str(IPv4Network(text)) == text
    except ValueError:
        return False


def _is_port(text: str) -> bool:
    protocol, _, number = text.partition("/")
    digits = number.isascii() and number.isdigit() and len(number) <= 5 and number[0] != "0"
    return protocol in {"tcp", "udp"} and digits and int(number) <= 65535


def _extra_hosts(value: Any) -> str:
    ok = isinstance(value, dict) and all(
        _is_host_name(name) and type(address) is str and _is_address(address) for name, address in value.items()
    )
    return "" if ok else 'must be a table of host names and addresses such as { "mirror" = "192.0.2.7" }'


def _is_host_name(name: str) -> bool:
    plain = name.isascii() and all(char.isalnum() or char in ".-" for char in name)
    return 0 < len(name) <= 253 and plain and name[0].isalnum()


# Lists and tables, which are checked as a whole.
WHOLE: Mapping[str, Callable[[Any], str]] = {
    "allowed_images": list_of(is_image_pattern, "local images' names or shell patterns of them"),
    "network.dns": list_of(_is_address, "addresses of name servers"),
    "network.closed": list_of(_is_closable, '"private", "metadata" and IPv4 networks such as "192.0.2.0/24"'),
    "network.host_ports": list_of(_is_port, 'ports of the host such as "tcp/8080"'),
    "network.extra_hosts": _extra_hosts,
}


def images_problems(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the map from what jobs ask for (names or patterns) to local images."""
    for asked, image in table.items():
        problem = _image_name(image) if isinstance(image, str) else "must be a text in quotes"
        if problem:
            yield f"images.{asked}", problem


def limit_problem(key: str, value: Any) -> str:
    """Say what is wrong with ``value`` for the key ``key`` of [limits], in words that follow its name."""
    if key == "cpus":
        return _cpus_problem(value)
    if key in SIZES or key == "allowed_cpus":
        if type(value) is not str:
            return "must be a text in quotes"
        return _cpu_list_problem(value) if key == "allowed_cpus" else _limit_size_problem(key, value)
    return "must be a whole number" if type(value) is not int else _count_problem(key, value)


def _count_problem(key: str, value: int) -> str:
    least, most = LEAST.get(key, 0), MOST.get(key, UNLIMITED)
    if least <= value <= min(most, 10**9 - 1) or (value == 0 and key == "open_files"):
        return ""
    return f"must be at least {least:g}" if most == UNLIMITED else f"must be between {least:g} and {most:g}"


def _limit_size_problem(key: str, value: str) -> str:
    words = (INFINITY, *([AUTO] if key in CAN_BE_AUTO else []))
    if value in words:
        return ""
    examples = '"512M" or "4G"' if key == "disk_max" else '"512M", "4G" or "50%"'
    wrong = f"must be a size such as {examples}, or {' or '.join(words)}"
    if key != "disk_max" and is_share(value):
        return ""
    size = size_bytes(value)
    if size is None:
        return wrong
    if size > MOST[key]:
        return f"must be at most {shown_bytes(MOST[key])}"
    return "" if size >= LEAST[key] else f"must be at least {shown_bytes(LEAST[key])}"


def _cpus_problem(value: Any) -> str:
    if type(value) in {int, float}:
        ok = LEAST["cpus"] <= value < 10000
    else:
        ok = type(value) is str and value in {AUTO, INFINITY}
    return "" if ok else f"must be a number of CPUs from {LEAST['cpus']} on, or {INFINITY} or {AUTO}"


def _cpu_list_problem(value: str) -> str:
    for part in value.split(",") if value else []:
        first, dash, last = part.partition("-")
        if not is_number(first, 4) or (dash and not (is_number(last, 4) and int(first) <= int(last))):
            return 'must be a list of CPUs such as "0-3,6"'
    return ""
