"""Implement lm-eval's LM on a model on a server: text in, text and numbers out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from lm_eval.api.model import LM

from bitnet_bench.errors import BenchError, RequestRefusedError, RowError
from bitnet_bench.evaluation.answer_cache import AnswerStore, frame_parts
from bitnet_bench.evaluation.answering import AnsweringLM, is_finite
from bitnet_bench.evaluation.document_progress import DocumentProgress, list_document_ids
from bitnet_bench.evaluation.generation import GeneratedText, divide_completion, number_draws, read_request
from bitnet_bench.evaluation.serving import make_settings
from bitnet_bench.processes import Workers
from bitnet_bench.protocols import (
    Completion,
    Progress,
    RemoteSession,
    ServedAnswer,
    ServedRequest,
    Share,
    Thoughts,
    no_progress,
)
from bitnet_bench.runs.jobs import EvaluateJob

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

Answer = TypeVar("Answer")


class RemoteLM(AnsweringLM, LM):
    """Scores lm-eval requests with a server. Prompts are text, or messages where a chat template is asked for.

    Nothing is cut here: a prompt that the server's context does not hold is an error that names its row. `counts` has
    the number of requests and of answers from *answers*; `served` has what the server said of each generated answer.
    """

    asks_choices = False
    """True if a task compares the likelihoods of choices."""
    has_chat_template = True
    """True: the server has one, or says that it has none."""
    tokenizer = None
    """None: the server has it."""

    def __init__(
        self,
        session: RemoteSession,
        progress: Progress = no_progress,
        answers: AnswerStore | None = None,
        workers: Workers | None = None,
        job: EvaluateJob | None = None,
    ) -> None:
        super().__init__(progress, answers, workers, job)
        self._session = session
        self._chats: dict[str, tuple[Mapping[str, str], ...]] = {}
        """Conversation of each text that `apply_chat_template` has returned."""

    def tok_encode(self, string: str) -> list[int]:
        """Raise BenchError: the server has the tokenizer. No prompt is cut here, so that none needs to be counted."""
        raise BenchError("A server's tokenizer cannot be asked.", "Run the checkpoint here.")

    @property
    def tokenizer_name(self) -> str:
        """Return a name for lm-eval; the server has the tokenizer."""
        return "served"

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the conversation as JSON; the server applies its template, and answers as the assistant."""
        if self.asks_choices:
            raise BenchError(
                "A chat endpoint returns no log-probabilities of an answer that is given to it.",
                "Leave `chat_template` out for this task, or choose tasks whose answers are generated.",
            )
        messages = tuple({"role": one["role"], "content": one["content"]} for one in chat_history)
        text = json.dumps(messages, ensure_ascii=False)
        self._chats[text] = messages
        return text

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return (log-probability in nats, greedy) of each request's continuation."""
        pairs = [(str(request.args[0]), str(request.args[1])) for request in requests]
        for request, (context, _) in zip(requests, pairs, strict=True):
            if not context.strip():
                raise RowError(
                    request.doc_id,
                    "has no text before its choices, and a server scores only what follows a text",
                    "Leave this task out with `task`, or run the checkpoint here.",
                )
        return self._ask(
            requests,
            [frame_parts("loglikelihood", *pair) for pair in pairs],
            partial(self._session.loglikelihood, pairs),
            pack=lambda answer: json.dumps(answer).encode(),
            unpack=lambda data: (float(json.loads(data)[0]), bool(json.loads(data)[1])),
            blank=(0.0, False),
        )

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Raise BenchError: the windows of a long text are cut between tokens, which only the server has."""
        raise BenchError(
            "A served model is not scored on running text, whose windows are cut between its tokens.",
            "Leave this task out with `task`, or run the checkpoint here.",
        )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the server's answers."""
        asked = [self._make_request(one, draw) for one, draw in zip(requests, number_draws(requests), strict=True)]
        answers = self._ask(
            requests,
            [_make_key(one) for one in asked],
            partial(self._session.generate, asked),
            pack=lambda answer: json.dumps(asdict(answer), ensure_ascii=False).encode(),
            unpack=lambda data: ServedAnswer(**json.loads(data)),
            blank=ServedAnswer(""),
        )
        self.served += answers
        return [self._divide(one, answer) for one, answer in zip(asked, answers, strict=True)]

    def _divide(self, request: ServedRequest, answer: ServedAnswer) -> GeneratedText:
        """Return the part of an answer that is scored; a server may keep the thought apart, or leave it in the text."""
        marks = None if isinstance(request.prompt, str) else Thoughts()
        found = divide_completion(Completion(answer.text, answer.is_cut, answer.thought), marks)
        self._count_answer(found)
        return found

    def _make_request(self, request: Instance, draw: int) -> ServedRequest:
        asked = read_request(request.args[1], self._job, None)
        text = str(request.args[0])
        prompt = self._chats.get(text, text)
        settings = make_settings(self._job, draw, is_chat=prompt is not text)
        return ServedRequest(prompt, asked.limit, asked.stops, settings)

    def _ask(
        self,
        requests: Sequence[Instance],
        keys: Sequence[bytes],
        ask: Callable[[Share], Iterator[Sequence[tuple[int, Answer]]]],
        pack: Callable[[Answer], bytes],
        unpack: Callable[[bytes], Answer],
        blank: Answer,
    ) -> list[Answer]:
        """Return the answer to each of *keys*, which stand for *requests*; progress counts their documents."""
        documents = list_document_ids(requests)
        told = DocumentProgress(documents, self._progress, self._workers.count)
        return self._answer_requests(keys, documents, told, ask, pack, unpack, blank)

    def _check_finite(self, answers: Iterable[tuple[int, Any]], documents: Sequence[int]) -> None:
        bad = next((i for i, answer in answers if not is_finite(answer)), None)
        if bad is not None:
            what = "has no finite log-probability on the server"
            raise RowError(documents[bad], what, "Look at the server's log.")

    def _locate(self, error: BenchError, documents: Sequence[int]) -> BenchError:
        if not isinstance(error, RequestRefusedError) or error.request is None or documents[error.request] < 0:
            return error
        return RowError(documents[error.request], f"is not answered: {error.problem.rstrip('.')}", error.hint)


def _make_key(request: ServedRequest) -> bytes:
    prompt = request.prompt if isinstance(request.prompt, str) else json.dumps(request.prompt, ensure_ascii=False)
    kind = "completion" if isinstance(request.prompt, str) else "chat"
    settings = json.dumps([request.max_new_tokens, request.stop, dict(request.settings)], sort_keys=True)
    return frame_parts(kind, prompt, settings)
