"""Implement lm-eval's LM on any backend session: text in, requests of token ids out."""

from __future__ import annotations

import logging
import struct
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from lm_eval.api.model import TemplateLM

from bitnet_bench.data.templates import ANSWER, apply_chat_template
from bitnet_bench.data.thoughts import THINKING_SWITCHES, find_thought_marks, opens_thought
from bitnet_bench.data.tokenizing import begins_with_bos
from bitnet_bench.errors import BenchError, NotFiniteError, RowError
from bitnet_bench.evaluation.answer_cache import AnswerStore, frame_parts
from bitnet_bench.evaluation.answering import AnsweringLM, is_finite
from bitnet_bench.evaluation.document_progress import DocumentProgress, list_document_ids
from bitnet_bench.evaluation.generation import (
    GenerationRequest,
    asks_to_sample,
    divide_completion,
    fit_into_context,
    number_draws,
    pack_completion,
    read_request,
    unpack_completion,
)
from bitnet_bench.processes import Workers
from bitnet_bench.protocols import Completion, Progress, Session, Thoughts, no_progress
from bitnet_bench.runs.jobs import EvaluateJob

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

_log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
SPACE = "\u2581"
"""Character that SentencePiece writes for a space, and that some of its tokenizers put before every text."""
SYSTEM_HINT = "Leave `system` out, or use a checkpoint whose chat template takes one."
LIKELIHOOD_STRUCT = struct.Struct("<d?")
"""Layout of a stored (log-probability, greedy)."""


