"""Patterns of paths in ``rules:changes``, ``rules:exists`` and ``artifacts:paths``, matched in even time.

Meaning: Ruby's File.fnmatch with FNM_PATHNAME, FNM_DOTMATCH and FNM_EXTGLOB, as the clauses of GitLab's rules call it.
"""

from __future__ import annotations

from collections.abc import Iterable

from .linear_regex import Regex
from .regex_syntax import RegexError

MAX_LENGTH = 4096
_SPECIAL = set(".^$*+?{}[]\\|()")


class PathPattern:
    """A compiled pattern; ``below`` makes it match what lies below a matched folder too, as in artifacts.

    With ``ends_deep`` a last part ** stands for all that is below, as the runner reads it.
    """

    def __init__(self, pattern: str, *, below: bool = False, ends_deep: bool = False) -> None:
        if len(pattern) > MAX_LENGTH:
            raise RegexError(f"the pattern is longer than {MAX_LENGTH} characters")
        deep = ends_deep and (pattern == "**" or pattern.endswith("/**"))
        inner = f"{_translated(pattern[:-2])}.+" if deep else _translated(pattern)
        self.plain = pattern if not set(pattern) & set("*?[{\\") else None
        self.below = below
        self.regex = Regex(f"^(?:{inner})(?:/.*)?$" if below else f"^(?:{inner})$", "s")

    def matches(self, path: str) -> bool:
        """Return whether ``path``, relative to the project, matches; raises RegexError if that takes too much work."""
        if self.plain is not None:
            return path == self.plain or (self.below and path.startswith(f"{self.plain}/"))
        return self.regex.found_in(path)


def any_matches(patterns: Iterable[PathPattern], paths: Iterable[str], most: int) -> bool:
    """Return whether any pattern matches any of ``paths``; true after ``most`` comparisons, as on GitLab."""
    wanted = list(patterns)
    compared = 0
    for path in paths:
        for pattern in wanted:
            compared += 1
            if compared > most or pattern.matches(path):
                return True
    return False


def _literal(char: str) -> str:
    return f"\\{char}" if char in _SPECIAL else char


def _translated(pattern: str) -> str:
    """Return ``pattern`` as a regular expression; what is not closed stands for itself."""
    made, position, braces = "", 0, 0
    closing = pattern.count("}")
    while position < len(pattern):
        char = pattern[position]
        if pattern.startswith("**/", position) and (position == 0 or pattern[position - 1] == "/"):
            made, position = f"{made}(?:[^/]+/)*", position + 3
            continue
        position += 1
        match char:
            case "*":
                while pattern[position : position + 1] == "*":
                    position += 1
                made += "[^/]*"
            case "?":
                made += "[^/]"
            case "[":
                end = pattern.find("]", position + 1)
                if end < 0:
                    made += "\\["
                    continue
                inside = pattern[position:end].replace("\\", "\\\\").replace("[", "\\[")
                made += f"[{'^/' + inside[1:] if inside[0] in '!^' else inside}]"
                position = end + 1
            case "{" if closing > braces:
                braces += 1
                made += "(?:"
            case "}" if braces:
                braces -= 1
                closing -= 1
                made += ")"
            case "," if braces:
                made += "|"
            case "\\" if position < len(pattern):
                made += _literal(pattern[position])
                position += 1
            case _:
                made += _literal(char)
    return made + ")" * braces
