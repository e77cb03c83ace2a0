"""Times as people write them in .gitlab-ci.yml: ``1h 30m``, ``3 hours 20 minutes``, ``90``.

GitLab reads them with the library chronic_duration: https://docs.gitlab.com/ci/yaml/#timeout.
"""

from __future__ import annotations

import re

_SECONDS = {
    "s": 1, "sec": 1, "secs": 1, "second": 1, "seconds": 1, "m": 60, "min": 60, "mins": 60, "minute": 60, "minutes": 60,
    "h": 3600, "hr": 3600, "hrs": 3600, "hour": 3600, "hours": 3600, "d": 86400, "day": 86400, "days": 86400,
    "w": 604800, "wk": 604800, "wks": 604800, "week": 604800, "weeks": 604800, "mo": 2592000, "mos": 2592000,
    "month": 2592000, "months": 2592000, "y": 31557600, "yr": 31557600, "yrs": 31557600, "year": 31557600,
    "years": 31557600,
}  # fmt: skip
_PART = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(?![\d.])\s*([a-z]*)")
MAX_LENGTH = 100


def seconds(text: str) -> int | None:
    """Return the seconds that ``text`` stands for, None if it is no time."""
    cleaned = re.sub(r"\band\b|,", " ", text.lower()).strip()
    if not cleaned or len(cleaned) > MAX_LENGTH:
        return None
    clock = re.fullmatch(r"(?:(\d{1,4}):)?(\d{1,4}):(\d{1,4})", cleaned)
    if clock:
        return int(clock[1] or 0) * 3600 + int(clock[2]) * 60 + int(clock[3])
    total, position = 0.0, 0
    while position < len(cleaned):
        part = _PART.match(cleaned, position)
        if part is None or (part[2] and part[2] not in _SECONDS):
            return None
        total += float(part[1]) * _SECONDS.get(part[2], 1)
        position = part.end()
        position += len(cleaned[position:]) - len(cleaned[position:].lstrip())
    return int(total)
