"""setup: make this host ready for the jobs of a GitLab project, or undo that."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

from ..errors import HostError, UsageError, printable
from ..gitlab import installed_runner
from ..host import files, process
from ..images import store
from ..images.ansible import playbooks
from ..installation import host_files, runner_sections
from ..names import is_image_name
from ..output import note

if TYPE_CHECKING:
    import argparse

    from ..gitlab import config_toml
    from ..settings.tables import Settings

HELP = "make this host ready for a project of GitLab, or undo that"
DESCRIPTION = """Does what is missing between the installed program and the first job: units, pages, completion
(of a checkout, or what pip installed; Debian's package has its own), an image, a section in gitlab-runner's
config.toml, a look by doctor. What config.toml gets is shown first. Calling it again does only what is missing.

    nspawn-runner setup --url https://gitlab.example.com --token-file /root/token
    nspawn-runner setup            # without GitLab: units, pages and an image
    nspawn-runner setup --print    # only tell what would be done

The token comes from the page of the runner in GitLab (Settings, CI/CD, Runners). As --token it can be seen by others
while this runs.

With --undo our sections in config.toml go, and the units, pages and completion. Images and all else go with
uninstall."""

_MOST_TOKEN_BYTES = 4096
_EXAMPLE = """hello:
  image: {image}
  script:
    - systemctl is-system-running --wait
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the runner, --image, --yes, --print and --undo."""
    parser.add_argument("--url", default="", help="address of the GitLab server")
    parser.add_argument("--token", default="", help="the runner's token")
    parser.add_argument("--token-file", default="", metavar="FILE", help="file with the token; - for standard input")
    parser.add_argument("--name", default="", help="name of the runner (default: the host's)")
    parser.add_argument("--image", default="bookworm", help="image of jobs that ask for none (default: bookworm)")
    parser.add_argument("--concurrent", type=int, default=0, metavar="N", help="jobs at a time, in a new config.toml")
    parser.add_argument("--yes", action="store_true", help="write config.toml without a question")
    parser.add_argument("--print", action="store_true", help="only tell what would be done")
    parser.add_argument("--undo", action="store_true", help="take our sections, units, pages and completion away")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Do what is missing, or undo it; return doctor's status, or 1 if the question was answered with no."""
    if args.undo:
        return _undo(dry=args.print, yes=args.yes)
    token = _token(args)
    if bool(args.url) != bool(token) and not args.print:
        raise UsageError("--url and a token belong together", advice="give --url URL and --token-file FILE, or neither")
    if not is_image_name(args.image):
        raise UsageError(f"{args.image!r} cannot be an image's name")
    if args.concurrent < 0:
        raise UsageError("--concurrent must be at least 1")
    tool = _tool_path(sys.argv[0])
    _place_files(tool, dry=args.print)
    _make_image(tool, args, settings.state_folder)
    if args.url and not _add_section(_runner(tool, token, args, settings), args):
        return 1
    if args.print:
        return 0
    note("$ nspawn-runner doctor")
    status = process.spawn([tool, *_options(args), "doctor"]).wait()
    note("", "A first .gitlab-ci.yml:", "", _EXAMPLE.format(image=args.image))
    return status


def _token(args: argparse.Namespace) -> str:
    if args.token and args.token_file:
        raise UsageError("--token and --token-file exclude each other")
    token = args.token
    if args.token_file:
        from_stdin = args.token_file in {"-"}
        try:
            with open(0 if from_stdin else args.token_file, "rb") as file:
                token = file.read(_MOST_TOKEN_BYTES).decode(errors="replace").strip()
        except OSError as error:
            raise HostError(f"cannot read the token from {args.token_file}", facts=str(error.strerror)) from None
        if not token:
            raise UsageError(f"there is no token in {args.token_file}")
    if not all(char.isascii() and char.isprintable() and char != " " for char in token):
        raise UsageError("that is no token: it has other characters than GitLab's")
    return str(token)


def _options(args: argparse.Namespace) -> list[str]:
    return ["--config", os.path.abspath(args.config)] if args.config else []


def _tool_path(called_as: str) -> str:
    return os.path.abspath(called_as if "/" in called_as else shutil.which(called_as) or called_as)


def _place_files(tool: str, *, dry: bool) -> None:
    wanted = host_files.wanted(tool)
    missing = [file.path for file in wanted if not file.is_there()]
    for path in missing:
        note(f"{'would write' if dry else 'writing'} {path}")
    if wanted and not dry:
        host_files.install(wanted)


def _make_image(tool: str, args: argparse.Namespace, state_folder: str) -> None:
    """Make the image by chroot-create, if there is none; by the sample playbook, where Ansible can play it."""
    if os.path.isdir(state_folder) and store.find(state_folder, args.image):
        return
    sample = host_files.sample_playbook(args.image)
    ours = f"{playbooks.FOLDER}/{args.image}.yaml"
    there = playbooks.find_all(state_folder)[0]
    if sample and args.image not in there and shutil.which("ansible-playbook"):
        note(f"{'would copy' if args.print else 'copying'} the sample playbook to {ours}")
        if not args.print:
            os.makedirs(playbooks.FOLDER, mode=0o755, exist_ok=True)
            files.write_atomically(ours, files.read_head(sample, 1 << 20), mode=0o644)
    note(f"{'would make' if args.print else 'making'} the image: nspawn-runner chroot-create {args.image}")
    if not args.print and process.spawn([tool, *_options(args), "chroot-create", args.image]).wait():
        raise HostError(
            f"the image {args.image} could not be made", advice="its message is above; then call setup again"
        )


def _runner(tool: str, token: str, args: argparse.Namespace, settings: Settings) -> config_toml.Runner:
    from ..gitlab import config_toml  # which loads a library that no other step needs

    return config_toml.Runner(
        tool=tool,
        state_folder=settings.state_folder,
        name=args.name or os.uname().nodename,
        url=args.url,
        token=token,
        default_image=args.image,
        config_file=os.path.abspath(args.config) if args.config else "",
    )


def _add_section(runner: config_toml.Runner, args: argparse.Namespace) -> bool:
    """Bring config.toml to have the ``runner``, shown and asked for before; return False if the answer was no."""
    from ..gitlab import config_toml

    path = os.path.realpath(installed_runner.CONFIG_FILE)
    before = runner_sections.read(path)
    section = config_toml.section(runner)
    there = [each for each in runner_sections.runners(before) if each.get("token") == (runner.token or None)]
    if there:
        return _keeps(there[0], runner_sections.runners(section)[0], path)
    head = "" if before else f"concurrent = {args.concurrent or os.cpu_count() or 1}\n"
    shown = runner_sections.masked(head + section).splitlines()
    note(f"{path} {'gets' if before else 'is made with'}:", "", *(f"    {line}" for line in shown), "")
    if args.print:
        return True
    if not args.yes and not _confirmed(f"write {path}?"):
        note("nothing was written there")
        return False
    _write(path, runner_sections.added(before or head, section))
    if not installed_runner.program("auto"):
        note("gitlab-runner is not installed yet: see docs.gitlab.com/runner/install")
    return True


def _keeps(there: dict[str, Any], wanted: dict[str, Any], path: str) -> bool:
    """Say that the runner ``there`` stays as it is; raises HostError if it does not call us."""
    if not runner_sections.is_ours(there):
        raise HostError(
            f"a runner of {path} has this token already, and does not call nspawn-runner",
            advice="make another runner in GitLab, or remove that section",
        )
    differs = [key for key, value in wanted.items() if not _holds(there.get(key), value)]
    note(f"{path} has this runner already{', with another ' if differs else ''}{', '.join(differs)}: it stays as it is")
    if differs:
        note("to have it anew: nspawn-runner setup --undo, and again")
    return True


def _holds(there: Any, wanted: Any) -> bool:
    """Return whether a value in config.toml says what ours would; gitlab-runner and admins may add to a table."""
    if isinstance(wanted, dict):
        return isinstance(there, dict) and all(_holds(there.get(key), value) for key, value in wanted.items())
    return bool(there == wanted)


def _write(path: str, text: str) -> None:
    if not os.path.isdir(os.path.dirname(path)):
        files.make_private_folder(os.path.dirname(path))
    files.write_atomically(path, text.encode(), mode=0o600, on_disk=True)


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(f"{question} there is nobody to ask", advice="say it with --yes")
    note(f"{question} [y/N]")
    return sys.stdin.readline(20).strip().lower() in {"y", "yes"}


def _undo(*, dry: bool, yes: bool) -> int:
    path = os.path.realpath(installed_runner.CONFIG_FILE)
    text = before = runner_sections.read(path)
    ours = [number for number, each in enumerate(runner_sections.runners(text)) if runner_sections.is_ours(each)]
    would = "would remove" if dry else "removing"
    for number in reversed(ours):
        note(
            f"{would} the runner {printable(str(runner_sections.runners(text)[number].get('name', '')), 60)} of {path}"
        )
        text = runner_sections.without(text, number, path=path)
    if text != before and not dry:
        if not yes and not _confirmed(f"write {path}?"):
            return 1
        _write(path, text)
    for each in host_files.removable():
        note(f"{would} {each}")
    if not dry:
        host_files.remove()
    note("images and all else stay: nspawn-runner uninstall tells what there is")
    return 0
