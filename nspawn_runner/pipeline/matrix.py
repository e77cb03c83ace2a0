"""``parallel``: one job of the file that is several in the pipeline.

Names and limits: https://docs.gitlab.com/ci/yaml/#parallel and lib/gitlab/ci/config/normalizer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import product
from math import prod
from typing import NamedTuple

from .values import Node, kind, wrong

MAX_PARALLEL = 200  # GitLab's limit
_OF_MATRIX = re.compile(r"\$\[\[\s{0,9}matrix\.([\w-]{1,200})\s{0,9}\]\]")


class Instance(NamedTuple):
    """One of the jobs that a job of the file, ``base``, stands for; ``number`` counts from 1, 0 if it is only one."""

    name: str
    base: str
    number: int = 0
    total: int = 1
    variables: Mapping[str, str] = {}


def instances(name: str, parallel: Node | None) -> list[Instance]:
    """Return the jobs that the job ``name`` with the keyword ``parallel`` stands for; raises JobError."""
    if parallel is None or parallel.value is None:
        return [Instance(name, name)]
    if isinstance(parallel.value, dict):
        return _of_matrix(name, parallel, parallel.value)
    total = parallel.value
    if isinstance(total, bool) or not isinstance(total, int) or not 1 <= total <= MAX_PARALLEL:
        raise wrong(parallel, f'"parallel" must be a number from 1 to {MAX_PARALLEL}, or a matrix')
    return [Instance(f"{name} {number}/{total}", name, number, total) for number in range(1, total + 1)]


def combinations(matrix: Node) -> list[dict[str, str]]:
    """Return the variables of each job of ``matrix``; raises JobError if it has none or more than GitLab allows."""
    rows = matrix.value if isinstance(matrix.value, list) else [matrix]
    columns = [_columns(row) for row in rows]
    if sum(prod(len(values) for values in each.values()) for each in columns) > MAX_PARALLEL:
        raise wrong(matrix, f'"parallel: matrix" makes more than {MAX_PARALLEL} jobs')
    return [dict(zip(each, values, strict=True)) for each in columns for values in product(*each.values())]


def name_of(base: str, values: Mapping[str, str]) -> str:
    """Return the name of the job of a matrix with these values."""
    return f"{base}: [{', '.join(values.values())}]"


def filled(node: Node, values: Mapping[str, str]) -> Node:
    """Return ``node`` with ``$[[ matrix.NAME ]]`` in its texts replaced by ``values``; unknown names stay."""
    if isinstance(node.value, list):
        return node._replace(value=[filled(item, values) for item in node.value])
    if isinstance(node.value, dict):
        return node._replace(value={key: filled(item, values) for key, item in node.value.items()})
    if not isinstance(node.value, str):
        return node
    return node._replace(value=_OF_MATRIX.sub(lambda found: values.get(found[1], found[0]), node.value))


def _of_matrix(name: str, parallel: Node, keywords: Mapping[str, Node]) -> list[Instance]:
    for key, node in keywords.items():
        if key != "matrix":
            raise wrong(node, f'"parallel" has an unknown keyword "{key}"')
    if "matrix" not in keywords or keywords["matrix"].value in (None, [], {}):
        raise wrong(parallel, '"parallel" has an empty matrix')
    made = combinations(keywords["matrix"])
    return [
        Instance(name_of(name, values), name, number, len(made), values) for number, values in enumerate(made, start=1)
    ]


def _columns(row: Node) -> dict[str, list[str]]:
    if not isinstance(row.value, dict) or not row.value:
        raise wrong(row, f'a row of "parallel: matrix" is {kind(row)}; it must be a mapping of variables')
    found = {}
    for key, node in row.value.items():
        values = node.value if isinstance(node.value, list) else [node]
        if not values:
            raise wrong(node, f'the variable {key} of "parallel: matrix" has no values')
        for value in values:
            if isinstance(value.value, bool) or not isinstance(value.value, (str, int, float)):
                raise wrong(value, f'a value of {key} in "parallel: matrix" is {kind(value)}; use a string or a number')
        found[key] = [str(value.value) for value in values]
    return found
