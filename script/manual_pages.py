"""Manual pages made from what the code and the documents say: one for each verb, and some pages of docs as such.

What a verb does and its options come from its module, its exit statuses from nspawn-runner(8), the rest from pages in
docs. The language is man(7).
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from nspawn_runner import cli

CHECKOUT = Path(__file__).resolve().parents[1]
FOLDER = "docs/man"
# Names, pages in docs, sections and titles.
_OF_DOCS = {
    "nspawn-runner-playbook.5": ("docs/playbooks.md", "playbooks of images for nspawn-runner"),
    "nspawn-runner-security.7": ("docs/security.md", "what jobs of nspawn-runner can and cannot do to others"),
}
_SECTIONS = {"5": "File formats", "7": "Miscellaneous", "8": "System administration"}
_STATUSES = """\
.TP
.B 0
Success.
.TP
.B 1
The job is to blame, or what was asked for could only be done in part.
.TP
.B 2
The host, the settings or the command line is to blame.
"""
_WIDTH = 78


def head(name: str) -> str:
    """Return the first line of the page ``name``, such as nspawn-runner.8, with the date of the hand-written page."""
    date = re.search(r'^\.TH \S+ 8 "(.+?)"', (CHECKOUT / "docs/nspawn-runner.8").read_text())
    title, _, number = name.rpartition(".")
    return f'.TH {roff(title.upper())} {number} "{date[1] if date else ""}" nspawn\\-runner "{_SECTIONS[number]}"\n'


def pages() -> dict[str, str]:
    """Return the generated pages by their paths in the checkout."""
    found = {f"{FOLDER}/nspawn-runner-{verb}.8": verb_page(verb) for verb in cli.VERBS if verb != "gitlab-config"}
    return found | {f"{FOLDER}/{name}": docs_page(name, *of) for name, of in _OF_DOCS.items()}


def verb_page(verb: str) -> str:
    """Return the page of a verb."""
    command = import_module(f"nspawn_runner.commands.{cli.VERBS[verb]}")
    parser = argparse.ArgumentParser(
        prog=f"nspawn-runner {verb}",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=_WIDTH),
    )
    command.add_arguments(parser)
    usage = parser.format_usage().removeprefix("usage: ").rstrip()
    parts = [
        head(f"nspawn-runner-{verb}.8"),
        f".SH NAME\n{roff(f'nspawn-runner-{verb}')} \\- {roff(command.HELP)}\n",
        f".SH SYNOPSIS\n.nf\n{_verbatim(usage)}\n.fi\n",
        f".SH DESCRIPTION\n{''.join(of_markdown(command.DESCRIPTION))}",
        f".SH OPTIONS\n{''.join(_options(parser))}",
        ".PP\nThose of all verbs,\n.BR \\-\\-config ,\n.B \\-\\-verbose\nand\n.BR \\-\\-debug ,\nare in\n"
        ".BR nspawn\\-runner (8).\n",
        f".SH EXIT STATUS\n{_own_status(verb) or _STATUSES}",
        ".SH SEE ALSO\n.BR nspawn\\-runner (8),\n.BR nspawn\\-runner.toml (5)\n",
    ]
    return "".join(parts)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        value = action.metavar or action.dest.upper()
        value = value if isinstance(value, str) else " ".join(value)
        if not action.option_strings:
            names = f"\\fI{roff(value)}\\fR"
        else:
            names = ", ".join(f"\\fB{roff(name)}\\fR" for name in action.option_strings)
            names += "" if action.nargs == 0 else f" \\fI{roff(value)}\\fR"
        help_text = (action.help or "").replace("%%", "%") % {"default": action.default, "prog": parser.prog}
        yield f".TP\n{names}\n{_wrapped(help_text[:1].upper() + help_text[1:] + '.')}"


def _own_status(verb: str) -> str:
    """Return what nspawn-runner(8) says of the verb's own statuses, below those that all have."""
    text = (CHECKOUT / "docs/nspawn-runner.8").read_text()
    own = text.partition("\nSome verbs have their own:\n")[2].partition("\n.SH ")[0]
    for entry in own.split(".TP\n")[1:]:
        names, _, rest = entry.partition("\n")
        if verb in names.replace("\\", "").replace('"', "").replace(",", " ").split()[1:]:
            return f"{rest.rstrip()}\n.PP\nIn general:\n{_STATUSES}"
    return ""


