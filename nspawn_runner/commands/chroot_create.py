"""chroot-create: make an image from a Debian suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UsageError
from ..host import trees
from ..images import changes, generations, lookup, program_log, store
from ..images.ansible import playbooks, specs
from ..images.build import bootstrap, identity, suite_source
from ..images.progress import Progress
from ..maintenance import all_images
from ..maintenance.one_image import FAILED
from ..output import human_size
from ..settings import package_proxy

if TYPE_CHECKING:
    import argparse

    from ..settings.tables import Settings

HELP = "make an image from a Debian suite"
DESCRIPTION = """Makes the image NAME with mmdebstrap (or debootstrap). Jobs can ask for it as soon as it is complete.

    nspawn-runner chroot-create bookworm
    nspawn-runner chroot-create web --suite trixie --packages nginx-light curl

If NAME has a playbook in /etc/nspawn-runner, that says what it is made from; see chroot-maintenance."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add NAME and the options for what the image is made from."""
    parser.add_argument("name", metavar="NAME", help="name of the image: letters, digits and . _ -")
    parser.add_argument("--suite", metavar="SUITE", help="suite of the distribution (default: NAME)")
    parser.add_argument("--mirror", metavar="URL", default="", help="where packages come from (default: the builder's)")
    parser.add_argument("--variant", metavar="VARIANT", default="minbase", help="set of packages (default: minbase)")
    parser.add_argument("--arch", metavar="ARCH", default="", help="architecture (default: the host's)")
    parser.add_argument("--packages", metavar="PACKAGE", nargs="+", default=[], help="added to the usual packages")
    parser.add_argument("--components", metavar="COMPONENT", nargs="+", default=["main"], help="(default: main)")
    parser.add_argument("--keyring", metavar="FILE", default="", help="check the suite with these keys only")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Make the image and print one line about it."""
    name = lookup.new_image_name(args.name)
    playbook = playbooks.find_all(settings.state_folder)[0].get(name)
    if playbook:
        return _create_by_playbook(playbook, args, settings)
    wanted = suite_source.SuiteSource(
        suite=args.suite or name,
        mirror=args.mirror,
        variant=args.variant,
        arch=args.arch,
        packages=_words(args.packages),
        components=_words(args.components),
        keyring=args.keyring,
    )
    create(name, suite_source.checked(wanted), settings)
    return 0


def _create_by_playbook(playbook: playbooks.Playbook, args: argparse.Namespace, settings: Settings) -> int:
    """Make the image from its playbook and print the result; return 1 if that failed."""
    given = (args.suite, args.mirror, args.arch, args.packages, args.keyring)
    if any(given) or args.variant != "minbase" or args.components != ["main"]:
        raise UsageError(f"{playbook.path} says what {playbook.image} is made from", advice="set that there instead")
    changes.refuse_existing(settings.state_folder, playbook.image)
    wanted = specs.read(settings, [playbook.image])
    results = all_images.maintain(wanted, settings, dry=False, verbose=args.verbose)
    print("\n".join(all_images.lines(results, dry=False)))
    return 1 if any(result.result == FAILED for result in results) else 0


def create(name: str, wanted: suite_source.SuiteSource, settings: Settings) -> store.Image:
    """Make the image ``name`` from ``wanted``; raises HostError if it exists or something fails."""
    state = settings.state_folder
    changes.refuse_existing(state, name)
    suite_source.keyring(wanted)
    progress = Progress(f"image {name}")
    log = program_log.new_log(f"chroot-create-{name}")
    with generations.changing(state, name):
        changes.refuse_existing(state, name)
        generations.remove_unpublished(state, name)
        with generations.draft(state, name) as draft:
            trees.make(draft.root)
            proxy = package_proxy.find(settings.packages.proxy)
            builder = bootstrap.build(wanted, draft.root, log=log, progress=progress, proxy=proxy)
            progress.show("writing to disk")
            identity.clean_up(draft.root, name)
            image = generations.complete(state, draft, {**suite_source.facts(wanted), "builder": builder})
            generations.publish(state, image)
    progress.end()
    size = human_size(store.facts(image).get("size_bytes"))
    print(f"image {name}, generation {image.generation}, {size}, made in {progress.seconds():.0f} s")
    return image


def _words(texts: list[str]) -> tuple[str, ...]:
    """Return the words in ``texts``, split at spaces and commas."""
    return tuple(word for text in texts for word in text.replace(",", " ").split())