class SessionLM(AnsweringLM, TemplateLM):
    """Scores lm-eval requests with a session. lm-eval's own code splits text into context and continuation.

    A request longer than the session's context loses tokens on the left, as in lm-eval's `hf` model. `counts` has the
    number of requests that were cut, of answers from *answers* if they are stored, and, if there are any, of choices
    that were scored by their own tokens (`merged`), of generated answers that their limit ended (`cut`), that had less
    room than they were allowed (`shortened`), and whose thought has no end (`unfinished`). *workers* share the batches.
    *progress* counts documents. *job* says how answers are generated; without one, the requests do.
    """

    asks_choices = False
    """True if prompts through a chat template continue up to where its answers begin, e.g. after an empty thought."""

    def __init__(
        self,
        session: Session,
        progress: Progress = no_progress,
        answers: AnswerStore | None = None,
        workers: Workers | None = None,
        job: EvaluateJob | None = None,
    ) -> None:
        super().__init__(progress, answers, workers, job)
        check_tokenizer(session.tokenizer)
        self._session = session
        self._documents: list[int] = []
        self.tokenizer = session.tokenizer
        self._encoded: dict[str, list[int]] = {}
        """Ids of texts that were encoded together, while they are needed."""

    @property
    def has_chat_template(self) -> bool:
        """Return whether conversations can be asked in a form of the model's own."""
        return bool(self.tokenizer.chat_template)

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
        thinking = make_thinking_options(self._job.thinking if self._job else "auto")
        if self.asks_choices and add_generation_prompt and self.template:
            with suppress(BenchError):  # a template that refuses an answer is used up to its generation prompt
                answered = [*chat_history, {"role": "assistant", "content": ANSWER}]
                opened, mark, _ = apply_chat_template(self.tokenizer, answered, None, **thinking).partition(ANSWER)
                if mark:
                    return opened
        return apply_chat_template(
            self.tokenizer,
            chat_history,
            None,
            **thinking,
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
        self._documents = list_document_ids(requests)
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
            told=DocumentProgress(self._documents, self._progress, self._workers.count),
            ask=partial(self._session.loglikelihood, pairs),
            pack=lambda answer: LIKELIHOOD_STRUCT.pack(*answer),
            unpack=LIKELIHOOD_STRUCT.unpack,
            blank=(0.0, False),
        )

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of whole texts, in windows of the session's context."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        texts = []
        self._documents = []
        for document, request in zip(list_document_ids(requests), requests, strict=True):
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
        """Return the generated answers, each a `GeneratedText` without the thought before it.

        Requests that are the same object are draws of one answer. Those with the same stops, limit and settings share
        one call. Where prompt and answer exceed the context together, see `fit_into_context`.
        """
        outputs: list[str] = [""] * len(requests)
        documents = list_document_ids(requests)
        told = DocumentProgress(documents, self._progress, self._workers.count)
        prompts = self._encode_prompts([request.args[0] for request in requests])
        draws = number_draws(requests)
        marks = self._find_thought_marks()
        groups: dict[GenerationRequest, list[int]] = {}
        for i, request in enumerate(requests):
            text, options = request.args
            thoughts = marks and replace(marks, opened=opens_thought(text, marks))
            groups.setdefault(read_request(options, self._job, thoughts), []).append(i)
        for asked, members in groups.items():
            completions = self._complete(
                asked, [prompts[i] for i in members], [draws[i] for i in members], [documents[i] for i in members], told
            )
            for i, completion in zip(members, completions, strict=True):
                answer = divide_completion(completion, asked.thoughts)
                self._count_answer(answer)
                outputs[i] = answer
        if self._job and not self._job.temperature and any(asks_to_sample(request.args[1]) for request in requests):
            _log.warning("The task asks for random answers, and is answered greedily: `temperature` is 0.")
        return outputs

    def _complete(
        self,
        asked: GenerationRequest,
        prompts: Sequence[list[int]],
        draws: Sequence[int],
        documents: Sequence[int],
        told: DocumentProgress,
    ) -> list[Completion]:
        """Return the completion of each prompt, which loses tokens on the left if it does not fit."""
        context = self._session.max_length
        fitted = [fit_into_context(len(ids), asked.limit, context) for ids in prompts]
        kept = [ids[len(ids) - room :] for ids, (room, _) in zip(prompts, fitted, strict=True)]
        limits = [limit for _, limit in fitted]
        self.counts["truncated"] += sum(len(ids) > room for ids, (room, _) in zip(prompts, fitted, strict=True))
        shortened = sum(limit < asked.limit for limit in limits)
        self._count("shortened", shortened)
        if shortened:
            _log.warning(
                "%s of %s answers may have fewer than %s tokens: prompt and answer share a context of %s.",
                *(f"{number:,}" for number in (shortened, len(prompts), asked.limit, context)),
            )
        options: dict[str, Any] = {} if asked.sampling.is_greedy else {"sampling": asked.sampling, "draws": draws}
        options |= {"thoughts": asked.thoughts} if asked.thoughts else {}
        return self._answer_requests(
            keys=[
                _make_request_key("generate", ids, [limit], *asked.describe(draw))
                for ids, limit, draw in zip(kept, limits, draws, strict=True)
            ],
            documents=documents,
            told=told,
            ask=partial(self._session.generate, kept, max(limits), asked.stops, **options),
            pack=pack_completion,
            unpack=unpack_completion,
            blank=Completion(""),
        )

    def _find_thought_marks(self) -> Thoughts | None:
        """Return the marks of thoughts that the model may write; None where it is not asked through a template."""
        if not self.asks_conversations and not (self._job and self._job.chat_template):
            return None
        found = find_thought_marks(self.tokenizer)
        return Thoughts() if found is None and self._job and self._job.thinking == "on" else found

    def _encode_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of *texts*, at least one each."""
        self._encode_batch(texts)
        prompts = [self.tok_encode(text) or [self.prefix_token_id] for text in texts]
        self._encoded = {}
        return prompts

    def _check_finite(self, answers: Iterable[tuple[int, Any]], documents: Sequence[int]) -> None:
        bad = next((i for i, answer in answers if not is_finite(answer)), None)
        if bad is not None:
            raise NotFiniteError(bad, self._session.precision)

    def _locate(self, error: BenchError, documents: Sequence[int]) -> BenchError:
        if not isinstance(error, NotFiniteError):
            return error
        row = documents[error.request]
        what = f"makes the model compute NaN or infinity in {error.precision}"
        return RowError(row if row >= 0 else None, what, error.hint)


def check_chat_settings(tokenizer: Any, job: EvaluateJob) -> None:
    """Refuse a system text that the chat template does not take; log a switch for thinking that it does not have."""
    if not job.chat_template:
        return
    question = {"role": "user", "content": ANSWER}
    if job.system is not None:
        try:
            text = apply_chat_template(tokenizer, [{"role": "system", "content": job.system}, question])
        except BenchError as error:
            raise BenchError(f"The system text cannot be given. {error.problem}", SYSTEM_HINT) from error
        if job.system.strip() not in text:
            raise BenchError("The chat template of the checkpoint leaves the system text out.", SYSTEM_HINT)
    if job.thinking != "auto":
        on, off = (
            apply_chat_template(
                tokenizer, [question], None, add_generation_prompt=True, **make_thinking_options(thinking)
            )
            for thinking in ("on", "off")
        )
        if on == off:
            _log.warning(
                "The chat template of %s has no switch for thinking: `thinking=%s` changes no prompt.",
                tokenizer.name_or_path,
                job.thinking,
            )


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


def make_thinking_options(thinking: str) -> dict[str, bool]:
    """Return what a chat template is told about *thinking*, auto, on or off."""
    return {} if thinking == "auto" else dict.fromkeys(THINKING_SWITCHES, thinking == "on")


def _make_request_key(kind: str, *ids_and_text: Sequence[int] | str) -> bytes:
    """Return the bytes that identify a request: the kind, then every list of ids and text with its length."""
    return frame_parts(kind, *(part if isinstance(part, str) else array("q", part).tobytes() for part in ids_and_text))
