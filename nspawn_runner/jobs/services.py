"""The services of a job: a machine for each, in a network with the job's own, up and ready before its scripts."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

from ..errors import HostError, JobError, printable
from ..gitlab import service_requests
from ..images import offer, store
from ..images.archive import container_config
from ..light_typing import TYPE_CHECKING, NamedTuple
from ..machines import network, plan, start, stop
from ..output import say, warn
from . import job_image, job_limits, permission, readiness

if TYPE_CHECKING:
    from ..gitlab.job import Job
    from ..gitlab.service_requests import ServiceRequest
    from ..machines.plan import Plan
    from ..machines.records import Record
    from ..settings.machine_settings import MachineSettings
    from ..settings.tables import Network, Settings

_FIRST_PLACE = 2  # in the job's network; 1 is the job's own machine
_JOB_NAMES = ("build",)  # the job's machine, as services find it with gitlab-runner's docker executor
_MACHINE = re.compile(r"run-[0-9]")
_MOST_VARIABLE_BYTES, _MOST_VARIABLES_BYTES = 128 << 10, 1 << 20
_LOCAL = frozenset({"localhost", "ip6-localhost", "ip6-loopback"})


class JobService(NamedTuple):
    """A service that a job gets: its ``names``, of which the first is what people read, and its image."""

    asked: ServiceRequest
    names: tuple[str, ...]
    image: store.Image
    own: MachineSettings
    offer: offer.Offer
    variables: Mapping[str, str]


def find(job: Job, settings: Settings, file: str, *, by_hand: bool) -> list[JobService]:
    """Return the services that ``job`` asks for; raises JobError where there are none such, or it must not have them.

    Called ``by_hand``, it is root who asks. Names that no machine can have are told and left out.
    """
    public = service_requests.public_variables(job.variables)
    asked = service_requests.parse(job.services, public)
    if len(asked) > settings.services_max:
        raise JobError(
            f"too many services: the job asks for {len(asked)}, and it may have {settings.services_max}",
            advice="have the admin raise services_max in the settings",
        )
    taken = {*_LOCAL, *_JOB_NAMES}
    found = []
    for each in asked:
        try:
            image = job_image.find(each.image, settings)
        except JobError as error:
            raise JobError(f"service {printable(each.image, 60)}: {error.what}", facts=error.facts,
                           advice=error.advice) from None  # fmt: skip
        own = job_image.settings_of(image, settings)
        if not by_hand:
            permission.check_image(job, image.name, each.image, settings, file, service=True)
            if settings.policy:
                permission.check_profile(job, image.name, own.profile, settings, file)
        facts = store.facts(image)
        names = tuple(_usable(each, taken))
        taken |= {name.lower() for name in names}
        if not names:
            warn(f"service {printable(each.image, 60)}: no name is left for it but its machine's")
        variables = {**container_config.variables(facts), **public, **each.variables}
        _check_size(each, variables)
        found.append(JobService(each, names, image, own, _offer(offer.of_image(facts), variables), variables))
    return found


def _usable(service: ServiceRequest, taken: set[str]) -> Iterator[str]:
    """Yield the names of a service that a machine can have and no other has."""
    for name in service.names:
        shown = f"service {printable(service.image, 60)}: the name '{printable(name, 60)}'"
        is_taken = name.lower() in taken or _MACHINE.match(name.lower())
        if _is_host_name(name) and not is_taken:
            yield name
        elif name in service.aliases:  # others nobody has asked for
            why = "it means another machine" if is_taken else "it cannot be a host's name"
            warn(f"{shown} is left out: {why}")


def _check_size(service: ServiceRequest, variables: Mapping[str, str]) -> None:
    """Raise JobError for variables that no program could be started with (execve(2): MAX_ARG_STRLEN, and a stack)."""
    sizes = {name: len(f"{name}={value}".encode()) for name, value in variables.items()}
    large = [name for name, size in sizes.items() if size >= _MOST_VARIABLE_BYTES]
    if large or sum(sizes.values()) > _MOST_VARIABLES_BYTES:
        raise JobError(
            f"service {printable(service.image, 60)}: its variables are too large",
            facts=f"longer than 128 KiB: {', '.join(large)}" if large else "together they have more than 1 MiB",
        )


def _is_host_name(name: str) -> bool:
    plain = name.isascii() and all(char.isalnum() or char in "._-" for char in name)
    parts = all(0 < len(part) <= 63 for part in name.split("."))
    return plain and parts and len(name) <= 253 and name[0].isalnum() and not name.replace(".", "").isdigit()


def _offer(found: offer.Offer, variables: Mapping[str, str]) -> offer.Offer:
    """Return ``found`` with the port that HEALTHCHECK_TCP_PORT names, as for gitlab-runner's docker executor."""
    text = variables.get("HEALTHCHECK_TCP_PORT", "")
    port = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    return found._replace(ports=(port,)) if offer.is_port(port) else found


