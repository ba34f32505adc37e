"""What one side of a dialogue said, and the names that data sets give to the sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from bitnet_bench.data.jsonl import BadRowError, shorten_name

Role = Literal["user", "model", "system", "text"]
USER_NAMES = {"user", "human", "사용자", "질문자", "고객"}
MODEL_NAMES = {"model", "assistant", "bot", "gpt", "chatgpt", "ai", "모델", "상담원"}
SYSTEM_NAMES = {"system", "sys", "developer", "시스템"}
"""An instruction beside a model's turns; the answering side where dialogues have no other (HG-TODS, WoS)."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said; `system` is an instruction, and `text` is running text with no sides."""

    role: Role
    text: str
    learned: bool = True
    """Whether a model's turn carries the loss: a weight of 0 in the data says that it does not."""


def role_of(name: Any) -> Role:
    """Return the side that a data set calls *name*, or raise `BadRowError`."""
    lowered = name.strip().lower() if isinstance(name, str) else ""
    if lowered in USER_NAMES:
        return "user"
    if lowered in MODEL_NAMES:
        return "model"
    if lowered in SYSTEM_NAMES:
        return "system"
    raise BadRowError(f"has a turn by {shorten_name(name)!r}, who is neither user nor model")
