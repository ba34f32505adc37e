"""One turn of a dialogue, and the names that data sets give to the speakers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from bitnet_bench.data.jsonl import BadRowError, shorten_name

Role = Literal["user", "model", "system", "text"]
USER_NAMES = {"user", "human", "사용자", "질문자", "고객"}
MODEL_NAMES = {"model", "assistant", "bot", "gpt", "chatgpt", "ai", "모델", "상담원"}
SYSTEM_NAMES = {"system", "sys", "developer", "시스템"}
"""Names of an instruction next to a model's turns; in HG-TODS and WoS, of the answering side."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn; `system` is an instruction, and `text` is running text without speakers."""

    role: Role
    text: str
    learned: bool = True
    """True if a model's turn carries the loss; a weight of 0 in the data makes it false."""


def role_of(name: Any) -> Role:
    """Return the role that a data set calls *name*, or raise `BadRowError`."""
    lowered = name.strip().lower() if isinstance(name, str) else ""
    if lowered in USER_NAMES:
        return "user"
    if lowered in MODEL_NAMES:
        return "model"
    if lowered in SYSTEM_NAMES:
        return "system"
    raise BadRowError(f"has a turn by {shorten_name(name)!r}, who is neither user nor model")
