"""The file as it is with everything merged: includes, extends, references, defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import job_reader
from .ci_file import Pipeline
from .file_inputs import plain


def text(pipeline: Pipeline, names: Sequence[str] = ()) -> str:
    """Return the YAML of the jobs called ``names``, or of the whole pipeline; raises JobError for a mistake in it."""
    import yaml

    resolver = pipeline.resolver()
    whole: dict[str, Any] = {}
    if not names:
        for key in ("stages", "variables", "workflow"):
            if key in pipeline.root and key not in pipeline.jobs:
                whole[key] = plain(resolver.entry(key))
    for name in names or pipeline.jobs:
        base = pipeline.instance(name).base
        whole[base] = {key: plain(node) for key, node in job_reader.whole(resolver, base).items() if key != "extends"}
        if names and "variables" not in whole[base] and "variables" in pipeline.root:
            whole[base]["variables"] = plain(resolver.entry("variables"))
    return str(yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False))
