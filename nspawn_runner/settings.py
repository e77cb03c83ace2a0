"""Settings of the host: /etc/nspawn-runner/nspawn-runner.toml over the defaults, checked as a whole."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .errors import HostError
from .names import is_image_name

DEFAULT_FILE = "/etc/nspawn-runner/nspawn-runner.toml"
RUN_FOLDER = "/run/nspawn-runner"


class Limits(NamedTuple):
    """What the unit of a machine may use; values as systemd.resource-control(5) takes them."""

    cpu_weight: int = 50
    memory_max: str = "50%"
    tasks_max: int = 16384
    runtime_max_seconds: int = 86400


class Network(NamedTuple):
    """What network machines have; with ``private`` the bridge they are joined to, and the /20 of their addresses."""

    mode: str = "private"
    bridge: str = "nspr0"
    subnet: str = "10.213.0.0/20"


class Settings(NamedTuple):
    """All settings, with their defaults."""

    state_folder: str = "/var/lib/nspawn-runner"
    backend: str = "auto"
    tmpfs_size: str = "4G"
    user_namespace: bool = True
    default_image: str = ""
    shell: str = "/bin/bash"
    user: str = ""
    builds_dir: str = "/builds"
    cache_dir: str = "/cache"
    gitlab_runner: str = "auto"
    stop_grace_seconds: int = 10
    images: Mapping[str, str] = {}
    limits: Limits = Limits()
    network: Network = Network()


def _one_of(*words: str) -> Callable[[Any], str]:
    return lambda value: "" if value in words else f"must be one of {', '.join(words)}"


def _absolute_path(value: str) -> str:
    parts = value.split("/")
    plain = all(char.isalnum() or char in "/._+@-" for char in value)
    return "" if plain and value.startswith("/") and ".." not in parts and value != "/" else (
        "must be an absolute path of letters, digits and . _ + @ -"
    )


def _at_least(least: int) -> Callable[[int], str]:
    return lambda value: "" if value >= least else f"must be at least {least}"


def _between(least: int, most: int) -> Callable[[int], str]:
    return lambda value: "" if least <= value <= most else f"must be between {least} and {most}"


def _size(value: str) -> str:
    number, unit = (value[:-1], value[-1:]) if value[-1:] in tuple("KMGT%") else (value, "")
    ok = number.isascii() and number.isdigit() and int(number) > 0 and (unit != "%" or int(number) <= 100)
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


_CHECKS: Mapping[str, Callable[[Any], str]] = {
    "state_folder": _absolute_path,
    "backend": _one_of("auto", "overlay", "btrfs", "tmpfs"),
    "tmpfs_size": _size,
    "default_image": _image_name,
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
_TYPES = {bool: "true or false", int: "a whole number", str: "a text in quotes"}
# What an image may say of its machines: its own word for it, and the setting that it stands for.
_IMAGES_OWN = {
    "shell": "shell",
    "user": "user",
    "backend": "backend",
    "network": "network.mode",
    "memory_max": "limits.memory_max",
    "cpu_weight": "limits.cpu_weight",
    "tasks_max": "limits.tasks_max",
}


def load(path: str | None = None) -> Settings:
    """Return the settings of the file ``path``, or of the usual file, or the defaults where that is not there.

    Raises HostError that names the file and every wrong key in it, and for a file that others than root may write.
    """
    file = path or DEFAULT_FILE
    try:
        with open(file, "rb") as opened:
            status = os.fstat(opened.fileno())
            content = opened.read()
    except FileNotFoundError:
        if path is not None:
            raise HostError(f"there is no settings file {file}") from None
        return Settings()
    except OSError as error:
        raise HostError(f"cannot read the settings {file}: {error.strerror}") from error
    if status.st_uid != 0 or stat.S_IMODE(status.st_mode) & 0o022:
        raise HostError(
            f"the settings {file} can be written by others than root",
            advice=f"mend it: chown root {file}; chmod go-w {file}",
        )
    return parse(content, file)


def parse(content: bytes, file: str) -> Settings:
    """Return the settings in the TOML text ``content``; ``file`` is its name in the HostError about what is wrong."""
    import tomllib

    try:
        data = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise HostError(f"the settings {file} are not valid TOML", facts=str(error)) from None
    problems: list[str] = []
    settings = _fill(Settings(), data, "", problems)
    if problems:
        raise HostError(
            f"the settings {file} are wrong in {len(problems)} place{'s' * (len(problems) > 1)}",
            facts="; ".join(problems),
            advice="mend the file; nothing was done",
        )
    assert isinstance(settings, Settings)  # noqa: S101  (tells mypy what _fill keeps)
    return settings


def _fill(defaults: Any, data: Mapping[str, Any], prefix: str, problems: list[str]) -> Any:
    """Return ``defaults`` with what ``data`` says, adding to ``problems`` a text for each wrong key."""
    values = {}
    for key, value in data.items():
        name = prefix + key
        if key not in defaults._fields:
            problems.append(f"{name}: no such setting (there are {', '.join(defaults._fields)})")
            continue
        default = getattr(defaults, key)
        if key == "images":
            problem = _images_problem(value)
        elif isinstance(default, tuple):
            problem = "" if isinstance(value, dict) else "must be a table"
            if not problem:
                values[key] = _fill(default, value, f"{name}.", problems)
                continue
        else:
            problem = _problem(name, value, default)
        if problem:
            problems.append(f"{name}: {problem}")
        else:
            values[key] = value
    return defaults._replace(**values)


def _problem(name: str, value: Any, default: Any) -> str:
    """Say what is wrong with ``value`` for the setting ``name``, in words that follow its name; empty if nothing."""
    if type(value) is not type(default):
        return f"must be {_TYPES[type(default)]}"
    check = _CHECKS.get(name)
    return check(value) if check else ""


def run_problems(values: Any) -> list[str]:
    """Say what is wrong with ``values``, what an image says of its machines: a text for each wrong key, or none.

    The keys are those of ``with_run_values``.
    """
    if not isinstance(values, dict):
        return ["must be a table"]
    problems = []
    for key, value in values.items():
        if key not in _IMAGES_OWN:
            problems.append(f"{key}: no such setting (there are {', '.join(_IMAGES_OWN)})")
        elif problem := _problem(_IMAGES_OWN[key], value, _find(Settings(), _IMAGES_OWN[key])):
            problems.append(f"{key}: {problem}")
    return problems


def with_run_values(settings: Settings, values: Any, image: str) -> Settings:
    """Return ``settings`` with ``values``, what ``image`` says of its machines, over them; raises HostError.

    They are any of shell, user, backend, network (the mode), memory_max, cpu_weight, tasks_max; None is none of them.
    """
    if values is None:
        return settings
    problems = run_problems(values)
    if problems:
        raise HostError(
            f"what the image {image} says of its machines is wrong",
            facts="; ".join(problems),
            advice="mend its playbook and run chroot-maintenance",
        )
    for key, value in values.items():
        table, _, name = _IMAGES_OWN[key].rpartition(".")
        changed = {table: getattr(settings, table)._replace(**{name: value})} if table else {name: value}
        settings = settings._replace(**changed)
    return settings


def _find(settings: Settings, name: str) -> Any:
    found: Any = settings
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _images_problem(value: Any) -> str:
    """Say what is wrong with the map from what jobs ask for (names or patterns) to local images."""
    if not isinstance(value, dict):
        return 'must be a table of "what a job asks for" = "local image"'
    for asked, image in value.items():
        problem = _image_name(image) if isinstance(image, str) else "must be a text in quotes"
        if problem:
            return f'"{asked}": {problem}'
    return ""
