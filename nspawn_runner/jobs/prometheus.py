"""Prometheus' text format: prometheus.io/docs/instrumenting/exposition_formats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Sample(NamedTuple):
    """A value with its ``labels``; ``suffix`` is what a summary's name ends with: _sum or _count."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""


def family(name: str, kind: str, help_text: str, samples: Iterable[Sample]) -> str:
    """Return the lines of a metric ``name`` of the ``kind`` counter, gauge or summary."""
    head = help_text.replace("\\", "\\\\").replace("\n", "\\n")
    lines = [f"# HELP {name} {head}", f"# TYPE {name} {kind}", *(_line(name, sample) for sample in samples)]
    return "".join(f"{line}\n" for line in lines)


def _line(name: str, sample: Sample) -> str:
    labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in sample.labels.items())
    return f"{name}{sample.suffix}{{{labels}}} {sample.value}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
