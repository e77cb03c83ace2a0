"""Read and check all playbooks together: if one is wrong, nothing changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from ...errors import HostError, printable
from ...output import say
from ...settings.machine_settings import problems_of
from .. import spec, store
from . import playbooks

if TYPE_CHECKING:
    from ...settings.tables import Settings
    from ..spec import Spec


def read(settings: Settings, names: Sequence[str] = ()) -> list[Spec]:
    """Return the specs of the images ``names``, or of all, each after its parent; notes go to stderr.

    Adds missing parents. If any playbook is wrong, prints all problems and raises HostError.
    """
    state_folder = settings.state_folder
    found, notes = playbooks.find_all(state_folder)
    for note in notes:
        say(note)
    for name in names:
        if name not in found:
            raise _no_playbook(name, found, state_folder)
    problems: dict[str, list[str]] = {name: [] for name in found}
    specs: dict[str, Spec] = {}
    for name, playbook in found.items():
        try:
            specs[name] = spec.read(playbook, problems[name], lambda run: problems_of(run, settings.profiles))
        except playbooks.NoPlaybookError as error:
            if name in names:
                problems[name].append(error.what)
            else:
                say(f"{error.what}; it is left out")
                del problems[name]
        except HostError as error:
            problems[name] += error.lines()[:1]
    specs = _with_own_names_of_parents(specs, state_folder)
    wanted = _with_missing_parents(names or [*problems], specs, store.names(state_folder), problems)
    _add_problems_of_names(specs, {*problems, *store.names(state_folder)}, problems)
    _tell([line for name in sorted(wanted) for line in problems[name]])
    order = playbooks.in_order({name: specs[name].extends for name in wanted})
    return [specs[name] for name in order]


def _with_own_names_of_parents(specs: Mapping[str, Spec], state_folder: str) -> dict[str, Spec]:
    """Return ``specs`` with aliases replaced by the images' own names wherever they name a parent."""
    real = [*specs, *(name for name in store.names(state_folder) if not store.alias_of(state_folder, name))]
    owners = {alias: name for name, each in specs.items() for alias in each.aliases if alias not in real}

    def own(name: str) -> str:
        return owners.get(name) or store.own_name(state_folder, name)

    return {name: each._replace(extends=own(each.extends)) if each.extends else each for name, each in specs.items()}


def _with_missing_parents(
    names: Sequence[str], specs: Mapping[str, Spec], there: Collection[str], found: Collection[str]
) -> set[str]:
    wanted = {*names}
    rest = [*names]
    while rest:
        name = rest.pop()
        parent = specs[name].extends if name in specs else ""
        if parent in found and parent not in there and parent not in wanted:
            wanted.add(parent)
            rest.append(parent)
    return wanted


def _add_problems_of_names(specs: Mapping[str, Spec], known: Collection[str], problems: dict[str, list[str]]) -> None:
    """Add the problems with parents and aliases."""
    owners = dict.fromkeys(specs, "an image with a playbook")
    for name, each in specs.items():
        if each.extends and each.extends not in known:
            problems[name].append(f"{each.playbook}: the parent {each.extends} is no image and has no playbook")
        for alias in each.aliases:
            if alias in owners:
                problems[name].append(f"{each.playbook}: the alias {alias} is {owners[alias]} already")
            owners[alias] = f"an alias of {name}"


def _tell(problems: Sequence[str]) -> None:
    for line in problems:
        say(printable(line))
    if problems:
        count = "one thing is" if len(problems) == 1 else f"{len(problems)} things are"
        raise HostError(
            f"{count} wrong in the playbooks; nothing was touched", advice="the variables: docs/playbooks.md"
        )


def _no_playbook(name: str, found: Collection[str], state_folder: str) -> HostError:
    shown = printable(name, 80)
    return HostError(
        f"the image {shown} has no playbook",
        facts=f"there are playbooks for: {', '.join(found) or 'none'}",
        advice=f"write one: {playbooks.FOLDER}/{shown}.yaml, or in {state_folder}",
    )
