"""The base of every value that crosses a file boundary."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Value(BaseModel):
    """An immutable record; unknown fields and NaN are refused, never read in silence."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GrownValue(Value):
    """A value with fields that older files do not have: at their default they are not written.

    What an older version wrote, sealed or not, is so written again as it was.
    """

    ADDED: ClassVar[tuple[str, ...]] = ()
    """The fields that came later."""

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        fields = type(self).model_fields
        left_out = [name for name in self.ADDED if getattr(self, name) == fields[name].default]
        return {name: value for name, value in written.items() if name not in left_out}
