"""Policy: what a job may use, by the rules of the settings and by facts that no project can set.

Rules only ever give. What everybody may use stands at the top of the settings; a job gets that and what each rule that
is for it gives, in whatever order they stand. So a rule that is added or that cannot be decided takes nothing away,
and a job whose facts nobody tells gets what everybody gets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..names import is_image_name, is_image_pattern, is_plain_path
from .quantities import size_bytes
from .value_checks import Key, list_of

EVERYTHING = "*"


class Ceilings(NamedTuple):
    """How far a job may raise its limits; None is no further than the settings' own limits."""

    memory_max_bytes: int | None = None
    cpus: int | None = None
    tasks_max: int | None = None
    runtime_max_seconds: int | None = None
    disk_max_bytes: int | None = None
    locked_memory_bytes: int | None = None


class Rule(NamedTuple):
    """A ``[[policy]]`` table: whom it is for (all of projects, protected and runners have to fit), and what it gives.

    ``projects`` are globs of paths, ``runners`` ids; where they are empty, all are meant. ``images`` are shell
    patterns of local images, ``binds`` folders of the host, with all that is below them.
    """

    name: str
    projects: tuple[str, ...] = ()
    protected: bool = False
    runners: tuple[int, ...] = ()
    images: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    binds: tuple[str, ...] = ()
    ceilings: Ceilings = Ceilings()


class Facts(NamedTuple):
    """Whose job it is: its project's path, whether its ref is protected, its runner's id; None: not known."""

    project: str | None = None
    protected: bool | None = None
    runner: int | None = None


class Allowance(NamedTuple):
    """What a job may use: image patterns, names of profiles, folders of the host, and the highest ceilings."""

    images: tuple[str, ...]
    profiles: tuple[str, ...]
    binds: tuple[str, ...]
    ceilings: Ceilings


def allowance(images: Sequence[str], rules: Sequence[Rule], facts: Facts) -> Allowance:
    """Return what a job with these ``facts`` may use; ``images`` are those that everybody may."""
    fitting = [rule for rule in rules if not unmet(rule, facts)]
    ceilings = [rule.ceilings for rule in fitting]
    return Allowance(
        images=(*images, *(pattern for rule in fitting for pattern in rule.images)),
        profiles=("default", *(profile for rule in fitting for profile in rule.profiles)),
        binds=tuple(folder for rule in fitting for folder in rule.binds),
        ceilings=Ceilings(*(max(filter(None, values), default=None) for values in zip(*ceilings, strict=True))),
    )


def unmet(rule: Rule, facts: Facts) -> str:
    """Say whom ``rule`` is for that a job with these ``facts`` is not known to be of; empty if it is for the job."""
    project = facts.project
    if rule.projects and not (project and any(project_matches(project, glob) for glob in rule.projects)):
        return "other projects"
    if rule.protected and not facts.protected:
        return "protected refs"
    if rule.runners and facts.runner not in rule.runners:
        return "other runners"
    return ""


def gives_image(patterns: Sequence[str], image: str) -> bool:
    """Return whether one of the shell patterns is for the local image ``image``."""
    from fnmatch import fnmatchcase

    return any(fnmatchcase(image, pattern) for pattern in patterns)


def project_matches(project: str, glob: str) -> bool:
    """Tell whether the glob is for the project's path: * and ? stay within a part of it, ** is any number of parts."""
    return _parts_match(project.split("/"), glob.split("/"))


