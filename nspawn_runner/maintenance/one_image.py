"""Maintain one image: create it or change a copy, and publish it only if everything succeeded."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from ..errors import Error, HostError
from ..host import trees
from ..images import aliases, changes, generations, program_log, store
from ..images.ansible import play
from ..images.build import create, inputs
from ..images.generations import Draft
from ..images.progress import Progress
from ..images.spec import Spec
from ..settings.package_proxy import PackageProxy

CREATED, RECREATED, UPDATED, UNCHANGED, FAILED = "created", "made anew", "updated", "unchanged", "failed"


class ImageResult(NamedTuple):
    """What became of an image; ``changed`` counts tasks, the size is in bytes, both None if unknown.

    ``reason`` says why it was made from scratch, or what failed, in one to three lines.
    """

    image: str
    result: str
    changed: int | None = None
    seconds: float = 0
    size_bytes: int | None = None
    log: str = ""
    reason: tuple[str, ...] = ()


class Tools(NamedTuple):
    """What maintenance needs from other rooms: which trees machines use; machines for playbooks and smoke tests.

    ``booted(spec, draft)`` yields the name of a machine that changes the draft; ``try_out(spec, draft, log)`` raises
    HostError when the smoke test fails in a booted copy of it.
    """

    state_folder: str
    user_namespace: bool
    used_roots: Callable[[], list[str]]
    booted: Callable[[Spec, Draft], AbstractContextManager[str]]
    try_out: Callable[[Spec, Draft, str], None]
    verbose: bool = False
    package_proxy: PackageProxy | None = None


class _Work(NamedTuple):
    spec: Spec
    tools: Tools
    progress: Progress
    log: str

    def player(self, target: str) -> AbstractContextManager[play.Player]:
        """Return the context manager of a Player that plays the playbook in the tree or machine ``target``."""
        namespace = self.tools.user_namespace
        return play.player(self.spec, target, user_namespace=namespace, log=self.log, progress=self.progress)


def maintain(spec: Spec, tools: Tools) -> ImageResult:
    """Bring the image of ``spec`` up to date and return the result; on any failure the image stays as it was."""
    return _told(spec, tools, _maintain)


def check(spec: Spec, tools: Tools) -> ImageResult:
    """Return what ``maintain`` would do, by playing the playbook with --check in a copy that is then discarded."""
    return _told(spec, tools, _check)


def _told(spec: Spec, tools: Tools, do: Callable[[_Work, store.Image | None], ImageResult]) -> ImageResult:
    """Call ``do`` under the image's lock; an error becomes a result, so that the other images get their turn."""
    state, name = tools.state_folder, spec.image
    work = _Work(spec, tools, Progress(f"image {name}", verbose=tools.verbose), "")
    try:
        with generations.changing(state, name):
            work = work._replace(log=program_log.new_log(f"chroot-maintenance-{name}"))
            aliases.check(state, spec)
            image = _image(state, name)
            result = do(work, image)
    except (Error, OSError) as error:
        lines = error.lines() if isinstance(error, Error) else [str(error)]
        result = ImageResult(name, FAILED, reason=tuple(lines))
    finally:
        work.progress.end()
    return result._replace(seconds=work.progress.seconds(), log=work.log)


def _image(state_folder: str, name: str) -> store.Image | None:
    """Return the image ``name`` if it exists; an alias of that name does not count, the new image replaces it."""
    is_there = os.path.lexists(os.path.join(state_folder, name)) and not store.alias_of(state_folder, name)
    return changes.find_ours(state_folder, name) if is_there else None


def _maintain(work: _Work, image: store.Image | None) -> ImageResult:
    spec, state = work.spec, work.tools.state_folder
    if image is None:
        generations.remove_unpublished(state, spec.image)
    anew = create.why_anew(spec, image, state) if image else ""
    with generations.draft(state, spec.image) as draft:
        facts = _new_tree(work, image, draft) if image is None or anew else _copied_tree(work, image, draft)
        played = _play(work, draft)
        if image and not anew and not played.changed and facts.get("digest") == spec.digest:
            made, result = image, UNCHANGED
            noted = inputs.noted(spec.inputs, facts.get("inputs", {}))
            generations.note(image, {"maintained": round(time.time()), "inputs": noted})
        else:
            made, result = _publish(work, draft, facts), CREATED if image is None else RECREATED if anew else UPDATED
    aliases.publish(state, spec)
    generations.drop_old(state, spec.image, work.tools.used_roots())
    size = store.facts(made).get("size_bytes")
    return ImageResult(spec.image, result, played.changed, size_bytes=size, reason=(anew,) if anew else ())


def _check(work: _Work, image: store.Image | None) -> ImageResult:
    spec, state = work.spec, work.tools.state_folder
    anew = create.why_anew(spec, image, state) if image else ""
    if image is None or anew:
        _check_syntax(work)
        return ImageResult(spec.image, RECREATED if image else CREATED, reason=(anew,) if anew else ())
    with generations.draft(state, spec.image) as draft:
        facts = _copied_tree(work, image, draft)
        played = _play(work, draft, check=True)
    result = UPDATED if played.changed or facts.get("digest") != spec.digest else UNCHANGED
    return ImageResult(spec.image, result, played.changed, size_bytes=facts.get("size_bytes"))


def _copied_tree(work: _Work, image: store.Image, draft: Draft) -> dict[str, Any]:
    work.progress.show("copying")
    trees.copy(image.root, draft.root)
    return {**store.facts(image), "base": image.generation}


def _new_tree(work: _Work, image: store.Image | None, draft: Draft) -> dict[str, Any]:
    _check_syntax(work)  # before spending minutes on a tree for a broken playbook
    tools = work.tools
    facts = create.make(
        work.spec, draft.root, tools.state_folder, log=work.log, progress=work.progress, proxy=tools.package_proxy
    )
    return {**facts, "base": image.generation} if image else facts


def _check_syntax(work: _Work) -> None:
    with work.player("/nonexistent") as player:
        player.check_syntax()


def _play(work: _Work, draft: Draft, *, check: bool = False) -> play.Played:
    place = work.tools.booted(work.spec, draft) if work.spec.boot else nullcontext(draft.root)
    with place as target, work.player(target) as player:
        played = player.play(check=check)
    if not played.concerned:
        raise HostError(f"no play of {work.spec.playbook} was for the host {work.spec.image}", advice="use hosts: all")
    return played


def _publish(work: _Work, draft: Draft, facts: dict[str, Any]) -> store.Image:
    spec, state = work.spec, work.tools.state_folder
    if spec.smoke_test:
        work.progress.show("trying it out")
        work.tools.try_out(spec, draft, work.log)
    work.progress.show("publishing")
    own = {
        "playbook": spec.playbook,
        "digest": spec.digest,
        "base_digest": spec.base_digest,
        "aliases": list(spec.aliases),
        "keep": spec.keep,
        "run": dict(spec.run),
        "service": dict(spec.service),
        "maintained": round(time.time()),
    }
    made = generations.complete(state, draft, {**facts, **own})
    generations.publish(state, made)
    return made
