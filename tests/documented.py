"""Every command that the documents show, as it stands there."""

import re
from importlib import import_module
from typing import NamedTuple

from disposable_host import CHECKOUT

from nspawn_runner import cli

MARKDOWN = ("README.md", *(f"docs/{path.name}" for path in sorted((CHECKOUT / "docs").glob("*.md"))),
            *(str(path.relative_to(CHECKOUT)) for path in sorted(CHECKOUT.glob("examples/*/README.md"))))  # fmt: skip
PAGES = ("docs/nspawn-runner.8", "docs/nspawn-runner.toml.5")
# An indented block that is none of commands begins like a settings file, YAML, or what a program said.
DATA = re.compile(r"\[|- |#|…|nspawn-runner: |ok  |The journal|[\w.-]+:( |$)|\w+ = ")
# In a sentence, what begins with one of these is a command,
INLINE = re.compile(
    r"`((?:sudo |nspawn-runner |apt |sysctl |systemctl |journalctl |man |script/\w+ |python3 )[^`]*|script/\w+)`"
)
# unless it has a word that stands for another.
STANDS_FOR = re.compile(r"…|(?<![\w=])[A-Z]{3,}(?![\w=])")


class Block(NamedTuple):
    """Commands that stand together, by line; one that goes on in the next is one."""

    document: str
    commands: tuple[str, ...]


def blocks() -> list[Block]:
    """Return what all documents show, in the order in which it stands there, each text once."""
    found = [block for name in MARKDOWN for block in of_markdown(name, (CHECKOUT / name).read_text())]
    found += [block for name in PAGES for block in of_page(name, (CHECKOUT / name).read_text())]
    for verb in cli.VERBS:
        found += of_markdown(f"{verb} --help", import_module(f"nspawn_runner.commands.{cli.VERBS[verb]}").DESCRIPTION)
    seen: set[str] = set()
    once = []
    for block in found:
        commands = tuple(command for command in block.commands if command not in seen)
        seen |= {*commands}
        if commands:
            once.append(Block(block.document, commands))
    return once


def of_markdown(name: str, text: str) -> list[Block]:
    """Return the commands of indented blocks and those in sentences."""
    found: list[Block] = []
    for part in re.split(r"\n[ \t]*\n", re.sub(r"^By hand: ", "         ", text, flags=re.MULTILINE)):
        lines = part.strip("\n").splitlines()
        inner = 4 if not lines or not re.match(r" +", lines[0]) else 7 if lines[0].startswith(" " * 7) else 4
        indented = [line for line in lines if line.startswith(" " * inner)]
        if lines and len(indented) == len(lines) and not DATA.match(lines[0].strip()):
            found.append(Block(name, commands("\n".join(line.strip() for line in lines))))
        elif not indented or len(indented) < len(lines):
            found += [Block(name, (each,)) for each in INLINE.findall(part.replace("\n", " "))
                      if not STANDS_FOR.search(each)]  # fmt: skip
    return found


def of_page(name: str, text: str) -> list[Block]:
    """Return the commands of a manual page's examples."""
    plain = text.replace("\\-", "-")
    examples = [each for each in re.findall(r"\n\.nf\n(.*?)\n\.fi", plain, re.DOTALL) if not DATA.match(each)]
    return [Block(name, commands(example)) for example in examples]


def commands(text: str) -> tuple[str, ...]:
    """Return the lines of a shell's program without their comments."""
    whole = re.sub(r"\s*\\\n\s*", " ", text)
    return tuple(line for each in whole.splitlines() if (line := re.sub(r"(^|\s+)# .*", "", each).strip()))
