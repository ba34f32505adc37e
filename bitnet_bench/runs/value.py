"""The base of every value that crosses a file boundary."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """An immutable record; unknown fields and NaN are refused, never read in silence."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
