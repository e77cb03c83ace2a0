"""Prometheus' text format: prometheus.io/docs/instrumenting/exposition_formats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple


class Sample(NamedTuple):
    """A value with its ``labels``; ``suffix`` is what a histogram's name ends with: _bucket, _sum or _count."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""


def family(name: str, kind: str, help_text: str, samples: Iterable[Sample]) -> str:
    """Return the lines of a metric ``name`` of the ``kind`` counter, gauge or histogram."""
    head = help_text.replace("\\", "\\\\").replace("\n", "\\n")
    lines = [f"# HELP {name} {head}", f"# TYPE {name} {kind}", *(_line(name, sample) for sample in samples)]
    return "".join(f"{line}\n" for line in lines)


def _line(name: str, sample: Sample) -> str:
    labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in sample.labels.items())
    return f"{name}{sample.suffix}{f'{{{labels}}}' if labels else ''} {sample.value}"


def histogram(
    labels: Mapping[str, str], buckets: Mapping[float, int], *, total: float, number: int
) -> Iterator[Sample]:
    """Yield the samples of a histogram; ``buckets`` are how many values are no greater than each bound."""
    for bound, values in buckets.items():
        yield Sample({**labels, "le": f"{bound:g}"}, values, "_bucket")
    yield Sample({**labels, "le": "+Inf"}, number, "_bucket")
    yield Sample(labels, round(total, 3), "_sum")
    yield Sample(labels, number, "_count")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
