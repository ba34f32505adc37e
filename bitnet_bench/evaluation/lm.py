"""Implement lm-eval's LM on any backend session: text in, requests of token ids out."""

from __future__ import annotations

import json
import math
import struct
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from bitnet_bench.data.templates import ANSWER, apply_chat_template
from bitnet_bench.data.tokenizing import begins_with_bos
from bitnet_bench.errors import BenchError, NotFiniteError, RowError
from bitnet_bench.evaluation.answer_cache import AnswerStore, NullStore, frame_parts
from bitnet_bench.processes import Workers
from bitnet_bench.protocols import Progress, Session, Share, no_progress

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

Answer = TypeVar("Answer")
SPACE = "\u2581"
"""Character that SentencePiece writes for a space, and that some of its tokenizers put before every text."""
LIKELIHOOD_STRUCT = struct.Struct("<d?")
"""Layout of a stored (log-probability, greedy)."""


class SessionLM(TemplateLM):
    """Scores lm-eval requests with a session. lm-eval's own code splits text into context and continuation.

    A request longer than the session's context loses tokens on the left, as in lm-eval's `hf` model. `counts` has the
    number of requests that were cut, of answers from *answers* if they are stored, and, if there are any, of choices
    that were scored by their own tokens (`merged`). *workers* share the batches. *progress* counts documents.
    """

    asks_choices = False
    """True if prompts through a chat template continue up to where its answers begin, e.g. after an empty thought."""

    def __init__(
        self,
        session: Session,
        progress: Progress = no_progress,
        answers: AnswerStore | None = None,
        workers: Workers | None = None,
    ) -> None:
        super().__init__()
        check_tokenizer(session.tokenizer)
        self._session, self._progress = session, progress
        self._kept, self._workers = answers or NullStore(), workers or Workers()
        self._documents: list[int] = []
        self.tokenizer = session.tokenizer
        self._encoded: dict[str, list[int]] = {}
        """Ids of texts that were encoded together, while they are needed."""
        self.counts = {"requests": 0, "truncated": 0, "cached": 0}

    @property
    def has_chat_template(self) -> bool:
        """Return whether conversations can be asked in a form of the model's own."""
        return bool(self.tokenizer.chat_template)

    @property
    def progress(self) -> Progress:
        """Return what the documents that are answered are reported to."""
        return self._progress

    @progress.setter
    def progress(self, progress: Progress) -> None:
        """Report the documents of the next requests to *progress*."""
        self._progress = progress

    @property
    def eot_token_id(self) -> int:
        """Return the id that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """Return the id that replaces an empty context."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        """Return the name that lm-eval uses for prompts that this tokenizer's template made."""
        return str(self.tokenizer.name_or_path)

    @property
    def template(self) -> str:
        """Return the checkpoint's chat template; BenchError if it has none."""
        if not self.tokenizer.chat_template:
            raise BenchError(
                "The checkpoint has no chat template, and `chat_template` asks through one.",
                "Leave `chat_template` out, or use a checkpoint whose tokenizer has one (chat_template.jinja).",
            )
        return str(self.tokenizer.chat_template)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the conversation as the checkpoint's template writes it, up to where the answer begins."""
        if self.asks_choices and add_generation_prompt and self.template:
            with suppress(BenchError):  # a template that refuses an answer is used up to its generation prompt
                answered = [*chat_history, {"role": "assistant", "content": ANSWER}]
                opened, mark, _ = apply_chat_template(self.tokenizer, answered).partition(ANSWER)
                if mark:
                    return opened
        return apply_chat_template(
            self.tokenizer,
            chat_history,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return ids with special tokens as the tokenizer adds them, without a second BOS if the text has one."""
        if add_special_tokens is None:
            if string in self._encoded:
                return self._encoded[string]
            add_special_tokens = not begins_with_bos(string, self.tokenizer)
        # no warning about length: what does not fit is cut and counted here
        ids: list[int] = self.tokenizer.encode(string, add_special_tokens=add_special_tokens, verbose=False)
        return ids

    def _encode_batch(self, texts: Iterable[str]) -> None:
        """Encode *texts* in one call, which uses all cores; `tok_encode` then finds their ids."""
        self._encoded = {}
        if not getattr(self.tokenizer, "is_fast", False):
            return
        by_special: dict[bool, list[str]] = {True: [], False: []}
        for text in dict.fromkeys(texts):
            by_special[not begins_with_bos(text, self.tokenizer)].append(text)
        for special, some in by_special.items():
            if some:
                ids = self.tokenizer(
                    some,
                    add_special_tokens=special,
                    return_attention_mask=False,
                    return_token_type_ids=False,
                    verbose=False,
                )["input_ids"]
                self._encoded.update(zip(some, ids, strict=True))

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return (log-probability in nats, greedy) of each request's continuation."""
        self._documents = _list_document_ids(requests)
        # the texts that lm-eval encodes: each context without trailing spaces, and the whole
        pairs = [request.args for request in requests if request.args[0]]
        self._encode_batch(text for context, choice in pairs for text in (context.rstrip(), context + choice))
        try:
            split = [self._split(request) for request in requests]
        finally:
            self._encoded = {}
        return self._loglikelihood_tokens([(request.args, *ids) for request, ids in zip(requests, split, strict=True)])

    def _split(self, request: Instance) -> tuple[list[int], list[int]]:
        """Return the ids of a request's context and continuation, neither empty; RowError if there is nothing to score.

        They are lm-eval's if it has any. A context without tokens (empty, or white space, which moves to the
        continuation) becomes the prefix token. A continuation whose tokens all merge into the context's has its own.
        """
        context, continuation = request.args
        if context:
            before, after = self._encode_pair(context, continuation)
        else:
            before, after = [], self.tok_encode(continuation, add_special_tokens=False)
        if not before:
            begins = after[:1] == [self.prefix_token_id]
            before, after = [self.prefix_token_id], after[1:] if begins else after
        if not after:
            after = self._own_ids(context[len(context.rstrip()) :] + continuation)
            self.counts["merged"] = self.counts.get("merged", 0) + 1
        room = self._session.max_length
        if not after:
            raise RowError(
                request.doc_id,
                f"has a choice with nothing to score: {continuation!r}",
                "Correct or remove the row: an empty choice would be certain, and always win.",
            )
        if len(after) > room:
            raise RowError(
                request.doc_id,
                f"has a choice of {len(after)} tokens, which exceed the model's context of {room}",
                "Use a checkpoint with a longer context, shorten the row, or leave this task out with --task.",
            )
        return before, after

    def _own_ids(self, text: str) -> list[int]:
        """Return the ids of *text* as it follows other text: without the space that some tokenizers put first."""
        ids = self.tok_encode(text, add_special_tokens=False)
        if not ids or text[0].isspace() or not self.tokenizer.convert_ids_to_tokens(ids[0]).startswith(SPACE):
            return ids
        before, whole = (self.tok_encode(some, add_special_tokens=False) for some in ("\n", f"\n{text}"))
        return whole[len(before) :] if whole[: len(before)] == before else ids

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        longest = self._session.max_length + 1  # the last token is predicted, not read
        pairs = []
        for _text, context, continuation in requests:
            room = longest - len(continuation)
            self.counts["truncated"] += len(context) > room
            pairs.append((context[max(0, len(context) - room) :], continuation))
        return self._answer_requests(
            keys=[_make_request_key("loglikelihood", context, continuation) for context, continuation in pairs],
            documents=self._documents,
            told=_DocumentProgress(self._documents, self._progress, self._workers.count),
            ask=partial(self._session.loglikelihood, pairs),
            pack=lambda answer: LIKELIHOOD_STRUCT.pack(*answer),
            unpack=LIKELIHOOD_STRUCT.unpack,
        )

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of whole texts, in windows of the session's context."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        texts = []
        self._documents = []
        for document, request in zip(_list_document_ids(requests), requests, strict=True):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._session.max_length,
                context_len=1,
            )
            texts.append([(None, *make_disjoint_window(window)) for window in windows])
            self._documents += [document] * len(texts[-1])
        scored = iter(self._loglikelihood_tokens([pair for pairs in texts for pair in pairs]))
        return [sum(next(scored)[0] for _ in pairs) for pairs in texts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return greedy continuations; requests with the same stops and limit share one call.

        A prompt keeps at least half of the session's context, whatever length the task allows for the answer.
        """
        outputs = [""] * len(requests)
        documents = _list_document_ids(requests)
        told = _DocumentProgress(documents, self._progress, self._workers.count)
        groups: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for i, request in enumerate(requests):
            options = normalize_gen_kwargs(dict(request.args[1]), default_max_gen_toks=256)
            stops = handle_stop_sequences(options["until"], eos=None)
            limit = min(int(options["max_gen_toks"]), self._session.max_length // 2)
            groups.setdefault((tuple(stops), limit), []).append(i)
        for (stops, limit), members in groups.items():
            prompts = self._encode_prompts([requests[i].args[0] for i in members], self._session.max_length - limit)
            texts = self._answer_requests(
                keys=[_make_request_key("generate", prompt, [limit], json.dumps(stops)) for prompt in prompts],
                documents=[documents[i] for i in members],
                told=told,
                ask=partial(self._session.generate, prompts, limit, stops),
                pack=str.encode,
                unpack=bytes.decode,
            )
            for i, text in zip(members, texts, strict=True):
                outputs[i] = text
        return outputs

    def _encode_prompts(self, texts: Iterable[str], room: int) -> list[list[int]]:
        """Return the ids of *texts*, cut on the left to *room* tokens."""
        texts = list(texts)
        self._encode_batch(texts)
        prompts = [self.tok_encode(text) or [self.prefix_token_id] for text in texts]
        self._encoded = {}
        self.counts["truncated"] += sum(len(ids) > room for ids in prompts)
        return [ids[max(0, len(ids) - room) :] for ids in prompts]

    def _answer_requests(
        self,
        keys: Sequence[bytes],
        documents: Sequence[int],
        told: _DocumentProgress,
        ask: Callable[[Share], Iterator[Sequence[tuple[int, Answer]]]],
        pack: Callable[[Answer], bytes],
        unpack: Callable[[bytes], Any],
    ) -> list[Answer]:
        """Return the answer to each of *keys*: stored ones, and the others from the session, stored batch by batch."""
        stored = {i: unpack(kept) for i, kept in self._kept.lookup(keys).items()}
        found: dict[int, Answer] = {i: answer for i, answer in stored.items() if _is_finite(answer)}
        self.counts["requests"] += len(keys)
        self.counts["cached"] += len(found)
        told.mark_answered(documents[i] for i in found)
        failed: BenchError | None = None
        try:
            for some in ask(Share(frozenset(found), self._workers.worker, self._workers.count)):
                some = [(i, answer) for i, answer in some if i not in found]  # stored answers are not replaced
                self._check_finite(some)
                self._kept.save([(keys[i], pack(answer)) for i, answer in some])
                found.update(some)
                told.mark_answered(documents[i] for i, _ in some)
        except NotFiniteError as error:
            row = documents[error.request]
            what = f"makes the model compute NaN or infinity in {error.precision}"
            failed = RowError(row if row >= 0 else None, what, error.hint)
        except BenchError as error:
            failed = error
        everything = self._workers.gather(found, failed)
        if len(everything) > len(found):
            told.mark_answered(documents[i] for i in everything if i not in found)
        return [everything[i] for i in range(len(keys))]

    def _check_finite(self, answers: Iterable[tuple[int, Any]]) -> None:
        bad = next((i for i, answer in answers if not _is_finite(answer)), None)
        if bad is not None:
            raise NotFiniteError(bad, self._session.precision)


class _DocumentProgress:
    """Reports how many documents have all their answers; other workers are assumed to be equally far."""

    def __init__(self, documents: Iterable[int], progress: Progress, workers: int) -> None:
        self._left = Counter(documents)
        self._total = len(self._left)
        self._progress, self._workers = progress, workers

    def mark_answered(self, documents: Iterable[int]) -> None:
        """Count one more answered request for each of *documents*."""
        for document in documents:
            self._left[document] -= 1
            if not self._left[document]:
                del self._left[document]
        done = (self._total - len(self._left)) * self._workers
        self._progress(min(done, self._total - bool(self._left)), self._total)


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse a tokenizer that adds BOS twice or EOS to an unfinished text: every score would be of another text."""
    ids = tokenizer.encode("가")
    if ids[:2] == [tokenizer.bos_token_id] * 2:
        raise BenchError(
            f"The tokenizer of {tokenizer.name_or_path} puts {tokenizer.bos_token} twice before a text.",
            "Its tokenizer.json adds one, and so does its tokenizer_config.json: remove one of them.",
        )
    if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        raise BenchError(
            f"The tokenizer of {tokenizer.name_or_path} ends every text with {tokenizer.eos_token}.",
            "A choice would follow the end of its question. Set add_eos_token to false in tokenizer_config.json.",
        )


def _is_finite(answer: Any) -> bool:
    """Return whether an answer is a text, or has a log-probability that is a number."""
    return isinstance(answer, str) or math.isfinite(answer[0])


def _list_document_ids(requests: Sequence[Instance]) -> list[int]:
    return [-1 - i if request.doc_id is None else request.doc_id for i, request in enumerate(requests)]


def _make_request_key(kind: str, *ids_and_text: Sequence[int] | str) -> bytes:
    """Return the bytes that identify a request: the kind, then every list of ids and text with its length."""
    return frame_parts(kind, *(part if isinstance(part, str) else array("q", part).tobytes() for part in ids_and_text))
