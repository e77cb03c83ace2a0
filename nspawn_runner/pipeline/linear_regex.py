"""Regular expressions of the language that GitLab's have (RE2's), matched in time that grows evenly with the text.

Python's own engine can take forever for an expression from somebody else's file. This one follows all ways through the
expression at once, character by character.
"""

from __future__ import annotations

from typing import NamedTuple

from ..host import signals
from .regex_syntax import RegexError, RegexPart, Test, is_word, parse

MAX_STEPS_IN_PROGRAM = 20_000
MAX_WORK = 4_000_000  # single steps of one search, some seconds


class _Step(NamedTuple):
    """One step of a program: a character to take, a fork, a place to be at, or the end."""

    kind: str  # take, fork, at, end
    test: Test | None = None
    place: str = ""


class Regex:
    """A compiled expression; ``flags`` are of i, m, s and U."""

    def __init__(self, pattern: str, flags: str = "") -> None:
        self.steps: list[_Step] = []
        self.forks: dict[int, tuple[int, ...]] = {}
        self._write(parse(pattern, flags))
        self._add(_Step("end"))

    def found_in(self, text: str) -> bool:
        """Return whether the expression matches anywhere in ``text``; raises RegexError if that takes too much work.

        Raises Cancelled when a signal asks us to end: a file may have very many expressions.
        """
        signals.check()
        work = 0
        current: set[int] = set()
        for position in range(len(text) + 1):
            before = text[position - 1] if position else ""
            after = text[position] if position < len(text) else ""
            open_steps, current = [*current, 0], set()
            seen: set[int] = set()
            while open_steps:
                number = open_steps.pop()
                if number in seen:
                    continue
                seen.add(number)
                step = self.steps[number]
                if step.kind == "end":
                    return True
                if step.kind == "fork":
                    open_steps.extend(self.forks[number])
                elif step.kind == "at":
                    if _is_at(step.place, before, after):
                        open_steps.append(number + 1)
                elif after and step.test and step.test(after):
                    current.add(number + 1)
            work += len(seen)
            if work > MAX_WORK:
                raise RegexError("the expression takes too long for this text")
        return False

    def _add(self, step: _Step) -> int:
        if len(self.steps) >= MAX_STEPS_IN_PROGRAM:
            raise RegexError("the expression is too large")
        self.steps.append(step)
        return len(self.steps) - 1

    def _write(self, node: RegexPart) -> None:
        match node.kind:
            case "take":
                self._add(_Step("take", node.test))
            case "at":
                self._add(_Step("at", place=node.place))
            case "sequence":
                for part in node.parts:
                    self._write(part)
            case "choice":
                self._write_choice(node.parts)
            case "repeat":
                self._write_repeat(node)

    def _write_choice(self, parts: tuple[RegexPart, ...]) -> None:
        fork = self._add(_Step("fork"))
        starts, ends = [], []
        for part in parts:
            starts.append(len(self.steps))
            self._write(part)
            ends.append(self._add(_Step("fork")))
        self.forks[fork] = tuple(starts)
        self.forks |= {end: (len(self.steps),) for end in ends}

    def _write_repeat(self, node: RegexPart) -> None:
        part = node.parts[0]
        start = len(self.steps)
        for _ in range(node.least):
            self._write(part)
            if len(self.steps) == start:
                return  # nothing, however often: repetitions of repetitions of it would never end
        if node.most is None:
            fork = self._add(_Step("fork"))
            self._write(part)
            self.forks[self._add(_Step("fork"))] = (fork,)
            self.forks[fork] = (fork + 1, len(self.steps))
            return
        forks = []
        for _ in range(node.most - node.least):
            forks.append(self._add(_Step("fork")))
            self._write(part)
        self.forks |= {fork: (fork + 1, len(self.steps)) for fork in forks}


def _is_at(place: str, before: str, after: str) -> bool:
    match place:
        case "start":
            return not before
        case "end":
            return not after
        case "line start":
            return before in {"", "\n"}
        case "line end":
            return after in {"", "\n"}
    between = (is_word(before) if before else False) != (is_word(after) if after else False)
    return between == (place == "word edge")
