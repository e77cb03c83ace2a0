"""complete: called by a shell, with what is typed; print the words that may stand at the cursor."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import Error

if TYPE_CHECKING:
    from ..settings.tables import Settings

HELP = ""
DESCRIPTION = ""
_GLOBAL = ("--config", "--verbose", "--debug", "--version", "--help")
# What the words of these names mean, unless the verb below says otherwise. What is not here is a file, or free.
_MEANINGS = {
    "image": "images", "default_image": "images", "name": "images", "generation": "generations", "id": "jobs",
    "check": "checks", "names": "playbooks",
}  # fmt: skip
_OF_VERBS = {
    ("login", "job"): "machines", ("login", "service"): "services", ("exec", "jobs"): "jobs_of_file",
    ("chroot-create", "name"): "playbooks", ("setup", "name"): "", ("toml", "name"): "",
}  # fmt: skip


_HIDDEN = "==SUPPRESS=="  # argparse.SUPPRESS


class Typed(NamedTuple):
    """The command line up to the cursor: ``words`` after the program, of which the last is being typed.

    ``helps`` gives the verbs and a line about each, ``parser`` the parser of one's own arguments.
    """

    words: Sequence[str]
    verbs: Sequence[str]
    helps: Callable[[], Mapping[str, str]]
    parser: Callable[[str], argparse.ArgumentParser]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: only shells call this."""


def main(args: Typed, settings: Settings) -> int:
    """Print each word that may stand at the cursor on a line, with a tab and what it is, where that is known."""
    *before, current = args.words or [""]
    for word, told in _candidates(args, before, current, settings):
        # A job's name may hold anything.
        if word.startswith(current) and word.isprintable():
            print(f"{word}\t{told}" if told else word)
    return 0


def _candidates(typed: Typed, before: Sequence[str], current: str, settings: Settings) -> Iterator[tuple[str, str]]:
    place = next((number for number, word in enumerate(before) if word in typed.verbs), None)
    if "--" in before or (place is None and before[-1:] == ["--config"]):
        return
    if place is None:
        yield from ([(name, "") for name in _GLOBAL] if current.startswith("-") else typed.helps().items())
        return
    verb, given = before[place], before[place + 1 :]
    actions = typed.parser(verb)._actions
    shown = [action for action in actions if action.help != _HIDDEN]
    options = {name: action for action in shown for name in action.option_strings}
    asked = options.get(given[-1]) if given else None
    if asked is not None and asked.nargs != 0:
        yield from _values(verb, asked, given, settings)
    elif current.startswith("-"):
        yield from ((name, action.help or "") for name, action in options.items() if name.startswith("--"))
    else:
        done = [
            word
            for word, last in zip(given, ["", *given], strict=False)
            if not word.startswith("-") and (last not in options or options[last].nargs == 0)
        ]
        positional = [action for action in actions if not action.option_strings]
        if len(done) < len(positional):
            yield from _values(verb, positional[len(done)], done, settings)
        elif positional and positional[-1].nargs in {"*", "+"}:
            yield from _values(verb, positional[-1], done, settings)


def _values(verb: str, action: argparse.Action, given: Sequence[str], settings: Settings) -> Iterator[tuple[str, str]]:
    meaning = _OF_VERBS.get((verb, action.dest), _MEANINGS.get(action.dest, ""))
    try:
        found = list(_KINDS[meaning](settings, given)) if meaning else [str(each) for each in action.choices or ()]
    except (Error, OSError):  # as of a folder that only root may read
        found = []
    yield from ((word, "") for word in found)


def _images(settings: Settings, _: Sequence[str]) -> list[str]:
    from ..images import store

    return store.names(settings.state_folder)


def _generations(settings: Settings, given: Sequence[str]) -> list[str]:
    from ..images import store

    images = [word for word in given if store.find(settings.state_folder, word)]
    return [each.generation for name in images[:1] for each in store.generations(settings.state_folder, name)]


def _playbooks(settings: Settings, _: Sequence[str]) -> list[str]:
    from ..images.ansible import playbooks

    return sorted(playbooks.find_all(settings.state_folder)[0])


def _machines(settings: Settings, given: Sequence[str]) -> list[str]:
    from ..machines import records

    return [*_jobs(settings, given), *(record.machine for record in records.all_records() if not record.service)]


def _jobs(_: Settings, __: Sequence[str]) -> list[str]:
    from ..machines import records

    return [record.job for record in records.all_records() if record.job and not record.service]


def _services(_: Settings, given: Sequence[str]) -> list[str]:
    from ..machines import records

    wanted = given[0] if given else ""
    return [each.service for each in records.all_records() if each.service and wanted in {each.job, each.of_job}]


def _jobs_of_file(_: Settings, given: Sequence[str]) -> list[str]:
    from ..pipeline import ci_file

    return [name for name in ci_file.load(os.getcwd(), ".gitlab-ci.yml").jobs if name not in given]


def _checks(_: Settings, __: Sequence[str]) -> list[str]:
    from .. import doctor

    return list(doctor.all_checks())


_KINDS: Mapping[str, Callable[[Settings, Sequence[str]], list[str]]] = {
    "images": _images, "generations": _generations, "playbooks": _playbooks, "machines": _machines, "jobs": _jobs,
    "services": _services, "jobs_of_file": _jobs_of_file, "checks": _checks,
}  # fmt: skip
