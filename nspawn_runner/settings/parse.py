"""Check the TOML text of the settings as a whole, and tell every mistake in it at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ..errors import HostError, SettingsError
from ..light_typing import Any
from . import value_checks
from .quantities import size_bytes
from .schema import BY_KEY, SETTINGS
from .tables import Settings


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
    problems += _wrong_images(settings.images)
    if problems:
        from . import mistakes

        raise SettingsError(
            f"the settings {file} are wrong in {len(problems)} place{'s' * (len(problems) > 1)}",
            facts=mistakes.told(text, problems),
            advice="fix the file; nothing was done",
        )
    return settings


def _fill(defaults: Any, data: Mapping[str, Any], prefix: str, problems: list[tuple[str, str]]) -> Any:
    """Return ``defaults`` with what ``data`` says, adding to ``problems`` each wrong key and what is wrong with it."""
    values: dict[str, Any] = {}
    for key, value in data.items():
        name = prefix + key
        if key not in defaults._fields:
            from .mistakes import no_such

            problems.append((name, no_such(key, defaults._fields, _all_keys())))
        elif name in {"policy", "profiles"}:
            from . import policy, profiles

            values[key] = (policy if name == "policy" else profiles).parse(value, problems)
        elif check := BY_KEY[name].check:
            if problem := check(value):
                problems.append((name, problem))
            else:
                values[key] = tuple(value) if isinstance(value, list) else value
        elif isinstance(value, dict):
            values[key] = _fill(getattr(defaults, key), value, f"{name}.", problems)
        else:
            problems.append((name, "must be a table"))
    return defaults._replace(**values)


def _wrong_images(images: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for asked, image in images.items():
        if problem := value_checks.image_name(image) if isinstance(image, str) else "must be a text in quotes":
            yield f"images.{asked}", problem


def _all_keys() -> list[str]:
    return [setting.key for setting in SETTINGS]


def _conflicts(settings: Settings, wrong: set[str]) -> Iterator[tuple[str, str]]:
    """Yield the keys that contradict others, and why; ``wrong`` are keys whose own value is wrong already."""
    builds, cache = settings.builds_dir.rstrip("/"), settings.cache_dir.rstrip("/")
    if f"{builds}/".startswith(f"{cache}/") and not wrong & {"builds_dir", "cache_dir"}:
        yield "builds_dir", "must not be in cache_dir: jobs share that"
    if (settings.profile != "default" or settings.policy) and "profile" not in wrong:
        from . import profiles

        given = {f"policy.{number}.profiles": rule.profiles for number, rule in enumerate(settings.policy, 1)}
        for key, names in {"profile": (settings.profile,), **given}.items():
            if text := profiles.unknown(names, settings.profiles):
                yield key, text
    if wrong & {"allowed_images", "allowed_services", "policy"}:
        return
    if not settings.policy and settings.allowed_images == ("*",):
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
    # A rule's images are for services too.
    everybodys = settings.allowed_images if not {*settings.allowed_services} - {policy.EVERYTHING} else ()
    yield from policy.conflicts(settings.policy, images=everybodys, limits=limits)
