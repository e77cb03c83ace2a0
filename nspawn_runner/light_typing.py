"""A stand-in for the module typing, whose import would take a fifth of each stage's start.

Type checkers see typing's own names, and so does ruff, thanks to ruff.toml.
"""

from collections import namedtuple

TYPE_CHECKING = False
__all__ = ["TYPE_CHECKING", "Any", "NamedTuple", "NoReturn", "Protocol", "Self", "cast"]

if TYPE_CHECKING:
    from typing import Any, NamedTuple, NoReturn, Protocol, Self, cast
else:
    Any = NoReturn = Self = Protocol = object

    def cast(_type, value):
        """Return ``value``."""
        return value

    class _Named(type):
        """Turns each class derived from NamedTuple into a named tuple; typing's would compile every annotation."""

        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = body.pop("__annotations__")
            defaults = [body.pop(field) for field in fields if field in body]
            made = namedtuple(name, fields, defaults=defaults, module=body.pop("__module__"))
            for key, value in body.items():
                setattr(made, key, value)
            return made

    class NamedTuple(metaclass=_Named):
        """Base of a class whose annotated names become the fields of a tuple, their values its defaults."""