def docs_page(name: str, source: str, title: str) -> str:
    """Return the page ``name`` from the document ``source``."""
    text = (CHECKOUT / source).read_text().partition("\n")[2]
    body = "".join(of_markdown(re.sub(r"<!--.*?-->\n", "", text)))
    described = f"{head(name)}.ad l\n.SH NAME\n{roff(name.rpartition('.')[0])} \\- {roff(title)}\n.SH DESCRIPTION\n"
    return f"{described}{body}.SH SEE ALSO\n.BR nspawn\\-runner (8),\n.BR nspawn\\-runner.toml (5)\n"


def of_markdown(text: str) -> Iterator[str]:
    """Yield what paragraphs, headings, lists, tables and indented blocks of ``text`` are in man(7)."""
    first = True  # where nothing stands below a heading, a paragraph needs no macro
    for block in _blocks(text):
        lines = block.splitlines()
        between = "" if first else ".PP\n"
        if lines[0].startswith("#"):
            level, _, heading = lines[0].partition(" ")
            yield f"{'.SH' if len(level) < 3 else '.SS'} {roff(heading.upper() if len(level) < 3 else heading)}\n"
            first = True
            continue
        if lines[0].startswith("    "):
            yield f"{between}.RS 4\n.nf\n{_verbatim(textwrap.dedent(block))}\n.fi\n.RE\n"
        elif lines[0].startswith("|"):
            yield from _table(lines)
        elif re.match(r"- |\d+\. ", lines[0]):
            for mark, item in re.findall(r"^(-|\d+\.) (.*(?:\n  .*)*)", block, re.MULTILINE):
                shown = "\\(bu 2" if mark == "-" else f"{mark} 4"
                yield f".IP {shown}\n{_wrapped(item)}"
        else:
            yield f"{between}{_wrapped(block)}"
        first = False


def _blocks(text: str) -> Iterator[str]:
    """Yield the parts of ``text`` between empty lines; lists that follow a line at once are parts of their own."""
    apart = re.sub(r"^(?![-\d |])(.*\n)(?=- |1\. )", r"\1\n", text, flags=re.MULTILINE)
    blocks = [block.strip("\n") for block in re.split(r"\n[ \t]*\n", apart) if block.strip()]
    joined: list[str] = []
    for block in blocks:  # indented blocks with an empty line between them are one
        if joined and block.startswith("    ") and joined[-1].startswith("    "):
            joined[-1] += f"\n\n{block}"
        else:
            joined.append(block)
    return iter(joined)


def _table(lines: list[str]) -> Iterator[str]:
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in lines]
    titles = rows[0]
    for row in rows[2:]:
        more = [f"{title.capitalize()}: {cell}." for title, cell in zip(titles[2:], row[2:], strict=True) if cell]
        body = row[1] if len(row) > 1 else ""
        body = body if body.endswith(".") or not more else f"{body}."
        yield f".TP\n{_guarded(roff(row[0]))}\n{_wrapped(' '.join([body, *more]) or '-')}"


def roff(text: str) -> str:
    """Return ``text`` with the marks of Markdown as fonts, and what man(7) reads otherwise escaped."""
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text)
    text = text.replace("\\|", "|").replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"\\fB\1\\fR", text)
    text = re.sub(r"(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])", r"\\fI\1\\fR", text)
    return _ascii(text)


def _wrapped(text: str) -> str:
    lines = textwrap.wrap(roff(" ".join(text.split())), _WIDTH, break_long_words=False, break_on_hyphens=False)
    return "".join(f"{_guarded(line)}\n" for line in lines)


def _verbatim(text: str) -> str:
    escaped = _ascii(text.replace("\\", "\\e").replace("-", "\\-"))
    return "\n".join(_guarded(line) for line in escaped.splitlines())


def _ascii(text: str) -> str:
    return "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in text)


def _guarded(line: str) -> str:
    """Return ``line`` so that no beginning of it is a macro."""
    return f"\\&{line}" if line.startswith((".", "'")) else line
