"""The predefined variables that come from a job itself: its name, its place among parallel ones, its environment.

Meanings: https://docs.gitlab.com/ci/variables/predefined_variables/.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from . import variables as ci_variables
from .values import Node, kind, wrong

_KEYS = frozenset({"name", "url", "on_stop", "action", "auto_stop_in", "kubernetes", "deployment_tier"})
_ACTIONS = ("start", "prepare", "stop", "verify", "access")
_MAX_SLUG = 24
_SUFFIX = 6
# How GitLab guesses the tier from the name: https://docs.gitlab.com/ci/environments/#deployment-tier-of-environments.
_TIERS = (
    ("development", r"(?:dev|review|trunk)"),
    ("testing", r"(?:test|tst|int|ac(?:ce|)pt|qa|qc|control|quality)"),
    ("staging", r"(?:st(?:a|)g|mod(?:e|)l|pre|demo|non)"),
    ("production", r"(?:pr(?:o|)d|live)"),
)


def slug(text: str) -> str:
    """Return ``text`` as GitLab shortens names for URLs: lower case, at most 63 characters of a-z, 0-9 and -."""
    return re.sub(r"[^a-z0-9]", "-", text.lower())[:63].strip("-")


def of_job(name: str, stage: str, number: int, total: int) -> dict[str, str]:
    """Return the variables of the job ``name``, the ``number``-th of ``total`` (0 if it is only one)."""
    known = {
        "CI_JOB_NAME": name,
        "CI_JOB_NAME_SLUG": slug(name),
        "CI_JOB_GROUP_NAME": re.sub(r"(?: \d+/\d+|: \[.*\])$", "", name, flags=re.DOTALL),
        "CI_JOB_STAGE": stage,
        "CI_NODE_TOTAL": str(total),
    }
    return known | ({"CI_NODE_INDEX": str(number)} if number else {})


def variables(node: Node | None, values: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the job's ``environment``, none without one; raises JobError for a mistake in it."""
    if node is None or node.value is None:
        return {}
    parts = node.value if isinstance(node.value, dict) else {"name": node}
    for key, part in parts.items():
        if key not in _KEYS:
            raise wrong(part, f'"environment" has an unknown keyword "{key}"')
    if "name" not in parts:
        raise wrong(node, '"environment" has no name')
    name = _expanded("name", parts["name"], values)
    action = _expanded("action", parts["action"], values) if "action" in parts else "start"
    if action not in _ACTIONS:
        raise wrong(parts["action"], f'"environment: action" must be one of: {", ".join(_ACTIONS)}')
    known = {
        "CI_ENVIRONMENT_NAME": name,
        "CI_ENVIRONMENT_SLUG": environment_slug(name),
        "CI_ENVIRONMENT_ACTION": action,
        "CI_ENVIRONMENT_TIER": str(parts["deployment_tier"].value) if "deployment_tier" in parts else _tier(name),
    }
    if "url" in parts:
        known["CI_ENVIRONMENT_URL"] = _expanded("url", parts["url"], {**values, **known})
    return known


def _expanded(key: str, node: Node, values: Mapping[str, str]) -> str:
    if not isinstance(node.value, str) or not node.value or "\0" in node.value:
        raise wrong(node, f'"environment: {key}" is {kind(node)}; it must be a string')
    return ci_variables.expand(node.value, values)


def environment_slug(name: str) -> str:
    """Return CI_ENVIRONMENT_SLUG (GitLab's lib/gitlab/slug/environment.rb)."""
    made = re.sub(r"[^a-z0-9]", "-", name.lower())
    made = made if made[:1].isalpha() else f"env-{made}"
    made = re.sub(r"-+", "-", made)
    if len(made) <= _MAX_SLUG and made == name:
        return made.removesuffix("-")
    short = made[: _MAX_SLUG - _SUFFIX - 1]
    return f"{short}{'' if short.endswith('-') else '-'}{_suffix(name)}"


def _suffix(name: str) -> str:
    number = int(hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest(), 16)
    digits = ""
    while number and len(digits) < _SUFFIX:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits


def _tier(name: str) -> str:
    found = (tier for tier, pattern in _TIERS if re.search(pattern, name, re.IGNORECASE))
    return next(found, "other")
