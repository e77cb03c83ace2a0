"""The slice that holds the machines of a job and of its services: together they use no more than the job may."""

from __future__ import annotations

from ..host import process, systemd
from ..settings.tables import UNLIMITED, Amounts
from . import records

_MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")


def make(machine: str, ceiling: Amounts) -> None:
    """Make the slice of the job whose own machine is ``machine``, with ``ceiling`` for all in it; raises HostError.

    Over the bus, since systemd-run makes no slices.
    """
    properties = ["Description", "s", f"nspawn-runner: job and services of {machine}"]
    for key, amount in _limits(ceiling).items():
        properties += [key, "t", str(int(amount))]
    words = [records.slice_name(machine), "fail", str(len(properties) // 3), *properties, "0"]
    process.run(["busctl", "--quiet", "call", *_MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", *words])


def remove(machine: str) -> None:
    """Remove the slice of the job whose own machine is ``machine``, with all that is still in it; raises HostError."""
    if systemd.is_loaded(records.slice_name(machine)):
        systemd.stop(records.slice_name(machine))


def _limits(ceiling: Amounts) -> dict[str, float]:
    """Return the limits as D-Bus has them (org.freedesktop.systemd1(5)); what is unlimited is left out."""
    limits = {
        "CPUWeight": ceiling.cpu_weight,
        "CPUQuotaPerSecUSec": max(10_000, ceiling.cpus * 1e6),  # 1 % of a CPU
        "IOWeight": ceiling.io_weight,
        "MemoryMax": ceiling.memory_max,
        "MemoryHigh": ceiling.memory_high,
        "MemorySwapMax": ceiling.memory_swap_max,
        "TasksMax": ceiling.tasks_max,
    }
    return {key: amount for key, amount in limits.items() if amount != UNLIMITED}
