"""What a job says of its services: their names, commands and variables, whoever wrote them."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nspawn_runner.errors import JobError
from nspawn_runner.gitlab import service_requests
from nspawn_runner.gitlab.service_requests import expanded, names_of_image, parse, public_variables
from nspawn_runner.machines import service_files
from nspawn_runner.machines.plan import Service


@pytest.mark.parametrize(
    ("image", "names"),
    [
        # GitLab's documentation of services, "Accessing the services"
        ("tutum/wordpress:latest", ("tutum__wordpress", "tutum-wordpress")),
        ("registry.example.com/my-image:1.2", ("registry.example.com__my-image", "registry.example.com-my-image")),
        ("registry.example.com:4999/group/pg:12", ("registry.example.com__group__pg", "registry.example.com-group-pg")),
        ("postgres", ("postgres",)),
        ("postgres:16-alpine", ("postgres",)),
        ("localhost:5000/x@sha256:abc", ("localhost__x", "localhost-x")),
        ("host:5000/x:tag@sha256:abc", ("host__x", "host-x")),
    ],
)
def test_names_that_gitlab_makes_of_an_image(image: str, names: tuple[str, ...]) -> None:
    assert names_of_image(image) == names


def test_everything_that_a_payload_may_say() -> None:
    data = [
        "redis:7",
        {
            "name": "group/pg:12",
            "alias": "db, database main",
            "entrypoint": ["/bin/x"],
            "command": ["--a", "$B"],
            "variables": [
                {"key": "POSTGRES_DB", "value": "${PROJECT}_test"},
                {"key": "AS_IT_IS", "value": "$PROJECT", "raw": True},
                {"key": "OF_ITS_OWN", "value": "$POSTGRES_DB$$"},
                {"key": "no name", "value": "x"},
                {"key": "NUL", "value": "\0"},
            ],
            "pull_policy": ["always"],
        },
    ]
    redis, pg = parse(data, {"PROJECT": "p"})
    assert redis.names == ("redis",)
    assert pg.names == ("db", "database", "main", "group__pg", "group-pg")
    assert (pg.entrypoint, pg.command) == (("/bin/x",), ("--a", "$B"))
    assert pg.variables == {"POSTGRES_DB": "p_test", "AS_IT_IS": "$PROJECT", "OF_ITS_OWN": "${PROJECT}_test$"}
    assert parse(json.dumps(data), {"PROJECT": "p"}) == (redis, pg)
    assert parse("[]", {}) == parse(None, {}) == parse([], {}) == ()


def test_public_variables_alone() -> None:
    data = [
        {"key": "A", "value": "1", "public": True},
        {"key": "B", "value": "$A-$SECRET", "public": True},
        {"key": "SECRET", "value": "x", "public": False},
        {"key": "FILE", "value": "content", "public": True, "file": True},
        {"key": "A", "value": "2", "public": True},
        "A",
        {"key": ["A"], "value": "3", "public": True},
    ]
    assert public_variables(data) == {"A": "2", "B": "2-"}
    assert public_variables(None) == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
        ["name", "alias", "entrypoint", "command", "variables", "key", "value", "raw", "public"]), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@given(JSON, JSON)
def test_whatever_it_says_it_is_services_or_an_error(data: Any, variables: Any) -> None:
    found: tuple[service_requests.ServiceRequest, ...] = ()
    with suppress(JobError):
        found = parse(data, public_variables(variables))
    for each in found:
        assert all(isinstance(word, str) for word in (*each.names, *each.entrypoint, *each.command))
        assert all(service_requests.is_variable(*pair) for pair in each.variables.items())


def test_expansion_as_the_runner_does_it() -> None:
    known = {"A": "1", "B": "$A"}
    assert expanded("$A ${A} $B $NONE ${NONE} $$A $1 $$ $ ${A", known) == "1 1 $A   $A  $ $ ${A"
    (one,) = parse(["postgres:$VERSION"], {"VERSION": "16"})
    assert one.image == "postgres:16"


@given(st.text())
def test_expansion_of_nothing_known(text: str) -> None:
    assert expanded(text, {}).count("$") <= text.count("$")
    if "$" not in text:
        assert expanded(text, {}) == text


def test_files_of_a_service() -> None:
    service = Service("db", "run-1", 2, {"A": 'a "b" `c` $d \\ \n e'}, ["it's", "$x"])
    files = service_files.of_service(service)
    assert files["service.env"] == b'A="a \\"b\\" \\`c\\` \\$d \\\\ \n e"\n'
    assert files["command"] == b"exec 'it'\\''s' '$x'\n"
    assert "command" not in service_files.of_service(service._replace(command=()))