def names(wanted: Sequence[JobService]) -> dict[int, tuple[str, ...]]:
    """Return the names in the job's network by their places."""
    return {1: _JOB_NAMES, **{place: each.names for place, each in enumerate(wanted, _FIRST_PLACE)}}


def check_network(own: MachineSettings) -> None:
    """Raise JobError where the job's own machine is in the host's network: services are not reached from there."""
    if own.network.mode == network.HOST:
        raise JobError(
            "a job with services needs a network of its own, and machines of its image have the host's",
            advice='use another image, or have the admin set network = { mode = "private" }',
        )


def start_all(planned: Plan, wanted: Sequence[JobService], job: Job, settings: Settings) -> Record:
    """Start the job's machine and those of its services side by side; return the job's record once all can be used.

    Of a service that does not start or is not ready in time the log tells; the job goes on, as with Docker. Raises
    HostError when anything else fails; then nothing is left.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        own = stack.enter_context(start.begun(planned))
        begun = []
        for place, each in enumerate(wanted, _FIRST_PLACE):
            service = _plan(place, each, job, planned, settings, of_job=own.record.machine)
            begun.append((each, stack.enter_context(start.begun(service))))
        record = own.finish()
        up = []
        for each, machine in begun:
            try:
                up.append(readiness.ServiceMachine(name_of(each), machine.finish(), each.offer))
            except (HostError, JobError) as error:
                warn(f"service {name_of(each)} did not start: {'; '.join(error.lines())}")
                say(*error.evidence)
                stop.remove(machine.record)
        readiness.wait(up, began)
        return record


def name_of(wanted: JobService) -> str:
    """Return what people read as the service's name."""
    return wanted.names[0] if wanted.names else wanted.image.name


def _plan(place: int, wanted: JobService, job: Job, planned: Plan, settings: Settings, *, of_job: str) -> Plan:
    own, image = wanted.own._replace(user=""), wanted.image
    if planned.network.mode == network.NONE:  # which a service must not undo
        own = own._replace(network=own.network._replace(mode=network.NONE))
    elif own.network.mode == network.HOST:
        own = own._replace(network=own.network._replace(mode=network.PRIVATE))
    made = plan.make(
        settings,
        own,
        # What the job asks for is meant for its own machine.
        job_limits.of_job(job._replace(limits_asked={}), own.limits, settings),
        job=job.id,
        server=job.server,
        project=job.project,
        image=image.name,
        generation=image.generation,
        root=image.root,
        owner=planned.owner,
        names=planned.names,
        token=planned.token,
        ceiling=planned.ceiling,
        service=plan.Service(
            name=name_of(wanted),
            of_job=of_job,
            place=place,
            variables=wanted.variables,
            command=_command(wanted),
        ),
    )
    return made._replace(network=without(made.network, planned.names))


def without(settings: Network, names: Mapping[int, Sequence[str]]) -> Network:
    """Return the network's ``settings`` without extra hosts whose names services have: those are nearer."""
    taken = {name for given in names.values() for name in given}
    kept = {name: address for name, address in settings.extra_hosts.items() if name not in taken}
    return settings._replace(extra_hosts=kept)


def _command(wanted: JobService) -> list[str]:
    """Return what the service runs besides the image's units: what the job names, else what a container image does.

    As with Docker an entrypoint replaces the image's, and its command with it; a command replaces that alone.
    """
    entrypoint, command = container_config.command(store.facts(wanted.image))
    if wanted.asked.entrypoint:
        return [*wanted.asked.entrypoint, *wanted.asked.command]
    return [*entrypoint, *(wanted.asked.command or command)]
