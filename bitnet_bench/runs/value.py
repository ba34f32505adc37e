"""Define the base of every value that crosses a file boundary."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Value(BaseModel):
    """An immutable record; unknown fields and NaN are refused, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GrownValue(Value):
    """A value with fields that older files do not have: they are not written if they have their default.

    A value of an older version, sealed or not, is thus written again unchanged.
    """

    ADDED: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that were added later."""

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        fields = type(self).model_fields
        left_out = [name for name in self.ADDED if getattr(self, name) == fields[name].default]
        return {name: value for name, value in written.items() if name not in left_out}
