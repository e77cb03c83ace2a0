"""A stand-in for the module typing, whose import would take a fifth of each stage's start.

A type checker reads the names as typing's own; so does ruff, which is told of this module in ruff.toml.
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
        """Makes a named tuple of each class that derives from NamedTuple: typing's compiles every annotation."""

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
