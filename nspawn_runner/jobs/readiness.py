"""Wait until services are ready: their ports are asked from within their networks, their commands run inside."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from ..errors import Error
from ..host import process, signals, systemd
from ..images.offer import Offer
from ..light_typing import NamedTuple
from ..machines import evidence, job_network, network
from ..machines.records import Record
from ..nspawn import calls
from ..output import say, warn

_PROBE = os.path.join(os.path.dirname(__file__), "port_probe.py")
# "$1" says when the service is ready, "$2" sets it up. Without either, and without ports, its start is waited for.
_INSIDE = r"""
if [ -n "$1" ]; then
    until /bin/sh -c "$1" </dev/null >/dev/null 2>&1; do sleep 0.1; done
else
    systemctl is-system-running --wait >/dev/null
fi
[ -z "$2" ] || exec systemd-cat --identifier=setup /bin/sh -c "$2" </dev/null
"""
_TELL_SETUP = 'journalctl --quiet --no-pager --output=cat --identifier=setup --lines=10 2>&1'
_TELL_LAST = 'journalctl --quiet --no-pager --output=short --priority=notice --lines=5 2>&1'
_EVIDENCE_SECONDS = 5


class ServiceMachine(NamedTuple):
    """The machine of a service, and how its readiness is seen."""

    name: str
    record: Record
    offer: Offer


class _Asked(NamedTuple):
    """The children that end with 0 when a service is ready: one asks its ports, one is in its machine."""

    ports: process.Popen | None
    inside: process.Popen | None

    def all(self) -> list[process.Popen]:
        return [child for child in self if child is not None]


def wait(machines: Sequence[ServiceMachine], began: float) -> None:
    """Wait until all ``machines`` are ready, side by side, and tell of each; ``began`` is on the monotonic clock.

    What keeps one from it is told as a warning, with what the machine knows.
    """
    waiting: dict[ServiceMachine, _Asked] = {}
    start = time.monotonic()
    try:
        for each in machines:
            waiting[each] = _ask(each)
        while waiting:
            for each in [*waiting]:
                states = [child.poll() for child in waiting[each].all()]
                seconds = time.monotonic() - start
                if not any(states) and None in states and seconds <= each.offer.timeout_seconds + 1:
                    continue
                asked = waiting.pop(each)
                inside = asked.inside.poll() if asked.inside else 0
                _end(asked.all())
                if any(states) or None in states:
                    _tell_unready(each, seconds, failed=bool(inside) and seconds < each.offer.timeout_seconds)
                else:
                    took = time.monotonic() - began
                    say(f"service {each.name}: image {each.record.image}, machine {each.record.machine}, "
                        f"ready in {took:.2f} s")  # fmt: skip
            if waiting:
                signals.sleep(0.01)
    finally:
        for asked in waiting.values():
            _end(asked.all())


def _end(children: Sequence[process.Popen]) -> None:
    for child in children:
        if child.poll() is None:
            child.kill()
            child.wait()


def _ask(machine: ServiceMachine) -> _Asked:
    known, record = machine.offer, machine.record
    ports = inside = None
    if known.ports:
        words = [job_network.address(record.place), str(known.timeout_seconds), *map(str, known.ports)]
        enter = ["nsenter", f"--target={network.leader(record.machine)}", "--net", "--"]
        ports = _child([*enter, sys.executable, "-I", "-S", _PROBE, *words])
    if known.ready or known.setup or not known.ports:
        argv = calls.unit_argv(
            record.machine,
            systemd.shell_argv(),
            unit=f"nspawn-runner-ready-{os.urandom(4).hex()}.service",
            description="nspawn-runner: wait until the service is ready",
            properties=[f"RuntimeMaxSec={known.timeout_seconds}"],
        )
        inside = _child(argv, systemd.shell_program(_INSIDE, known.ready, known.setup))
    return _Asked(ports, inside)


def _child(argv: Sequence[str], stdin: bytes = b"") -> process.Popen:
    given = process.in_memory(stdin)
    try:
        return process.spawn(argv, stdin=given, stdout=process.DEVNULL, stderr=process.DEVNULL, own_session=True)
    finally:
        os.close(given)


def _tell_unready(machine: ServiceMachine, seconds: float, *, failed: bool) -> None:
    """Warn that the service is not ready, and say what its machine knows."""
    known, record = machine.offer, machine.record
    asked = ", ".join([*(f"port {port}" for port in known.ports), *(["its ready command"] if known.ready else [])])
    reason = "its set-up failed" if failed and known.setup else f"not ready after {seconds:.0f} s"
    warn(f"service {machine.name} (image {record.image}): {reason}{f'; asked: {asked}' if asked else ''}")
    try:
        say(*evidence.lines(record, since=0, seconds=_EVIDENCE_SECONDS))
        script = _TELL_SETUP if failed and known.setup else _TELL_LAST
        told = calls.shell_answer(record.machine, script, label="evidence",
                                  description="nspawn-runner: why the service is not ready",
                                  limit_bytes=1 << 16, seconds=_EVIDENCE_SECONDS)  # fmt: skip
        say(*(f"  {evidence.plain(line)}" for line in told.decode(errors="replace").splitlines()[-10:]))
    except (Error, OSError) as error:
        warn(f"the machine {record.machine} says nothing of it: {error}")
