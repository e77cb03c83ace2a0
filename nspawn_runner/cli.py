"""Arguments, logging, signals; the one place where an error becomes a message and an exit status."""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from types import SimpleNamespace

from . import __version__
from .errors import Cancelled, Error, UsageError
from .host import signals, streams
from .light_typing import TYPE_CHECKING, NoReturn, Protocol, cast

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from .jobs.accounting import StageEntry
    from .settings.tables import Settings

# verb → module in commands/. Each call loads one module, which saves the others' imports.
VERBS = {
    "config": "config",
    "gitlab-config": "config",
    "prepare": "prepare",
    "run": "run",
    "cleanup": "cleanup",
    "exec": "exec_job",
    "chroot-clone": "chroot_clone",
    "chroot-create": "chroot_create",
    "chroot-export": "chroot_export",
    "chroot-import": "chroot_import",
    "chroot-list": "chroot_list",
    "chroot-login": "chroot_login",
    "chroot-remove": "chroot_remove",
    "chroot-rollback": "chroot_rollback",
    "chroot-maintenance": "chroot_maintenance",
    "list": "list_machines",
    "login": "login",
    "gc": "gc",
    "doctor": "doctor",
    "setup": "setup",
    "uninstall": "uninstall",
    "toml": "runner_toml",
}


# A disk that is full, read-only or broken, the kernel's limits, and what even root may not do (an immutable file, a
# security module): the host's failure wherever it occurs.
_OF_THE_HOST = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
    | {errno.EPERM, errno.EACCES}
)
STAGES = frozenset({"config", "gitlab-config", "prepare", "run", "cleanup"})


class Command(Protocol):
    """What a module in commands/ offers."""

    HELP: str
    DESCRIPTION: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""

    def main(self, args: argparse.Namespace, settings: Settings) -> int:
        """Do what the verb says and return the exit status."""


def entry() -> NoReturn:
    """Run the tool with the arguments of this process and exit."""
    streams.secure()
    # The stages have nothing to tear down, and the interpreter's own teardown takes some milliseconds.
    os._exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run the tool with ``arguments`` and return its exit status; messages go to stderr."""
    signals.heed()
    debug = "--debug" in before_dashes(arguments)
    try:
        if arguments[:1] in (["reap"], ["join"]):
            return _of_unit(arguments)
        status = _run(arguments)
        sys.stdout.flush()
        signals.check()
        return status
    except Error as error:
        if debug:
            raise
        return _tell(error)
    except Cancelled as cancelled:
        return _tell_cancelled(cancelled.signal_number)
    except BrokenPipeError:
        return _system_failure()  # the reader of our output has gone, so there is nobody to tell
    except Exception as error:
        if debug:
            raise
        return _tell_unexpected(error)


def _of_unit(arguments: Sequence[str]) -> int:
    """Do what the unit of a machine calls us for: join or reap."""
    from .jobs import accounting

    with accounting.StageEntry(arguments[0]) as entry:
        return _command(arguments[0]).main(_OfUnit(arguments, entry), None)  # type: ignore[arg-type]


class _OfUnit:
    def __init__(self, arguments: Sequence[str], entry: StageEntry) -> None:
        if len(arguments) != 2:
            raise UsageError(f"{arguments[0]} takes the name of a machine: systemd calls it")
        self.machine, self.entry = arguments[1], entry


def _complete(words: Sequence[str]) -> int:
    """Tell a shell which words may follow: completion calls us for that."""
    import argparse

    _load_site_packages()

    def parser(verb: str) -> argparse.ArgumentParser:
        found = argparse.ArgumentParser()
        _command(verb).add_arguments(found)
        return found

    def helps() -> dict[str, str]:
        return {verb: _command(verb).HELP for verb in VERBS}

    typed = SimpleNamespace(words=words, verbs=VERBS, helps=helps, parser=parser)
    settings = _settings(SimpleNamespace(verb="doctor", config=None))  # type: ignore[arg-type]
    return _command("complete").main(typed, settings)  # type: ignore[arg-type]


def _command(verb: str) -> Command:
    return cast("Command", import_module(f".commands.{VERBS.get(verb, verb)}", __package__))


def _run(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["complete"]:
        return _complete(arguments[1:])
    try:
        args = plain_call(arguments) or parse(arguments)
    except SystemExit:  # after --help or --version
        return 0
    if args.verbose:
        from .host import process

        process.announced = True
    if args.verb not in STAGES:
        _need_root(args.verb)
        return _command(args.verb).main(args, _settings(args))
    from .jobs import accounting

    with accounting.StageEntry(args.verb, getattr(args, "stage", ""), job_id=args.id) as entry:
        args.entry = entry
        _need_root(args.verb)
        entry.settings = _settings(args)
        entry.status = _command(args.verb).main(args, entry.settings)
        sys.stdout.flush()
        signals.check()  # a stage that was asked to end never reports success
    return entry.status


def _settings(args: argparse.Namespace) -> Settings:
    from .settings import cache, load, tables

    try:
        return load.load(args.config, cache.loads)
    except Error as error:
        if args.verb not in {"cleanup", "doctor"}:
            raise
        # A mistake in the file must not keep a machine alive: its record is all that cleanup needs. doctor reports it.
        if args.verb == "cleanup":
            _tell(error)
        return tables.Settings()


def plain_call(arguments: Sequence[str]) -> argparse.Namespace | None:
    """Return what ``parse`` would for calls in the forms that gitlab-runner uses, else None.

    Without argparse, each of a job's dozen calls starts 5 ms sooner.
    """
    match arguments:
        case ["cleanup"]:
            own: dict[str, str | None] = {}
        case ["config" | "gitlab-config"]:
            own = {"default_image": None}
        case ["config" | "gitlab-config", "--default-image", name]:
            own = {"default_image": name}
        case ["prepare"]:
            own = {"image": None, "default_image": None}
        case ["prepare", "--default-image", name]:
            own = {"image": None, "default_image": name}
        case ["run", script, stage]:
            own = {"script": script, "stage": stage, "shell": None}
        case _:
            return None
    if any((value or "").startswith("-") for value in own.values()):
        return None
    values = {"verb": arguments[0], "config": None, "verbose": False, "debug": False, "id": None, **own}
    return cast("argparse.Namespace", SimpleNamespace(**values))


def _load_site_packages() -> None:
    """Make libraries importable, for verbs other than stages, if python3 -S left them out."""
    if sys.flags.no_site:
        import site

        site.main()


def before_dashes(arguments: Sequence[str]) -> list[str]:
    """Return the ``arguments`` before the first ``--``: what follows is for a command, whatever it looks like."""
    words = list(arguments)
    return words[: words.index("--")] if "--" in words else words


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the parsed ``arguments``; raises UsageError. Exits after --help and --version."""
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            from .settings.mistakes import meant

            parsers = (parser, verbs.choices.get(wanted or "", self))
            options = [option for each in parsers for option in each._option_string_actions]
            help_of = f"nspawn-runner {wanted} --help" if wanted else "nspawn-runner --help"
            raise UsageError(message, advice=f"{meant(given, options)}see: {help_of}")

    def formatter(prog: str) -> argparse.HelpFormatter:
        # Given a width, argparse does not load shutil, which would cost each stage 3 ms.
        return argparse.RawDescriptionHelpFormatter(prog, width=_columns())

    parser = Parser(
        prog="nspawn-runner",
        description="Runs every CI job in its own freshly booted Linux system, and keeps the images for it.",
        epilog="nspawn-runner VERB --help describes a verb. Documentation: README.md and docs",
        allow_abbrev=False,
        formatter_class=formatter,
    )
    parser.add_argument("--version", action="version", version=f"nspawn-runner {__version__}")
    parser.add_argument("--config", metavar="FILE", help="settings (default: /etc/nspawn-runner/nspawn-runner.toml)")
    parser.add_argument("--verbose", "-v", action="store_true", help="show the commands that are called")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser, prog="nspawn-runner")
    given = before_dashes(arguments)
    words = [word for before, word in zip(["", *given], given, strict=False) if before != "--config"]
    wanted = next((word for word in words if word in VERBS), None)
    if wanted is None and (word := next((word for word in words if not word.startswith("-")), "")):
        from .settings.mistakes import meant

        raise UsageError(f"there is no verb {word}", advice=f"{meant([word], VERBS)}see: nspawn-runner --help")
    # Only the verb in use loads its module; the list of verbs loads all.
    if wanted not in STAGES:
        _load_site_packages()
    for verb in [wanted] if wanted else VERBS:
        command = _command(verb)
        command.add_arguments(
            verbs.add_parser(
                verb,
                help=command.HELP,
                description=command.DESCRIPTION,
                allow_abbrev=False,
                formatter_class=formatter,
            )
        )
    if wanted not in {"chroot-login", "login"} or len(given) == len(arguments):
        return parser.parse_args(list(arguments))
    # argparse takes a command after -- only if no option comes between it and the name, and drops a second --.
    args = parser.parse_args(given)
    args.command = [*args.command, *arguments[len(given) + (not args.command) :]]
    return args


