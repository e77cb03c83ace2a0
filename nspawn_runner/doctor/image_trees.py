"""Images: complete, bootable, recent; and the images that the settings name exist."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from contextlib import redirect_stderr

from ..errors import HostError, printable
from ..host import beneath, locks
from ..images import store
from ..images.ansible import playbooks, specs
from ..jobs import job_image
from . import Context, Finding, failed, ok, warning

_FRESH_DAYS = 35
_INIT = ("usr/lib/systemd/systemd", "lib/systemd/systemd")


def images(context: Context) -> Iterator[Finding]:
    """There are images, all complete, up to date, with systemd and the shell of scripts."""
    state_folder = context.settings.state_folder
    names = store.known_names(state_folder)
    if not names:
        yield failed(f"there are none in {state_folder}", "nspawn-runner chroot-create bookworm")
    for name in names:
        if not store.alias_of(state_folder, name):
            yield from _image(name, context)


def _image(name: str, context: Context) -> Iterator[Finding]:
    state_folder = context.settings.state_folder
    try:
        image = store.find(state_folder, name)
    except HostError as error:
        yield failed(error.what, f"nspawn-runner chroot-remove {name}; {_create(name, context)}")
        return
    if store.drafts(state_folder, name) and not locks.is_held(store.lock_file(state_folder, name)):
        # Whatever begins a change clears up first.
        mend = f"chroot-login {name} --discard -- true" if image else f"chroot-remove {name}"
        yield warning(f"{name}: a half-made tree of it is left", f"nspawn-runner {mend}")
    if image is None:
        return
    lacks = _lacks(image, job_image.settings_of(image, context.settings).shell)
    if lacks:
        package, what = lacks
        yield failed(f"{name} has no {what}", _install(name, package))
        return
    days = _age_days(image)
    if days > _FRESH_DAYS:
        yield warning(f"{name} was not brought up to date for {days:.0f} days", _update(name, context))
    else:
        yield ok(name)


def _lacks(image: store.Image, shell: str) -> tuple[str, str] | None:
    """Return the package and the name of the first thing that a machine of ``image`` would miss."""
    if not any(beneath.exists(image.root, path) for path in _INIT):
        return "systemd-sysv dbus", "systemd"
    if not beneath.exists(image.root, shell.lstrip("/")):
        return os.path.basename(shell), f"{shell}, which scripts are run by"
    return None


def _age_days(image: store.Image) -> float:
    """Return how long ago the image was changed; for a plain folder the time of apt's last change says it."""
    created = store.facts(image).get("created")
    if not isinstance(created, int):
        paths = (f"{image.root}/var/lib/dpkg/status", image.root)
        created = next((os.lstat(path).st_mtime for path in paths if os.path.lexists(path)), time.time())
    return (time.time() - created) / 86400


def _create(name: str, context: Context) -> str:
    wanted, _ = playbooks.find_all(context.settings.state_folder)
    return f"nspawn-runner chroot-{'maintenance' if name in wanted else 'create'} {name}"


def _install(name: str, packages: str) -> str:
    install = f"apt-get update && apt-get install --yes {packages}"
    return f"nspawn-runner chroot-login {name} -- sh -c '{install}'"


def _update(name: str, context: Context) -> str:
    wanted, _ = playbooks.find_all(context.settings.state_folder)
    if name in wanted:
        return f"nspawn-runner chroot-maintenance {name}"
    return f"nspawn-runner chroot-login {name} -- sh -c 'apt-get update && apt-get --yes dist-upgrade'"


def images_of_settings(context: Context) -> Iterator[Finding]:
    """Each image that the settings name is there."""
    settings = context.settings
    there = store.names(settings.state_folder)
    wanted = {"default_image": settings.default_image} if settings.default_image else {}
    wanted |= {f'[images] "{asked}"': image for asked, image in settings.images.items()}
    missing = {key: image for key, image in wanted.items() if image not in there}
    for key, image in missing.items():
        yield failed(f"{printable(key, 80)}: there is no image {image}", _create(image, context))
    if wanted and not missing:
        yield ok("all are there")


def image_playbooks(context: Context) -> Iterator[Finding]:
    """What the playbooks say of their images is understood; nothing is played."""
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            there = specs.read(context.settings)
    except HostError as error:
        first = told.getvalue().splitlines()[:1] or [error.what]
        count = f"{error.what}: " if told.getvalue() else ""
        yield failed(f"{count}{first[0].removeprefix('nspawn-runner: ')}", "nspawn-runner chroot-maintenance --dry-run")
        return
    if there:
        yield ok(f"understood: {', '.join(each.image for each in there)}")


CHECKS = (images, images_of_settings, image_playbooks)