def _parts_match(parts: Sequence[str], globs: Sequence[str]) -> bool:
    from fnmatch import fnmatchcase

    if not globs:
        return not parts
    if globs[0] == "**":
        return any(_parts_match(parts[skipped:], globs[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], globs[0]) and _parts_match(parts[1:], globs[1:])


# Reading the rules. Each problem is the dotted key and what is wrong with it.


def parse(data: Any, problems: list[tuple[str, str]]) -> tuple[Rule, ...]:
    """Return the rules in ``data``, the value of ``policy`` in the settings; adds to ``problems`` what is wrong."""
    if not isinstance(data, list) or not all(isinstance(table, dict) for table in data):
        problems.append(("policy", "must be written as tables, each under [[policy]]"))
        return ()
    return tuple(_rule(f"policy.{number}", str(number), table, problems) for number, table in enumerate(data, 1))


def conflicts(rules: Sequence[Rule], *, images: Sequence[str], limits: Ceilings) -> Iterator[tuple[str, str]]:
    """Yield what cannot be meant so; ``images`` are those that everybody may use, ``limits`` those of everybody."""
    names: set[str] = set()
    for number, rule in enumerate(rules, 1):
        key = f"policy.{number}"
        if rule.name in names:
            yield f"{key}.name", f"there is another rule {rule.name}"
        names.add(rule.name)
        if rule.images and EVERYTHING in images:
            yield f"{key}.images", 'has no effect while allowed_images = ["*"] lets everybody use every image'
        if not (rule.images or rule.profiles or rule.binds or any(rule.ceilings)):
            yield key, "gives nothing: it needs images, profiles, binds or ceilings"
        for name, ceiling, limit in zip(CEILINGS, rule.ceilings, limits, strict=True):
            if ceiling is not None and limit is not None and ceiling <= limit:
                yield f"{key}.ceilings.{name}", "gives nothing: [limits] gives everybody as much"


def _rule(key: str, number: str, table: Mapping[str, Any], problems: list[tuple[str, str]]) -> Rule:
    values: dict[str, Any] = {"name": number}
    for name, value in table.items():
        if name not in KEYS:
            from .mistakes import no_such

            problems.append((f"{key}.{name}", no_such(name, Rule._fields)))
        elif (check := KEYS[name].check) is None:
            values[name] = _ceilings(f"{key}.{name}", value, problems)
        elif problem := check(value):
            problems.append((f"{key}.{name}", problem))
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    return Rule(**values)


def _ceilings(key: str, table: Any, problems: list[tuple[str, str]]) -> Ceilings:
    if not isinstance(table, dict):
        problems.append((key, "must be a table"))
        return Ceilings()
    values: dict[str, int] = {}
    for name, value in table.items():
        amount = size_bytes(value) if name in _SIZES else value
        if name not in CEILINGS:
            from .mistakes import no_such

            problems.append((f"{key}.{name}", no_such(name, CEILINGS)))
        elif type(amount) is not int or amount < 1:
            kind = 'size such as "512M" or "16G"' if name in _SIZES else "whole number above 0"
            problems.append((f"{key}.{name}", f"must be a {kind}"))
        else:
            values[CEILINGS[name]] = amount
    return Ceilings(**values)


def _is_project_glob(text: str) -> bool:
    parts = text.split("/")
    plain = all(char.isascii() and (char.isalnum() or char in "._-*?") for part in parts for char in part)
    whole = all(part and ("**" not in part or part == "**") for part in parts)
    return plain and whole and len(text) <= 1000 and (len(parts) > 1 or text == "**") and parts.count("**") <= 2


def _is_rule_name(text: Any) -> bool:
    return (
        type(text) is str
        and 0 < len(text) <= 40
        and text.isascii()
        and all(char.isalnum() or char in "._- " for char in text)
    )


CEILINGS = {
    "memory_max": "memory_max_bytes",
    "cpus": "cpus",
    "tasks_max": "tasks_max",
    "runtime_max_seconds": "runtime_max_seconds",
    "disk_max": "disk_max_bytes",
    "locked_memory": "locked_memory_bytes",
}
_SIZES = ("memory_max", "disk_max", "locked_memory")
KEYS: Mapping[str, Key] = {
    "name": Key(
        lambda value: "" if _is_rule_name(value) else "must be a text of at most 40 letters, digits and . _ -",
        "What messages call the rule; by default its number.",
    ),
    "projects": Key(
        list_of(_is_project_glob, 'paths such as "group/project", "group/*" or "group/**"', least=1),
        "The rule is for projects with these paths.",
        '* and ? stand for characters within a part of the path, ** for any number of parts: `"group/*"` are the '
        'projects directly in the group, `"group/**"` those of its subgroups too.',
    ),
    "protected": Key(
        lambda value: "" if value is True else "must be true, or be left out for any ref",
        "With `true`, the rule is only for jobs of protected branches and tags.",
    ),
    "runners": Key(
        list_of(lambda number: number > 0, "the runners' ids, numbers as in config.toml", kind=int, least=1),
        "The rule is for the runners with these ids, the numbers that config.toml has as `id`.",
    ),
    "images": Key(
        list_of(is_image_pattern, "local images' names or shell patterns of them", least=1),
        "Local images that it gives, for jobs and for their services: names or shell patterns.",
    ),
    "profiles": Key(
        list_of(is_image_name, "names of profiles", least=1),
        'Profiles that it gives; everybody has `"default"`.',
        'As soon as any rule gives a profile, an image whose machines have another one than `"default"` can be used '
        "only by jobs that a rule gives it to.",
    ),
    "binds": Key(
        list_of(is_plain_path, "the host's folders, absolute paths of letters, digits and . _ + @ -", least=1),
        "Folders of the host that it gives, with all that is below them.",
        "As soon as any rule gives a folder, an image whose profile binds one can be used only by jobs that a rule "
        "gives it to.",
    ),
    "ceilings": Key(
        None,
        "How far a job may raise its limits: a table of `memory_max`, `disk_max` and `locked_memory` (sizes), `cpus`, "
        "`tasks_max`, `runtime_max_seconds`.",
    ),
}