def _columns() -> int:
    try:
        return max(60, os.get_terminal_size().columns - 2)
    except OSError:
        return 100


def _need_root(verb: str) -> None:
    if os.geteuid() != 0 and verb not in {"config", "gitlab-config", "toml"}:
        service = " (in a job: let gitlab-runner's service run as root)" if verb in STAGES else ""
        raise Error(
            f"{verb} needs root: it works on machines and images", advice=f"try: sudo nspawn-runner {verb} …{service}"
        )


def _tell(error: Error) -> int:
    from .gitlab import exit_status

    for line in error.evidence:
        print(line if line.startswith(" ") else f"nspawn-runner: {line}", file=sys.stderr)
    for number, line in enumerate(error.lines()):
        print(f"nspawn-runner: {line}" if number == 0 else f"  {line}", file=sys.stderr)
    return exit_status.of_error(error, os.environ)


def _tell_cancelled(number: int) -> int:
    """Say which signal ended us; return the runner's status of a system failure, or by hand what a shell would."""
    from signal import SIGINT, Signals

    if number == SIGINT and sys.stderr.isatty():
        print(file=sys.stderr)  # after the terminal's ^C
    print(f"nspawn-runner: stopped by {Signals(number).name}", file=sys.stderr)
    return _system_failure() if "SYSTEM_FAILURE_EXIT_CODE" in os.environ else 128 + number


def _tell_unexpected(error: Exception) -> int:
    if isinstance(error, OSError) and error.errno in _OF_THE_HOST:
        return _tell(Error(str(error.strerror), facts=str(error.filename or "")))
    import traceback

    traceback.print_exception(error)
    print("nspawn-runner: this is a bug in nspawn-runner; please report it with the lines above", file=sys.stderr)
    return _system_failure()


def _system_failure() -> int:
    from .gitlab import exit_status

    return exit_status.system_failure(os.environ)
