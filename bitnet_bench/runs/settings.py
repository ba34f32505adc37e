"""Define the base of settings that are options of the command line and keys of recipes as well.

A field defines everything about an option: its type, default and bounds are the field's, its help is the first
paragraph under the field, and `Option` adds what only the command line needs. Errors and help name fields in backticks;
the command line shows its own spelling instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from bitnet_bench.errors import UsageError, format_validation_error
from bitnet_bench.runs.value import Value


@dataclass(frozen=True)
class Option:
    """How a field appears as an option of the command line; a field without an `Option` does not."""

    panel: str | None = None
    """Heading under which --help lists the option."""
    name: str | None = None
    """Name of the option, such as `lr`, if it is not the field's; a bool with a name has no --no-NAME."""
    metavar: str | None = None
    """Placeholder of the value in --help, if the type does not give it."""
    is_path: bool = False
    """True if the option names a file or a folder, which a shell can complete."""
    is_repeatable: bool = False
    """True if several values are taken, though the field holds one."""
    written: str | None = None
    """Default as it is written on the command line, if the field parses text."""


class InvalidSettingsError(UsageError, ValueError):
    """A setting is out of range, or conflicts with another."""


class Settings(Value):
    """Settings that a user chooses. In Python, a wrong value raises an `InvalidSettingsError` of one sentence."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    if not TYPE_CHECKING:  # for a type checker, parameters are the fields

        def __init__(self, /, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise InvalidSettingsError(f"{format_validation_error(error, '`{}`'.format)}.") from error

        # pydantic validates files and recipes without this __init__, and keeps the place of an error there
        __init__.__pydantic_base_init__ = True

    @classmethod
    def options(cls) -> Iterator[tuple[str, FieldInfo, Option]]:
        """Yield the fields that are options of the command line, in order."""
        for name, field in cls.model_fields.items():
            for option in field.metadata:
                if isinstance(option, Option):
                    yield name, field, option

    @classmethod
    def option_names(cls) -> Mapping[str, str]:
        """Return the name, without dashes, on the command line of each field that is an option."""
        return {name: option.name or name.replace("_", "-") for name, _, option in cls.options()}

    @classmethod
    def default(cls, field: str) -> Any:
        """Return the default of *field*."""
        return cls.model_fields[field].get_default(call_default_factory=True)
