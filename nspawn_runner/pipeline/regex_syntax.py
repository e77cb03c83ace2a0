"""The syntax of regular expressions as RE2 has it: no back references, nothing that looks ahead or behind.

Source: https://github.com/google/re2/wiki/Syntax.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import NamedTuple

MAX_REPEAT = 1000  # RE2's own limit
MAX_NESTING = 100

Test = Callable[[str], bool]


class RegexError(Exception):
    """The text is no regular expression of this language, or takes too much work."""


class RegexPart(NamedTuple):
    """A part of an expression."""

    kind: str  # take, at, empty, sequence, choice, repeat
    test: Test | None = None
    place: str = ""
    parts: tuple[RegexPart, ...] = ()
    least: int = 0
    most: int | None = None


def parse(pattern: str, flags: str) -> RegexPart:
    """Return the parts of ``pattern``; ``flags`` are of i, m, s and U. Raises RegexError."""
    return _Parser(pattern, frozenset(flags)).whole()


def is_word(char: str) -> bool:
    return char.isascii() and (char.isalnum() or char == "_")


_CLASSES: dict[str, Test] = {
    "d": lambda char: "0" <= char <= "9",
    "w": is_word,
    "s": lambda char: char in "\t\n\f\r ",
}
_POSIX: dict[str, Test] = {
    "alnum": lambda char: char.isascii() and char.isalnum(),
    "alpha": lambda char: char.isascii() and char.isalpha(),
    "ascii": lambda char: char.isascii(),
    "blank": lambda char: char in "\t ",
    "cntrl": lambda char: char < " " or char == "\x7f",
    "digit": _CLASSES["d"],
    "graph": lambda char: "!" <= char <= "~",
    "lower": lambda char: "a" <= char <= "z",
    "print": lambda char: " " <= char <= "~",
    "punct": lambda char: "!" <= char <= "~" and not char.isalnum(),
    "space": lambda char: char in "\t\n\v\f\r ",
    "upper": lambda char: "A" <= char <= "Z",
    "word": is_word,
    "xdigit": lambda char: char in "0123456789abcdefABCDEF",
}
_CONTROLS = {"a": "\a", "f": "\f", "t": "\t", "n": "\n", "r": "\r", "v": "\v"}
_PLACES = {"A": "start", "z": "end", "b": "word edge", "B": "no word edge"}


def _negated(test: Test) -> Test:
    return lambda char: not test(char)


class _Parser:
    """Reads an expression from left to right."""

    def __init__(self, pattern: str, flags: frozenset[str]) -> None:
        self.text = pattern
        self.position = 0
        self.flags = flags
        self.depth = 0

    def whole(self) -> RegexPart:
        node = self.choice()
        if self.position < len(self.text):
            raise RegexError("a closing parenthesis without an opening one")
        return node

    def peek(self, length: int = 1) -> str:
        return self.text[self.position : self.position + length]

    def take(self) -> str:
        if self.position >= len(self.text):
            raise RegexError("it ends in the middle")
        self.position += 1
        return self.text[self.position - 1]

    def skip(self, text: str) -> bool:
        there = self.text.startswith(text, self.position)
        self.position += len(text) if there else 0
        return there

    def choice(self) -> RegexPart:
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise RegexError("nested too deep")
        flags = self.flags
        parts = [self.sequence()]
        while self.skip("|"):
            parts.append(self.sequence())
        self.flags = flags
        self.depth -= 1
        return parts[0] if len(parts) == 1 else RegexPart("choice", parts=tuple(parts))

    def sequence(self) -> RegexPart:
        parts: list[RegexPart] = []
        while self.peek() not in {"", "|", ")"}:
            parts.append(self.repeated(self.atom()))
        return RegexPart("sequence", parts=tuple(parts))

    def repeated(self, node: RegexPart) -> RegexPart:
        repeats = 0
        while (bounds := self.bounds()) is not None:
            repeats += 1
            if repeats > 1:
                raise RegexError("two repetitions in a row")
            self.skip("?")  # the shortest match or the longest: it is found all the same
            least, most = bounds
            if least > MAX_REPEAT or (most or 0) > MAX_REPEAT or (most is not None and most < least):
                raise RegexError("invalid numbers of repetitions")
            node = RegexPart("repeat", parts=(node,), least=least, most=most)
        return node

    def bounds(self) -> tuple[int, int | None] | None:
        for sign, found in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self.skip(sign):
                return found
        end = self.text.find("}", self.position)
        inside = self.text[self.position + 1 : end] if self.peek() == "{" and end > 0 else ""
        least, comma, most = inside.partition(",")
        numbers = [least, *([most] if most else [])]
        if not least or len(inside) > 20 or not all(part.isascii() and part.isdigit() for part in numbers):
            return None  # a brace that is only a character
        self.position = end + 1
        return int(least), (int(most) if most else None) if comma else int(least)

    def atom(self) -> RegexPart:
        char = self.take()
        if char in {"*", "+", "?"}:
            raise RegexError(f"nothing before {char} to repeat")
        compound = {"(": self.group, "\\": self.escaped}.get(char)
        if compound is not None:
            return compound()
        if char in {"^", "$"}:
            line = "line " if "m" in self.flags else ""
            return RegexPart("at", place=f"{line}{'start' if char == '^' else 'end'}")
        return RegexPart("take", self.members() if char == "[" else self.same(char) if char != "." else self.any())

    def any(self) -> Test:
        return (lambda _: True) if "s" in self.flags else (lambda char: char != "\n")

    def same(self, char: str) -> Test:
        if "i" in self.flags:
            folded = char.casefold()
            return lambda other: other == char or other.casefold() == folded
        return lambda other: other == char

    def group(self) -> RegexPart:
        if self.skip("?"):
            if self.skip("P<") or (self.peek() == "<" and self.peek(2) not in {"<=", "<!"} and self.skip("<")):
                while self.take() != ">":
                    pass
            elif not self.skip(":"):
                letters, negative = set(self.flags), False
                while (char := self.take()) not in {":", ")"}:
                    if char == "-" and not negative:
                        negative = True
                    elif char in "imsU":
                        letters = letters - {char} if negative else letters | {char}
                    else:
                        raise RegexError(f"(?{char} is not of this language")
                if char == ")":
                    self.flags = frozenset(letters)
                    return RegexPart("sequence")
                before, self.flags = self.flags, frozenset(letters)
                node = self.closed()
                self.flags = before
                return node
        return self.closed()

    def closed(self) -> RegexPart:
        node = self.choice()
        if not self.skip(")"):
            raise RegexError("a parenthesis is not closed")
        return node

    def escaped(self) -> RegexPart:
        if self.skip("Q"):
            end = self.text.find("\\E", self.position)
            literal = self.text[self.position : end if end >= 0 else None]
            self.position = end + 2 if end >= 0 else len(self.text)
            return RegexPart("sequence", parts=tuple(RegexPart("take", self.same(char)) for char in literal))
        if self.peek() in _PLACES:
            return RegexPart("at", place=_PLACES[self.take()])
        found = self.escape()
        return RegexPart("take", found if callable(found) else self.same(found))

    def escape(self) -> Test | str:
        """Return what follows a backslash: a class of characters, or one character."""
        char = self.take()
        if char.lower() in _CLASSES:
            test = _CLASSES[char.lower()]
            return test if char.islower() else _negated(test)
        if char in {"p", "P"}:
            return self.category(negative=char == "P")
        if char == "x":
            return self.numbered()
        if char.isascii() and char.isalnum() and char not in _CONTROLS:
            raise RegexError(f"\\{char} is not of this language")
        return _CONTROLS.get(char, char)

    def numbered(self) -> str:
        digits = self.until("}") if self.skip("{") else self.take() + self.take()
        try:
            return chr(int(digits, 16))
        except (ValueError, OverflowError):
            raise RegexError("a code of a character that there is not") from None

    def until(self, end: str) -> str:
        found = ""
        while (char := self.take()) != end:
            found += char
        return found

    def category(self, *, negative: bool) -> Test:
        name = self.until("}") if self.skip("{") else self.take()
        if name.startswith("^"):
            name, negative = name[1:], not negative
        if not 1 <= len(name) <= 2 or name[0] not in "CLMNPSZ":
            raise RegexError(f"the class {name} of characters is not known here")
        return lambda char: unicodedata.category(char).startswith(name) != negative

    def members(self) -> Test:
        """Return the test for what stands in brackets."""
        negative = self.skip("^")
        tests: list[Test] = []
        first = True
        while first or self.peek() != "]":
            first = False
            if self.skip("[:"):
                name = self.until(":")
                inverse = name.startswith("^")
                test = _POSIX.get(name.removeprefix("^"))
                if test is None or not self.skip("]"):
                    raise RegexError(f"the class [:{name}:] is not known")
                tests.append(_negated(test) if inverse else test)
                continue
            low = self.member()
            if callable(low):
                tests.append(low)
            elif self.peek() == "-" and self.peek(2) != "-]":
                self.take()
                high = self.member()
                if callable(high) or high < low:
                    raise RegexError("a range of characters that is none")
                tests.append(self.between(low, high))
            else:
                tests.append(self.same(low))
        self.take()

        def among(char: str) -> bool:
            return any(test(char) for test in tests) != negative

        return among

    def between(self, low: str, high: str) -> Test:
        if "i" in self.flags:
            return lambda char: any(low <= each <= high for each in (char, char.lower(), char.upper()))
        return lambda char: low <= char <= high

    def member(self) -> Test | str:
        char = self.take()
        return self.escape() if char == "\\" else char
