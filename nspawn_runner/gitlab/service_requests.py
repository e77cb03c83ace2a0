"""The services that a job asks for, as the runner tells them, and the names by which the job finds them.

Fields: gitlab-runner's ``common/spec`` (``Image``); CUSTOM_ENV_CI_JOB_SERVICES has the same, of aliases the first only,
and variables from 19.0 on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from ..errors import JobError, printable
from ..light_typing import Any, NamedTuple

_MAX_NAME = 255  # characters
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCE = re.compile(r"\$(?:[$0-9*#@!?-]|\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
# helpers/container/services of gitlab-runner: the registry's port is no part of a service's name.
_PORT = re.compile(r"^(.*?)(?::[0-9]+)?(/.*)?$")


class ServiceRequest(NamedTuple):
    """A service that a job asks for: its ``image`` as written, its ``aliases``, what it runs, its ``variables``."""

    image: str
    aliases: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    variables: Mapping[str, str] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the service: its aliases, and those that GitLab makes of the image's name."""
        return tuple(dict.fromkeys((*self.aliases, *names_of_image(self.image))))


def names_of_image(image: str) -> tuple[str, ...]:
    """Return the names that a service of ``image`` has without an alias: without tag and port, / as __ and as -.

    As gitlab-runner makes them: tutum/wordpress:latest is tutum__wordpress and tutum-wordpress.
    """
    path = image.partition("@")[0]
    folder, slash, last = path.rpartition("/")
    path = folder + slash + last.partition(":")[0]
    found = _PORT.match(path)
    path = f"{found[1]}{found[2] or ''}" if found else path
    return tuple(dict.fromkeys((path.replace("/", "__"), path.replace("/", "-"))))


def parse(data: Any, variables: Mapping[str, str]) -> tuple[ServiceRequest, ...]:
    """Return the services in ``data``, the payload's list or its text; raises JobError that says what is wrong.

    ``variables`` are the job's, to which a service's own may refer.
    """
    if isinstance(data, str):
        try:
            data = json.loads(data)
        except (ValueError, RecursionError):
            raise JobError("what the job says of its services cannot be read", facts="it is not valid JSON") from None
    if data is None:
        return ()
    if not isinstance(data, list):
        raise JobError("what the job says of its services cannot be read", facts="it is not a list")
    return tuple(_service(number, each, variables) for number, each in enumerate(data, 1))


def public_variables(data: Any) -> dict[str, str]:
    """Return what services get of the job's variables: those that GitLab calls public, no files, by ``data``.

    As with gitlab-runner's docker executor (BuildVariables.PublicOrInternal). Each that is not raw is expanded once.
    """
    tables = [each for each in data if isinstance(each, dict)] if isinstance(data, list) else []
    known = {
        str(each.get("key")): (str(each.get("value")), each.get("raw") is True)
        for each in tables
        if each.get("public") is True and not each.get("file") and is_variable(each.get("key"), each.get("value"))
    }
    texts = {key: text for key, (text, _) in known.items()}
    return {key: text if raw else expanded(text, texts) for key, (text, raw) in known.items()}


def _service(number: int, data: Any, variables: Mapping[str, str]) -> ServiceRequest:
    table = {"name": data} if isinstance(data, str) else data
    if not isinstance(table, dict):
        raise JobError(f"service {number} cannot be read", facts="it is neither a name nor a table")
    image = table.get("name")
    image = expanded(image, variables) if isinstance(image, str) else ""  # gitlab-runner has done it from 16.0 on
    if not 0 < len(image) <= _MAX_NAME:
        raise JobError(f"service {number} has no image", advice="write services: [NAME] in .gitlab-ci.yml")

    def words(key: str) -> tuple[str, ...]:
        given = table.get(key) or []
        if not isinstance(given, list) or not all(isinstance(word, str) and _is_plain(word) for word in given):
            raise JobError(f"{key} of the service {printable(image, 60)} is no list of texts")
        return tuple(given)

    aliases = table.get("alias")
    aliases = expanded(aliases, variables) if isinstance(aliases, str) else ""
    return ServiceRequest(
        image=image,
        # Several in one text from gitlab-runner 15.8 on.
        aliases=tuple(aliases.replace(",", " ").split()),
        entrypoint=words("entrypoint"),
        command=words("command"),
        variables=_variables(table.get("variables"), variables),
    )


def _variables(data: Any, known: Mapping[str, str]) -> dict[str, str]:
    """Return a service's own variables, from a list of tables or a mapping, with what they refer to."""
    tables = data if isinstance(data, list) else []
    pairs = [(each.get("key"), each.get("value"), each.get("raw")) for each in tables if isinstance(each, dict)]
    if isinstance(data, dict):
        pairs = [(key, value, False) for key, value in data.items()]
    texts = {str(key): (str(value), raw is True) for key, value, raw in pairs if is_variable(key, value)}
    known = {**known, **{key: text for key, (text, _) in texts.items()}}
    return {key: text if raw else expanded(text, known) for key, (text, raw) in texts.items()}


def is_variable(key: Any, value: Any) -> bool:
    """Return whether an environment can have a variable of that name and value."""
    plain = isinstance(key, str) and bool(_VARIABLE.fullmatch(key)) and type(value) in {str, int, float}
    return plain and _is_plain(str(value))


def _is_plain(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def expanded(text: str, known: Mapping[str, str]) -> str:
    """Return ``text`` with its $NAME and ${NAME} replaced by what is ``known``, once; an unknown one is empty.

    $$ is $, as for gitlab-runner (common/spec/variables.go), and what a shell has besides, such as $1, is empty.
    """
    return _REFERENCE.sub(lambda found: "$" if found[0] == "$$" else known.get(found[1] or found[2], ""), text)
