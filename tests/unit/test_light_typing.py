"""Named tuples that are made without typing are what typing would make of them."""

import pickle

import pytest

from nspawn_runner import light_typing


class Light(light_typing.NamedTuple):
    """Two fields."""

    path: str
    seconds: int = 5

    @property
    def double(self) -> int:
        return 2 * self.seconds

    def __str__(self) -> str:
        return self.path


def test_fields_defaults_and_methods() -> None:
    value = Light("/x")
    assert value == ("/x", 5)
    assert (value.path, value.seconds, value.double, str(value)) == ("/x", 5, 10, "/x")
    assert repr(value) == "Light(path='/x', seconds=5)"
    assert value._replace(seconds=7)._asdict() == {"path": "/x", "seconds": 7}
    assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301
    with pytest.raises(TypeError):
        Light()  # type: ignore[call-arg]
    assert Light._fields == ("path", "seconds")
    assert Light._field_defaults == {"seconds": 5}
    assert (Light.__doc__, Light.__module__, Light.__qualname__) == ("Two fields.", __name__, "Light")
