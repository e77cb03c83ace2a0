"""The specification of an image, from its playbook's variables; all mistakes are reported at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..names import is_image_name
from ..settings import schema
from ..settings.quantities import seconds
from . import generations, offer
from .ansible import playbooks
from .ansible.playbooks import PREFIX, Playbook, Value
from .build import suite_source
from .build.suite_source import SuiteSource

# What only a Debian tree made by a builder of ours is made from.
_OF_RECIPE = ("mirror", "keyring", "variant", "arch", "packages", "components", "builder")
_OTHER_BASES = ("command", "tarball", "extends")


class Spec(NamedTuple):
    """What the image ``image`` shall be made from, how it is kept, and what its machines get.

    One of ``command``, ``tarball`` and ``extends`` may stand in place of the source. ``max_age_seconds`` 0 means none;
    ``run`` has the settings of machines under their names, ``service`` what it offers as one (images.offer).
    ``names_suite`` tells a suite that was said from the image's
    name, which stands for it.
    """

    image: str
    playbook: str
    source: SuiteSource
    builder: str = ""
    command: tuple[str, ...] = ()
    tarball: str = ""
    extends: str = ""
    recreate: bool = False
    boot: bool = False
    smoke_test: str = ""
    keep: int = generations.KEPT
    max_age_seconds: int = 0
    aliases: tuple[str, ...] = ()
    run: Mapping[str, Any] = {}
    service: Mapping[str, Any] = {}
    names_suite: bool = False
    playbook_digest: str = ""

    @property
    def inputs(self) -> list[str]:
        """The files whose content the tree is made from: archive, keys, and those that the command names by path."""
        named = [word for word in self.command if word.startswith("/") and os.path.isfile(word)]
        return [*filter(None, (self.tarball, self.source.keyring)), *named]

    @property
    def base_digest(self) -> str:
        """A digest of what the tree is made from: when that changes, a copy of the old tree will not do."""
        # In the spelling of the first version: by another one each image would differ, and be made again.
        source = repr(self.source).replace(SuiteSource.__name__, "Recipe", 1)
        rest = (self.builder, self.command, self.tarball, self.extends)
        return _digest(f"({source}, {', '.join(map(repr, rest))})")

    @property
    def digest(self) -> str:
        """A digest of all that the playbook says, whether or not its tasks tell of a change."""
        kept: tuple[Any, ...] = (self.boot, self.smoke_test, self.keep, self.aliases, sorted(self.run.items()))
        if self.service:  # without any, as it was before there were services
            kept += (sorted(self.service.items()),)
        return _digest(repr((self.playbook_digest, self.base_digest, *kept)))


def read(playbook: Playbook, problems: list[str], run_problems: Callable[[Mapping[str, Any]], list[str]]) -> Spec:
    """Return what ``playbook`` says of its image; what is wrong is added to ``problems``, with file and line.

    ``run_problems`` tells what is wrong with settings of machines, each text beginning with the setting's name and a
    colon. Raises HostError for a file that is no playbook.
    """
    there = playbooks.variables(playbook)
    given = {name.removeprefix(PREFIX): each for name, each in there.items() if name.startswith(PREFIX)}
    for name in there.keys() & playbooks.WHERE:
        problems.append(f"{playbook.path}:{there[name].line}: {name}: where tasks run is the inventory's to say")

    def wrong(name: str, text: str) -> None:
        problems.append(f"{playbook.path}:{given[name].line}: {PREFIX}{name}: {text}")

    good: dict[str, Any] = {}
    for name, each in given.items():
        text = _problem(name, each, playbook)
        if text:
            wrong(name, text)
        else:
            good[name] = each.value
    for name, text in _conflicts(given):
        wrong(name, text)
    run = {name.removeprefix("run_"): value for name, value in good.items() if name.startswith("run_")}
    for text in run_problems(run):
        setting, _, what = text.partition(": ")
        wrong(f"run_{setting}", what)
    service = {name.removeprefix("service_"): value for name, value in good.items() if name.startswith("service_")}
    return _spec(playbook, good, run)._replace(service=service)


def _spec(playbook: Playbook, good: Mapping[str, Any], run: Mapping[str, Any]) -> Spec:
    def chroot(name: str, default: Any = "") -> Any:
        return good.get(f"chroot_{name}", default)

    def path(name: str) -> str:
        return os.path.join(os.path.dirname(playbook.path), chroot(name)) if chroot(name) else ""

    made_from = SuiteSource(
        suite=chroot("suite") or playbook.image,
        mirror=chroot("mirror"),
        variant=chroot("variant", "minbase"),
        arch=chroot("arch"),
        packages=tuple(chroot("packages", ())),
        components=tuple(chroot("components", ("main",))),
        keyring=path("keyring"),
    )
    return Spec(
        image=playbook.image,
        playbook=playbook.path,
        source=made_from,
        builder=chroot("builder"),
        command=tuple(chroot("command", ())),
        tarball=path("tarball"),
        extends=chroot("extends"),
        recreate=good.get("maint_recreate", False),
        boot=good.get("maint_boot", False),
        smoke_test=good.get("maint_smoke_test", ""),
        keep=good.get("maint_keep", generations.KEPT),
        max_age_seconds=seconds(good.get("maint_max_age", "0h")) or 0,
        aliases=tuple(good.get("aliases", ())),
        run=run,
        names_suite=bool(chroot("suite")),
        playbook_digest=playbooks.digest(playbook),
    )


def _text(value: Any) -> str:
    return "" if isinstance(value, str) and value and "\0" not in value else "must be a text"


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "must be true or false"


def _words(value: Any) -> str:
    ok = isinstance(value, list) and all(not _text(word) for word in value)
    return "" if ok else "must be a list of texts"


def _keep(value: Any) -> str:
    # The generation before must stay: a job may be starting from it just now.
    ok = type(value) is int and 2 <= value <= 1000
    return "" if ok else "must be a whole number from 2 on: the current generation and the one before always stay"


def _age(value: Any) -> str:
    # Who forgets the unit means no seconds.
    ok = isinstance(value, str) and not value.isdigit() and seconds(value)
    return "" if ok else 'must be an age such as "12h", "30d" or "4w"'


def _image(value: Any) -> str:
    return "" if isinstance(value, str) and is_image_name(value) else "must be the name of an image"


def _images(value: Any) -> str:
    ok = isinstance(value, list) and not any(map(_image, value))
    return "" if ok else "must be a list of names: letters, digits and . _ -"


def _builder(value: Any) -> str:
    return "" if value in ("mmdebstrap", "debootstrap") else "must be mmdebstrap or debootstrap"


def _command(value: Any) -> str:
    return _words(value) or ("" if any("{root}" in word for word in value) else "needs {root}, the folder to fill")


_CHECKS: Mapping[str, Callable[[Any], str]] = {
    "chroot_suite": _text, "chroot_mirror": _text, "chroot_keyring": _text, "chroot_variant": _text,
    "chroot_arch": _text, "chroot_packages": _words, "chroot_components": _words, "chroot_builder": _builder,
    "chroot_command": _command, "chroot_tarball": _text, "chroot_extends": _image,
    "maint_recreate": _flag, "maint_boot": _flag, "maint_smoke_test": _text, "maint_keep": _keep,
    "maint_max_age": _age, "aliases": _images,
    **{f"service_{name}": check for name, check in offer.CHECKS.items()},
    **{f"run_{key}": setting.check for key, setting in schema.OF_IMAGES.items() if setting.check},
}  # fmt: skip
VARIABLES = tuple(f"{PREFIX}{name}" for name in _CHECKS)


def _problem(name: str, given: Value, playbook: Playbook) -> str:
    """Return what is wrong with a variable taken alone, or nothing."""
    if name not in _CHECKS:
        close = playbooks.close_to(name, _CHECKS)
        return "no such variable" + (f"; {PREFIX}{close} is meant?" if close else "")
    text = _CHECKS[name](given.value) or _chroot_problem(name.removeprefix("chroot_"), given.value, playbook)
    template = isinstance(given.value, str) and "{{" in given.value
    return "must be plain: templates are not read here" if text and template else text


def _chroot_problem(field: str, value: Any, playbook: Playbook) -> str:
    """Return what is wrong with a value of the right type as what a tree begins as, or nothing."""
    if field in ("keyring", "tarball"):
        path = os.path.join(os.path.dirname(playbook.path), value)
        if not os.path.isfile(path):
            return f"there is no file {path}"
        return "" if os.path.getsize(path) else f"{path} is empty"
    words = value if isinstance(value, list) else [value]
    return next(filter(None, (suite_source.problem(field, word) for word in words)), "")


def _conflicts(given: Mapping[str, Value]) -> list[tuple[str, str]]:
    """Return which variables cannot stand beside others, and why."""
    bases = [f"chroot_{name}" for name in _OTHER_BASES if f"chroot_{name}" in given]
    if not bases:
        return []
    rest = [*bases[1:], *(f"chroot_{name}" for name in _OF_RECIPE if f"chroot_{name}" in given)]
    return [(name, f"has no meaning beside {PREFIX}{bases[0]}") for name in rest]


def _digest(text: str) -> str:
    from hashlib import sha256

    return sha256(text.encode()).hexdigest()[:16]
