"""uninstall: remove everything that the tool has made on this host."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..errors import Error, HostError
from ..host import files, locks, systemd, trees
from ..images import store
from ..installation import host_files
from ..machines import network_removal, orphans, records, stop
from ..output import note, say
from ..settings import paths
from ..settings.paths import LOG_FOLDER, RUN_FOLDER

if TYPE_CHECKING:
    import argparse

    from ..settings.tables import Settings

HELP = "remove all that the tool has made on this host"
DESCRIPTION = """Removes what nspawn-runner has made on this host: the images with all their generations, caches, the
roots of failed jobs, logs, metrics, the network of machines, and what setup put in place: timers, manual pages,
completion. Without --yes it only lists them. It does nothing while machines run or images change: stop gitlab-runner
first, or the next job makes it all again.

What is not its own stays: settings and playbooks in /etc/nspawn-runner, the section in gitlab-runner's config.toml
(setup --undo removes that), the program itself. Forwarding stays on until the next boot of the host.

    nspawn-runner uninstall
    nspawn-runner uninstall --yes"""


class Part(NamedTuple):
    """Something that exists, and how to remove it."""

    name: str
    remove: Callable[[], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --yes."""
    parser.add_argument("--yes", action="store_true", help="remove it, instead of listing it")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Remove everything, or list it; return 1 if something could not be removed."""
    if not args.yes:
        _refuse_in_use(settings.state_folder)
        there = [part.name for part in _parts(settings)]
        print("\n".join(there or ["there is nothing of nspawn-runner here"]))
        if there:
            note("nothing was removed; to remove it: nspawn-runner uninstall --yes")
        return 0
    files.make_private_folder(RUN_FOLDER)
    with locks.locked(f"{RUN_FOLDER}/gc.lock", what="gc", wait_seconds=0):
        _refuse_in_use(settings.state_folder)
        failed = [part.name for part in _parts(settings) if not _removed(part)]
    if not failed:
        files.remove_tree(RUN_FOLDER)
    return 1 if failed else 0


def _removed(part: Part) -> bool:
    try:
        part.remove()
    except (Error, OSError) as error:
        lines = error.lines() if isinstance(error, Error) else [str(error)]
        say(f"{part.name} cannot be removed: {'; '.join(lines)}")
        return False
    print(f"removed {part.name}", flush=True)
    return True


def _refuse_in_use(state_folder: str) -> None:
    """Raise HostError if a machine is up, or a command is working on a machine or an image."""
    machines = [name for name in sorted(orphans.names(state_folder)) if systemd.is_loaded(records.unit_name(name))]
    if machines:
        raise HostError(
            f"machines are up: {', '.join(machines)}",
            advice="wait for their jobs, or end one: nspawn-runner cleanup --id JOB",
        )
    held = [f"{RUN_FOLDER}/{name}" for name in _entries(RUN_FOLDER) if name.endswith(".lock") and name != "gc.lock"]
    held += [store.lock_file(state_folder, name) for name in store.known_names(state_folder)]
    for path in filter(locks.is_held, held):
        raise HostError("another nspawn-runner command is running", facts=f"it holds {path}", advice="try again later")


def _parts(settings: Settings) -> Iterator[Part]:
    """Yield what exists, in the order of removal: first what calls us, last what machines depend on."""
    if host_files.removable():
        yield Part("timers, manual pages and completion", host_files.remove)
    state = settings.state_folder
    for machine in sorted(orphans.names(state)):
        yield Part(f"what is left of {machine}", partial(_remove_machine, machine, state))
    if network_removal.there_is(settings.network):
        yield Part("the network of machines", partial(network_removal.take_down, settings.network))
    for name in sorted(_own_entries(state)):
        yield Part(f"{state}/{name}", partial(trees.remove, f"{state}/{name}"))
    if os.path.isdir(state) and not os.path.ismount(state):
        yield Part(state, partial(_remove_empty, state))
    if os.path.isdir(LOG_FOLDER):
        yield Part(LOG_FOLDER, partial(files.remove_tree, LOG_FOLDER))
    if settings.metrics.file and os.path.isfile(settings.metrics.file):
        yield Part(settings.metrics.file, partial(files.remove_file, settings.metrics.file))


def _remove_machine(machine: str, state_folder: str) -> None:
    with records.lock(machine, wait_seconds=0):
        stop.remove_leftovers(machine, state_folder)


def _own_entries(state_folder: str) -> list[str]:
    """Return the tool's own entries in the state folder: all, unless the folder may also be used for something else."""
    there = set(_entries(state_folder)) - {"lost+found"}
    if os.path.basename(state_folder) == "nspawn-runner":
        return list(there)
    # An image that is a plain folder was put there by hand.
    return [name for name in there if name in paths.HIDDEN or os.path.islink(f"{state_folder}/{name}")]


def _remove_empty(folder: str) -> None:
    if not _entries(folder):
        os.rmdir(folder)


def _entries(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []
