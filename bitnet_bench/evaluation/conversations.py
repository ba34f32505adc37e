"""Answer conversations with a language model: messages in, text out, through the checkpoint's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lm_eval.api.instance import Instance

from bitnet_bench.data.rows import Row
from bitnet_bench.data.templates import ANSWER, render_row
from bitnet_bench.data.turns import Turn
from bitnet_bench.errors import BenchError

if TYPE_CHECKING:
    from bitnet_bench.evaluation.lm import SessionLM

Message = dict[str, str]
"""A turn in the form of chat templates: role (system, user or assistant) and content."""
Conversation = Sequence[Message]
FALLBACK_TEMPLATE = "dialogue"
"""Form of a conversation for a checkpoint without a chat template, as fine-tuning writes it for the same checkpoint."""
FALLBACK_STOPS = ["\n사용자:"]
"""Beginning of the user's next turn in that form: such a checkpoint may have learned no other end."""


def answer_conversations(
    lm: SessionLM, conversations: Sequence[Conversation], max_new_tokens: int, documents: Sequence[int]
) -> list[str]:
    """Return what the model answers to each conversation, greedily; *documents* are the numbers of their rows."""
    has_template = bool(lm.tokenizer.chat_template)
    if not has_template:
        lm.counts["without_chat_template"] = lm.counts.get("without_chat_template", 0) + len(conversations)
    options = {"until": [] if has_template else FALLBACK_STOPS, "max_gen_toks": max_new_tokens, "do_sample": False}
    requests = [
        Instance(
            request_type="generate_until",
            doc={},
            arguments=(render_conversation(lm, conversation), options),
            idx=0,
            metadata=("open", document, 1),
        )
        for conversation, document in zip(conversations, documents, strict=True)
    ]
    return [text.strip() for text in lm.generate_until(requests)]


def render_conversation(lm: SessionLM, conversation: Conversation) -> str:
    """Return a conversation up to where the answer begins.

    A checkpoint without a chat template reads `FALLBACK_TEMPLATE`. For a template without a system turn, the system's
    text is put before the user's first one.
    """
    if not lm.tokenizer.chat_template:
        names = {"assistant": "model"}
        turns = [Turn(names.get(one["role"], one["role"]), one["content"]) for one in conversation]
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
