"""What an image offers as a service: how its readiness is seen, and the command that sets it up for a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..light_typing import Any, NamedTuple
from ..settings.quantities import is_number, seconds

FACT = "service"
DEFAULT_SECONDS = 30  # as gitlab-runner's docker executor waits (wait_for_services_timeout)
_MOST_SECONDS = 600


class Offer(NamedTuple):
    """``ports`` are TCP ports on which a ready service answers, ``ready`` a command of a shell that then ends with 0.

    ``setup`` is a command that is run once it is ready, with the job's variables; all of that may take
    ``timeout_seconds``.
    """

    ports: tuple[int, ...] = ()
    ready: str = ""
    setup: str = ""
    timeout_seconds: int = DEFAULT_SECONDS


def of_image(facts: Mapping[str, Any]) -> Offer:
    """Return what an image offers by its ``facts``; of a container image without more, its ports for TCP."""
    given = facts.get(FACT)
    known = {key: value for key, value in given.items() if key in CHECKS} if isinstance(given, dict) else {}
    if any(CHECKS[key](value) for key, value in known.items()):
        known = {}  # of another version
    return Offer(
        ports=tuple(known.get("ports", ())) or _exposed(facts.get("container")),
        ready=known.get("ready", ""),
        setup=known.get("setup", ""),
        timeout_seconds=seconds(known.get("timeout", "")) or DEFAULT_SECONDS,
    )


def _exposed(container: Any) -> tuple[int, ...]:
    ports = container.get("ExposedPorts") if isinstance(container, dict) else None
    texts = [str(each).partition("/") for each in ports] if isinstance(ports, dict) else []
    numbers = [number for number, _, kind in texts if kind in {"", "tcp"} and is_number(number, 5)]
    return tuple(port for port in map(int, numbers) if is_port(port))


def is_port(value: Any) -> bool:
    """Return whether ``value`` is the number of a port."""
    return type(value) is int and 0 < value < 65536


def _ports(value: Any) -> str:
    ok = isinstance(value, list) and 0 < len(value) <= 20 and all(map(is_port, value))
    return "" if ok else "must be a list of at most 20 port numbers"


def _command(value: Any) -> str:
    return "" if isinstance(value, str) and value and "\0" not in value else "must be a command for a shell"


def _timeout(value: Any) -> str:
    ok = isinstance(value, str) and not value.isdigit() and 0 < (seconds(value) or 0) <= _MOST_SECONDS
    return "" if ok else 'must be a time of at most 10 minutes such as "90s"'


CHECKS: Mapping[str, Callable[[Any], str]] = {
    "ports": _ports,
    "ready": _command,
    "setup": _command,
    "timeout": _timeout,
}
