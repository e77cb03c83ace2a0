"""A strict reader of Prometheus' text format (prometheus.io/docs/instrumenting/exposition_formats)."""

import re

_NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*"
_HELP = re.compile(rf"# HELP ({_NAME}) ((?:[^\\]|\\\\|\\n)*)")
_TYPE = re.compile(rf"# TYPE ({_NAME}) (counter|gauge|histogram)")
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\]|\\\\|\\"|\\n)*"'
_SAMPLE = re.compile(rf"({_NAME})(?:\{{((?:{_LABEL})(?:,{_LABEL})*)\}})? ([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)")
_ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}

Labels = tuple[tuple[str, str], ...]


def read(text: str) -> dict[tuple[str, Labels], float]:
    """Return the values by name and labels; fails the test on anything that the format forbids, and on what is twice.

    Each metric has HELP, then TYPE, then its samples, in one piece.
    """
    assert text.endswith("\n")
    values: dict[tuple[str, Labels], float] = {}
    seen: set[str] = set()
    name = kind = told = ""
    for line in text[:-1].split("\n"):
        if found := _HELP.fullmatch(line):
            told = found[1]
        elif found := _TYPE.fullmatch(line):
            name, kind = found[1], found[2]
            assert name == told, f"{name} has no HELP right before its TYPE"
            assert name not in seen, f"{name} is there twice"
            assert kind != "counter" or name.endswith("_total")
            seen.add(name)
        else:
            found = _SAMPLE.fullmatch(line)
            assert found, f"no line of the format: {line!r}"
            suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            assert found[1] in {f"{name}{suffix}" for suffix in suffixes}, f"{line!r} is no part of {name}"
            key = (found[1], _labels(found[2] or ""))
            assert key not in values, f"{line!r} is there twice"
            values[key] = float(found[3])
    return values


def value(text: str, name: str, **labels: str) -> float:
    """Return one value of ``text``."""
    return read(text)[name, tuple(sorted(labels.items()))]


def _labels(text: str) -> Labels:
    pairs = [pair.split("=", 1) for pair in re.findall(_LABEL, text)]
    unescaped = {name: re.sub(r"\\.", lambda found: _ESCAPES[found[0]], quoted[1:-1]) for name, quoted in pairs}
    assert len(unescaped) == len(pairs)
    return tuple(sorted(unescaped.items()))
