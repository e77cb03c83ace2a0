"""Settings of the host: /etc/nspawn-runner/nspawn-runner.toml over the defaults, checked as a whole."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping

from ..errors import HostError, SettingsError
from ..light_typing import TYPE_CHECKING, Any, NamedTuple
from .amounts import Limits, size_bytes
from .paths import DEFAULT_FILE, STATE_FOLDER

if TYPE_CHECKING:
    from .policy import Rule
    from .profiles import Profile



class Network(NamedTuple):
    """What network machines have; with ``private`` the bridge they are joined to, and the /20 of their addresses.

    Without a ``subnet`` a free one is chosen (machines.network.settled).
    ``dns`` are their name servers, empty for the host's; ``closed`` networks that they cannot reach; ``host_ports``
    what they can reach of the host, as in tcp/8080; ``extra_hosts`` addresses by name; ``connections_max`` how many
    connections of one machine the host keeps track of.
    """

    mode: str = "private"
    bridge: str = "nspr0"
    subnet: str = ""
    dns: tuple[str, ...] = ()
    closed: tuple[str, ...] = ("metadata",)
    host_ports: tuple[str, ...] = ()
    extra_hosts: Mapping[str, str] = {}
    connections_max: int = 16384


class Gc(NamedTuple):
    """What gc leaves of caches: those used within ``cache_days`` (0: all), up to ``cache_size`` in all."""

    cache_days: int = 30
    cache_size: str = "infinity"


class Metrics(NamedTuple):
    """Where metrics for Prometheus are written: the absolute path ``file``, empty for nowhere."""

    file: str = ""


class Settings(NamedTuple):
    """All settings, with their defaults."""

    state_folder: str = STATE_FOLDER
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
    keep_failed: str = ""
    journal_file: str = ""
    images: Mapping[str, str] = {}
    allowed_images: tuple[str, ...] = ("*",)
    policy: tuple[Rule, ...] = ()
    profile: str = "default"
    profiles: Mapping[str, Profile] = {}
    limits: Limits = Limits()
    network: Network = Network()
    gc: Gc = Gc()
    metrics: Metrics = Metrics()


_TYPES = {bool: "true or false", int: "a whole number", str: "a text in quotes"}
# What an image may say of its machines: its own word for it, and the setting that it stands for.
_IMAGES_OWN = {
    "profile": "profile",
    "shell": "shell",
    "user": "user",
    "backend": "backend",
    "network": "network.mode",
    **{key: f"limits.{key}" for key in Limits._fields if key != "concurrent"},
}


def load(path: str | None = None, read_toml: Callable[[str], dict[str, Any]] | None = None) -> Settings:
    """Return the settings of the file ``path``, or of the usual file, or the defaults where that does not exist.

    Raises HostError that names the file and every wrong key in it, and for one that others than root may change.
    ``read_toml`` does what tomllib.loads does, which is the default.
    """
    file = path or DEFAULT_FILE
    try:
        with open(file, "rb") as opened:
            status = os.fstat(opened.fileno())
            content = opened.read()
        folders = {os.path.dirname(os.path.abspath(file)), os.path.dirname(os.path.realpath(file))}
        changeable = [file] if _is_others(status) else [name for name in folders if _is_others(os.stat(name))]
    except FileNotFoundError:
        if path is not None:
            raise HostError(f"there is no settings file {file}") from None
        return Settings()
    except OSError as error:
        raise HostError(f"cannot read the settings {file}: {error.strerror}") from error
    if changeable:
        raise HostError(
            f"the settings {file} can be written by others than root",
            facts="" if changeable == [file] else f"so can their folder {changeable[0]}, where they can be replaced",
            advice=f"mend it: chown root {changeable[0]}; chmod go-w {changeable[0]}",
        )
    return parse(content, file, read_toml)


def _is_others(status: os.stat_result) -> bool:
    return status.st_uid != 0 or bool(stat.S_IMODE(status.st_mode) & 0o022)


def parse(content: bytes, file: str, read_toml: Callable[[str], dict[str, Any]] | None = None) -> Settings:
    """Return the settings in the TOML text ``content``; ``file`` is its name in the HostError about what is wrong."""
    if read_toml is None:
        import tomllib

        read_toml = tomllib.loads
    try:
        text = content.decode()
        data = read_toml(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and more: a number of 5000 digits, 500 brackets
        raise HostError(f"the settings {file} are not valid TOML", facts=str(error)) from None
    problems: list[tuple[str, str]] = []
    settings = _fill(Settings(), data, "", problems)
    assert isinstance(settings, Settings)  # noqa: S101  (tells mypy what _fill keeps)
    problems += _conflicts(settings, {key.partition(".")[0] for key, _ in problems})
    if problems:
        from . import mistakes

        raise SettingsError(
            f"the settings {file} are wrong in {len(problems)} place{'s' * (len(problems) > 1)}",
            facts=mistakes.told(text, problems),
            advice="mend the file; nothing was done",
        )
    return settings


def _fill(defaults: Any, data: Mapping[str, Any], prefix: str, problems: list[tuple[str, str]]) -> Any:
    """Return ``defaults`` with what ``data`` says, adding to ``problems`` each wrong key and what is wrong with it."""
    from . import value_checks

    values: dict[str, Any] = {}
    for key, value in data.items():
        name = prefix + key
        if key not in defaults._fields:
            from .mistakes import no_such

            problems.append((name, no_such(key, defaults._fields, _all_keys())))
            continue
        default = getattr(defaults, key)
        if name == "images" and isinstance(value, dict):
            problems += value_checks.images_problems(value)
            values[key] = value
            continue
        if name == "images":
            problem = 'must be a table of "what a job asks for" = "local image"'
        elif name in value_checks.WHOLE:
            problem = value_checks.WHOLE[name](value)
        elif name == "policy":
            from . import policy

            values[key] = policy.parse(value, problems)
            continue
        elif name == "profiles":
            from . import profiles

            values[key] = profiles.parse(value, problems)
            continue
        elif isinstance(default, tuple):
            problem = "" if isinstance(value, dict) else "must be a table"
            if not problem:
                values[key] = _fill(default, value, f"{name}.", problems)
                continue
        else:
            problem = _problem(name, value, default)
        if problem:
            problems.append((name, problem))
        else:
            values[key] = tuple(value) if isinstance(value, list) else value
    return defaults._replace(**values)


def _problem(name: str, value: Any, default: Any) -> str:
    """Say what is wrong with ``value`` for the setting ``name``, in words that follow its name; empty if nothing."""
    from . import value_checks

    if name.startswith("limits."):
        return value_checks.limit_problem(name.removeprefix("limits."), value)
    if type(value) is not type(default):
        return f"must be {_TYPES[type(default)]}"
    check = value_checks.CHECKS.get(name)
    return check(value) if check else ""


def run_problems(values: Any, own: Mapping[str, Profile]) -> list[str]:
    """Say what is wrong with ``values``, what an image says of its machines: a text for each wrong key, or none.

    The keys are those of ``with_run_values``, ``own`` the profiles of the settings.
    """
    if not isinstance(values, dict):
        return ["must be a table"]
    problems = []
    for key, value in values.items():
        if key not in _IMAGES_OWN:
            problems.append(f"{key}: no such setting (there are {', '.join(_IMAGES_OWN)})")
        elif problem := _problem(_IMAGES_OWN[key], value, _find(Settings(), _IMAGES_OWN[key])):
            problems.append(f"{key}: {problem}")
        elif key == "profile":
            from . import profiles

            if text := profiles.unknown([value], own):
                problems.append(f"{key}: {text}")
    return problems


def with_run_values(settings: Settings, values: Any, image: str) -> Settings:
    """Return ``settings`` with ``values``, what ``image`` says of its machines, over them; raises HostError.

    They are any of profile, shell, user, backend, network (the mode) and the limits but concurrent; None is none of
    them. What the profile implies stands over the settings' own, and under the rest of what the image says.
    """
    problems = [] if values is None else run_problems(values, settings.profiles)
    if problems:
        raise HostError(
            f"what the image {image} says of its machines is wrong",
            facts="; ".join(problems),
            advice="mend its playbook and run chroot-maintenance",
        )
    values = values or {}
    settings = _with_profile(settings, values.get("profile", settings.profile))
    for key, value in values.items():
        table, _, name = _IMAGES_OWN[key].rpartition(".")
        changed = {table: getattr(settings, table)._replace(**{name: value})} if table else {name: value}
        settings = settings._replace(**changed)
    return settings


def _with_profile(settings: Settings, name: str) -> Settings:
    from . import profiles

    profile = profiles.find(name, settings.profiles)
    if profile.user_namespace is not None:
        settings = settings._replace(user_namespace=profile.user_namespace)
    if profile.network:
        settings = settings._replace(network=settings.network._replace(mode=profile.network))
    return settings._replace(profile=name)


def _find(settings: Settings, name: str) -> Any:
    found: Any = settings
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _all_keys() -> list[str]:
    tables = {name: value for name, value in Settings()._asdict().items() if hasattr(value, "_fields")}
    return [*Settings._fields, *(f"{table}.{key}" for table, value in tables.items() for key in value._fields)]


def _conflicts(settings: Settings, wrong: set[str]) -> Iterator[tuple[str, str]]:
    """Yield the keys that do not go with others, and why; ``wrong`` are keys whose own value is wrong already."""
    builds, cache = settings.builds_dir.rstrip("/"), settings.cache_dir.rstrip("/")
    if f"{builds}/".startswith(f"{cache}/") and not wrong & {"builds_dir", "cache_dir"}:
        yield "builds_dir", "must not be in cache_dir: jobs share that"
    if (settings.profile != "default" or settings.policy) and "profile" not in wrong:
        from . import profiles

        given = {f"policy.{number}.profiles": rule.profiles for number, rule in enumerate(settings.policy, 1)}
        for key, names in {"profile": (settings.profile,), **given}.items():
            if text := profiles.unknown(names, settings.profiles):
                yield key, text
    if wrong & {"allowed_images", "policy"} or (not settings.policy and settings.allowed_images == ("*",)):
        return
    from . import policy

    own = settings.limits
    limits = policy.Ceilings(
        memory_max_bytes=size_bytes(own.memory_max),
        cpus=None if isinstance(own.cpus, str) else int(own.cpus),
        tasks_max=own.tasks_max,
        disk_max_bytes=size_bytes(own.disk_max),
        locked_memory_bytes=size_bytes(own.locked_memory),
    )
    yield from policy.conflicts(settings.policy, images=settings.allowed_images, limits=limits)
