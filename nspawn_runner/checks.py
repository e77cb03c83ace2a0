"""What each setting's value has to be; a check says what is wrong with it, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .names import is_image_name, is_image_pattern, is_plain_path


def _one_of(*words: str) -> Callable[[Any], str]:
    return lambda value: "" if value in words else f"must be one of {', '.join(words)}"


def _absolute_path(value: str) -> str:
    return "" if is_plain_path(value) else "must be an absolute path of letters, digits and . _ + @ -"


def _at_least(least: int) -> Callable[[int], str]:
    return lambda value: "" if value >= least else f"must be at least {least}"


def _between(least: int, most: int) -> Callable[[int], str]:
    return lambda value: "" if least <= value <= most else f"must be between {least} and {most}"


def _size(value: str) -> str:
    number, unit = (value[:-1], value[-1:]) if value[-1:] in tuple("KMGT%") else (value, "")
    digits = number.isascii() and number.isdigit() and len(number) <= 15
    ok = digits and int(number) > 0 and (unit != "%" or int(number) <= 100)
    return "" if ok else 'must be a size such as "512M", "4G" or "50%"'


def _memory(value: str) -> str:
    return "" if value == "infinity" else _size(value)


def _image_name(value: str) -> str:
    return "" if is_image_name(value) else "must be the name of an image"


def _interface(value: str) -> str:
    ok = 0 < len(value) <= 15 and value.isascii() and all(char.isalnum() or char in "-_" for char in value)
    return "" if ok else "must be a network interface's name of at most 15 letters, digits, - and _"


def _subnet(value: str) -> str:
    from ipaddress import IPv4Network

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


CHECKS: Mapping[str, Callable[[Any], str]] = {
    "state_folder": _absolute_path,
    "backend": _one_of("auto", "overlay", "btrfs", "tmpfs"),
    "tmpfs_size": _size,
    "default_image": lambda value: _image_name(value) if value else "",
    "shell": _absolute_path,
    "user": _user,
    "builds_dir": _absolute_path,
    "cache_dir": _absolute_path,
    "gitlab_runner": _program,
    "stop_grace_seconds": _between(0, 180),
    "limits.cpu_weight": _between(1, 10000),
    "limits.memory_max": _memory,
    "limits.tasks_max": _at_least(64),
    "limits.runtime_max_seconds": _at_least(60),
    "network.mode": _one_of("private", "none", "host"),
    "network.bridge": _interface,
    "network.subnet": _subnet,
}


def patterns_problem(value: Any) -> str:
    """Say what is wrong with the patterns of the images that everybody may use."""
    ok = isinstance(value, list) and all(type(text) is str and is_image_pattern(text) for text in value)
    return "" if ok else "must be a list of local images' names or shell patterns of them"


def images_problems(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the map from what jobs ask for (names or patterns) to local images."""
    for asked, image in table.items():
        problem = _image_name(image) if isinstance(image, str) else "must be a text in quotes"
        if problem:
            yield f"images.{asked}", problem
