"""Answer conversations with a language model: messages in, text out, through the checkpoint's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from bitnet_bench.data.rows import Row
from bitnet_bench.data.templates import ANSWER, render_row
from bitnet_bench.data.turns import Role, Turn
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.generation import GeneratedText
from bitnet_bench.protocols import Progress

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

Message = dict[str, str]
"""A turn in the form of chat templates: role (system, user or assistant) and content."""
Conversation = Sequence[Message]
FALLBACK_TEMPLATE = "dialogue"
"""Form of a conversation for a checkpoint without a chat template, as fine-tuning writes it for the same checkpoint."""
FALLBACK_STOPS = ("\n사용자:",)
"""Beginning of the user's next turn in that form: such a checkpoint may have learned no other end."""
_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "model"}


@dataclass(frozen=True)
class Reply:
    """An answer, without the thought before it where the language model tells the two apart."""

    text: str
    thought: str = ""
    cut: bool = False
    """True if the limit of new tokens ended it."""
    unfinished: bool = False
    """True if a thought has no end, so that there is no answer."""


class ChatLM(Protocol):
    """What conversations need of a language model; `bitnet_bench.evaluation.lm.SessionLM` is one."""

    tokenizer: Any
    progress: Progress
    asks_conversations: bool
    """True if what is asked went through the chat template, whether or not an evaluation asked for that."""
    counts: dict[str, int]
    """Number of `truncated` prompts, among others."""

    @property
    def has_chat_template(self) -> bool:
        """Return whether conversations can be asked in a form of the model's own."""

    def apply_chat_template(self, chat_history: list[Message]) -> str:
        """Return a conversation up to where the answer begins."""

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return the answer to each request."""

    def tok_encode(self, string: str) -> list[int]:
        """Return the ids of a text."""


def answer_conversations(
    lm: ChatLM, conversations: Sequence[Conversation], max_new_tokens: int, documents: Sequence[int]
) -> list[Reply]:
    """Return what the model answers to each conversation; *documents* are the numbers of their rows."""
    from lm_eval.api.instance import Instance

    lm.asks_conversations = lm.has_chat_template
    if not lm.has_chat_template:
        lm.counts["without_chat_template"] = lm.counts.get("without_chat_template", 0) + len(conversations)
    stops = [] if lm.has_chat_template else list(FALLBACK_STOPS)
    requests = [
        Instance(
            request_type="generate_until",
            doc={},
            arguments=(
                render_conversation(lm, conversation),
                {"until": stops, "max_gen_toks": max_new_tokens, "do_sample": False},
            ),
            idx=0,
            metadata=("open", document, 1),
        )
        for conversation, document in zip(conversations, documents, strict=True)
    ]
    return [_make_reply(text) for text in lm.generate_until(requests)]


def _make_reply(text: str) -> Reply:
    """Return an answer with what the language model says of it besides its text, if it says anything."""
    answer = str(text).strip()
    return Reply(answer, text.thought, text.cut, text.unfinished) if isinstance(text, GeneratedText) else Reply(answer)


def render_conversation(lm: ChatLM, conversation: Conversation) -> str:
    """Return a conversation up to where the answer begins.

    A checkpoint without a chat template reads `FALLBACK_TEMPLATE`. For a template without a system turn, the system's
    text is put before the user's first one.
    """
    if not lm.has_chat_template:
        turns = [Turn(_ROLES[one["role"]], one["content"]) for one in conversation]
        text = render_row(Row((*turns, Turn("model", ANSWER))), FALLBACK_TEMPLATE, lm.tokenizer).text
        return text.rpartition(ANSWER)[0].rstrip(" ")
    try:
        return lm.apply_chat_template(list(conversation))
    except BenchError:
        if conversation[0]["role"] != "system":
            raise
        return lm.apply_chat_template(_merge_system(conversation))


def _merge_system(conversation: Conversation) -> list[Message]:
    system, first, *rest = conversation
    return [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def count_from(progress: Progress, before: int, whole: int) -> Progress:
    """Return a progress for a part of the work: *before* units of the *whole* are done when it begins."""

    def tell(done: int, total: int, note: str = "") -> None:
        progress(min(before + done, whole), whole, note)

    return tell
