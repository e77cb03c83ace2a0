#!/usr/bin/env python3
"""Write what the documents say of the settings from what nspawn_runner/settings says; with --check only compare.

Written are the table in docs/settings.md, the variables of machines in docs/playbooks.md, the keys of profiles in
docs/profiles.md, the keys in docs/nspawn-runner.toml.5, docs/nspawn-runner.toml, and the manual pages in docs/man.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "script")]

import manual_pages  # noqa: E402

from nspawn_runner.settings import policy, profiles, schema, tables  # noqa: E402
from nspawn_runner.settings.schema import SETTINGS, Setting  # noqa: E402

_WIDTH = 118
_SAMPLE_HEAD = """\
# Settings of nspawn-runner. Their place is /etc/nspawn-runner/nspawn-runner.toml; file and folder must be root's and
# writable by root only. Every key is here with its default: take the # away in front of what you change.
# The manual page nspawn-runner.toml(5) tells more, and which mistakes are reported.
"""
_SAMPLE_TAIL = """
# Rules: what some jobs may use beyond what everybody may. Whom a rule is for: projects, protected, runners (all that
# are given have to fit). What it gives: images, profiles, binds, ceilings. For example:
#     [[policy]]
#     name = "release"
#     projects = ["group/deploy", "group/tools/**"]
#     protected = true
#     images = ["release-*"]
#     ceilings = { memory_max = "64G", cpus = 8 }
#
#     [[policy]]
#     name = "builders"
#     runners = [42]
#     profiles = ["nesting"]
#     binds = ["/srv/mirror"]
"""


# Tables whose keys the admin makes up.
_OF_THE_ADMINS_KEYS = ("images", "environment")


def _default(setting: Setting) -> str:
    """Return the default as TOML writes it; of the plain values that settings have, JSON is the same."""
    return json.dumps(tables.value(tables.Settings(), setting.key))


def _is_table(setting: Setting) -> bool:
    return setting.check is None or setting.key in _OF_THE_ADMINS_KEYS


def _described() -> Iterator[Setting]:
    return (setting for setting in SETTINGS if setting.help)


def settings_table() -> str:
    """Return the rows of the table in docs/settings.md."""
    rows = ["| Key | Default | Meaning |", "|---|---|---|"]
    for setting in _described():
        table, _, key = setting.key.rpartition(".")
        if setting.key in _OF_THE_ADMINS_KEYS:
            rows.append(f"| `[{setting.key}]` | empty | {setting.help} |")
        elif not _is_table(setting):
            rows.append(f"| `{f'[{table}] ' * bool(table)}{key}` | `{_default(setting)}` | {setting.help} |")
    return "\n".join(rows) + "\n"


def playbook_rows() -> str:
    """Return the rows of the variables that set what machines of an image get, for docs/playbooks.md."""
    limits = [name for name, setting in schema.OF_IMAGES.items() if setting.key.startswith("limits.")]
    rows = [
        f"| `run_{name}` | {setting.help} | the settings' |\n"
        for name, setting in schema.OF_IMAGES.items()
        if name not in limits
    ]
    names = ", ".join(f"`run_{name}`" for name in limits)
    rows.append(f"| {names} | limits of its machines, as under `[limits]` in the settings | the settings' |\n")
    return "".join(rows)


def profile_rows() -> str:
    """Return the rows of the keys of a profile, for docs/profiles.md."""
    rows = ["| key | value | in `default` |", "|---|---|---|"]
    for name, key in profiles.KEYS.items():
        default = getattr(profiles.Profile(), name)
        shown = "the settings'" if default in (None, "") else f"`{json.dumps(default)}`"
        rows.append(f"| `{name}` | {key.help} | {shown} |")
    return "\n".join(rows) + "\n"


def policy_keys() -> str:
    """Return the keys of a rule for nspawn-runner.toml(5)."""
    lines = []
    for name, key in policy.KEYS.items():
        lines += [".TP", f"\\fB{name}\\fR", *_paragraph(f"{key.help} {key.details}")]
    return "".join(f"{line}\n" for line in lines)


def _paragraph(text: str) -> Iterator[str]:
    for sentence in _sentences(text.strip()):
        yield from textwrap.wrap(_roff(sentence), _WIDTH, break_long_words=False, break_on_hyphens=False)


def manual_keys() -> str:
    """Return the section KEYS of nspawn-runner.toml(5), up to the rules."""
    lines = []
    for setting in _described():
        key = setting.key.rpartition(".")[2]
        if _is_table(setting):
            lines.append(f".SS [{key}]")
        else:
            lines += [".TP", f"\\fB{key}\\fR = {_roff(_default(setting))}"]
        lines += _paragraph(f"{setting.help} {setting.details}")
    return "".join(f"{line}\n" for line in lines)


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.;])\s+(?=[A-Z`])", text)


def _roff(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub("`([^`]*)`", r"\\fB\1\\fR", text)


def sample() -> str:
    """Return the commented sample of all settings."""
    parts = [_SAMPLE_HEAD]
    for setting in _described():
        key = setting.key.rpartition(".")[2]
        if "." not in setting.key:
            parts.append("\n")
        example = " For example:" if setting.example else ""
        parts += [f"# {line}\n" for line in textwrap.wrap(setting.help.replace("`", "") + example, _WIDTH - 2)]
        parts += [f"#     {line}\n" for line in setting.example.splitlines()]
        parts.append(f"#[{key}]\n" if _is_table(setting) else f"#{key} = {_default(setting)}\n")
    return "".join([*parts, _SAMPLE_TAIL])


def _between(begin: str, end: str, new: Callable[[], str]) -> Callable[[str], str]:
    """Return what replaces the text between the first line ``begin`` and the line ``end`` behind it."""

    def replaced(old: str) -> str:
        head, found, rest = old.partition(begin)
        _, also, tail = rest.partition(end)
        if not found or not also:
            raise SystemExit(f"no {begin!r} with {end!r} behind it")
        return head + begin + new() + end + tail

    return replaced


_ALL_KEYS = _between('.\\" The keys are written by script/write_docs.py.\n', ".SS [[policy]]\n", manual_keys)
_POLICY_KEYS = _between('.\\" So are those of rules.\n', ".SH POLICY\n", policy_keys)
DOCUMENTS: dict[str, Callable[[str], str]] = {
    "docs/settings.md": _between(
        "<!-- settings: script/write_docs.py -->\n", "<!-- end of settings -->", settings_table
    ),
    # A comment would end the table.
    "docs/playbooks.md": _between("that jobs may ask for | none |\n", "\nAn image is made from ", playbook_rows),
    "docs/profiles.md": _between("<!-- keys: script/write_docs.py -->\n", "<!-- end of keys -->", profile_rows),
    "docs/nspawn-runner.toml.5": lambda text: _POLICY_KEYS(_ALL_KEYS(text)),
    "docs/nspawn-runner.toml": lambda _: sample(),
}


def stale() -> list[str]:
    """Return the documents that do not say what the code says, and pages of what is no more."""
    found = [name for name, write in DOCUMENTS.items() if write(text := (CHECKOUT / name).read_text()) != text]
    there = {f"{manual_pages.FOLDER}/{path.name}": path.read_text() for path in _pages()}
    wanted = manual_pages.pages()
    return found + sorted(name for name in {*there, *wanted} if there.get(name) != wanted.get(name))


def _pages() -> Iterator[Path]:
    return (CHECKOUT / manual_pages.FOLDER).glob("*.[1-9]")


def main() -> int:
    """Write the documents, or name those that are stale."""
    if "--check" in sys.argv[1:]:
        for name in stale():
            print(f"{name} is stale: run script/write_docs.py")
        return bool(stale())
    for name, write in DOCUMENTS.items():
        path = CHECKOUT / name
        path.write_text(write(path.read_text()))
    # Last: they are made from documents.
    for old in _pages():
        old.unlink()
    for name, text in manual_pages.pages().items():
        (CHECKOUT / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
