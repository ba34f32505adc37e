"""Keep a conversation: the system turn, and what was said after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Message = Mapping[str, str]


@dataclass
class Conversation:
    """Turns of a user and of one model, in order, after an optional system turn."""

    system: str | None = None
    turns: list[Message] = field(default_factory=list)

    def ask(self, text: str) -> None:
        """Add a turn of the user."""
        self.turns.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        """Add the model's turn; a question that was not answered at all is taken back."""
        if text:
            self.turns.append({"role": "assistant", "content": text})
        else:
            self.turns.pop()

    def reset(self) -> None:
        """Forget all turns; the system turn stays."""
        self.turns.clear()

    def list_messages(self, dropped: int = 0) -> tuple[Message, ...]:
        """Return the messages without the first *dropped* exchanges of a question and its answer."""
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return (*system, *self.turns[2 * dropped :])

    @property
    def exchanges(self) -> int:
        """Return how many exchanges stand before the last question."""
        return (len(self.turns) - 1) // 2
