"""Replace fields in messages by the options of a command: `learning_rate` becomes --lr.

Errors, warnings and help from other packages name fields in backticks, some with a value: `method=dpo`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, NamedTuple

FIELD = re.compile(r"`(\w+)(?:=([^`]*))?`")


class OptionName(NamedTuple):
    """Spelling of an option: --cache, and --no-cache if it has two."""

    on: str
    off: str | None = None


OPTION_NAMES: ContextVar[Mapping[str, OptionName]] = ContextVar("OPTION_NAMES", default=MappingProxyType({}))
"""Options of the running command, by parameter."""


def read_names(parameters: Sequence[Any]) -> dict[str, OptionName]:
    """Return the options among a command's parameters, by parameter."""
    return {
        parameter.name: OptionName(parameter.opts[0], next(iter(parameter.secondary_opts), None))
        for parameter in parameters
        if parameter.param_type_name == "option"
    }


def name_options(text: str, names: Mapping[str, OptionName] | None = None) -> str:
    """Return *text* with the options of *names*, or of the running command, in place of fields in backticks."""
    known = OPTION_NAMES.get() if names is None else names

    def spell(found: re.Match[str]) -> str:
        option, value = known.get(found[1]), found[2]
        if option is None:
            return found[0]
        if value == "False" and option.off:
            return option.off
        return f"{option.on} {value}" if value else option.on

    return FIELD.sub(spell, text)
