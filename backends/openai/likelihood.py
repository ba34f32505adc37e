"""Get log-probabilities of a given text out of a server, and prove on a known text that they are that."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

from bitnet_bench.errors import BenchError, RequestRefusedError

Answer = tuple[float, bool]
PROBE = "1, 2, 3, 4, 5, 6, 7, 8,"
PROBE_CHOICES = (" 9, 10", " zq; Xv")
"""Continuations of `PROBE`, a likely one and an absurd one."""
FORCING_BIAS = 1e5
"""Logit bias with which llama-server chooses a token whatever the model says."""
FIRST_PROBABILITIES, ALL_PROBABILITIES = 512, 1 << 20
"""Numbers of likely tokens among which one is looked for that llama-server cannot be asked for."""
MISSING_TOKENS = "has a choice that is no token of its own after the question"


class Post(Protocol):
    """Function that sends a request until it is answered."""

    def __call__(self, path: str, body: dict[str, Any], at_root: bool = False) -> Any:
        """Return the JSON document with which *path* answers *body*."""


class Scorer(ABC):
    """A way in which servers return log-probabilities of a given text."""

    def __init__(self, post: Post, model: str) -> None:
        self._post, self._model = post, model

    def score(self, context: str, continuations: Sequence[str]) -> list[Answer]:
        """Return (summed log-probability in nats, greedy) of each continuation of *context*.

        ValueError, as the end of a sentence about the server, if it does not return them.
        """
        try:
            return self._score(context, continuations)
        except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # what it answers may be any JSON
            raise ValueError("it answers with JSON of another form") from error

    @abstractmethod
    def _score(self, context: str, continuations: Sequence[str]) -> list[Answer]:
        """Return what `score` does."""

    def check(self) -> None:
        """Raise ValueError if the numbers of a known text are no log-probabilities of it."""
        likely, absurd = self.score(PROBE, PROBE_CHOICES)
        again, _ = self.score(PROBE, PROBE_CHOICES)
        sums = (likely[0], absurd[0])
        if not all(math.isfinite(value) and value < 0 for value in sums):
            raise ValueError(f"the sums {sums} are no log-probabilities")
        if abs(likely[0] - absurd[0]) < 1e-3:
            raise ValueError("a likely and an absurd text are equally probable")
        if abs(likely[0] - again[0]) > 0.1:
            raise ValueError("the same text is not equally probable twice")


class EchoScorer(Scorer):
    """Reads a prompt's own log-probabilities, which vLLM, SGLang and others return for `echo` with `logprobs`.

    As lm-eval does it, the continuation's tokens are those of the whole text after as many as the context alone has.
    """

    def _score(self, context: str, continuations: Sequence[str]) -> list[Answer]:
        """Return the sums over the tokens that follow those of *context*; one more request counts these."""
        start = len(self._read_prompt(context)[0])
        return [self._sum(start, *self._read_prompt(context + continuation)) for continuation in continuations]

    @staticmethod
    def _sum(start: int, logprobs: Sequence[Any], best: Sequence[float]) -> Answer:
        own = logprobs[start:]
        if not own or not start:
            raise RequestRefusedError(f"A row {MISSING_TOKENS}.", "Run the checkpoint here, or leave this task out.")
        return math.fsum(own), all(a >= b - 1e-6 for a, b in zip(own, best[start:], strict=True))

    def _read_prompt(self, text: str) -> tuple[list[Any], list[float]]:
        """Return (log-probability, that of the best token) of each token of *text*; ValueError if there are none."""
        body = {"model": self._model, "prompt": text, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
        answer = self._post("completions", body)
        try:
            choice = answer["choices"][0]
            found = choice["logprobs"]
            logprobs, tokens = list(found["token_logprobs"]), list(found["tokens"])
            tops: list[Any] = list(found.get("top_logprobs") or [None] * len(logprobs))
            count = int((answer.get("usage") or {}).get("prompt_tokens") or len(logprobs) - 1)
        except (KeyError, IndexError, TypeError, ValueError):
            raise ValueError("it returns no log-probabilities of the prompt") from None
        if not str(choice.get("text", "")).startswith(text) and text not in "".join(map(str, tokens)):
            raise ValueError("the tokens that it returns are not those of the prompt")
        numbers = logprobs[1:count]
        if len(logprobs) < count or not all(isinstance(one, int | float) and math.isfinite(one) for one in numbers):
            raise ValueError("log-probabilities of the prompt are missing")
        best = [max(top.values()) if isinstance(top, dict) and top else -math.inf for top in tops[:count]]
        return logprobs[:count], best


class LlamaServerScorer(Scorer):
    """Makes llama-server choose each token of a text, and reads the log-probability that the model gave it.

    It returns none of a prompt, but of every token that it chooses, from the model's own logits. A bias decides which.
    One request per token; the context is read once.
    """

    def __init__(self, post: Post, model: str) -> None:
        super().__init__(post, model)
        self._fragments: set[int] = set()
        """Tokens that are parts of characters."""

    def _score(self, context: str, continuations: Sequence[str]) -> list[Answer]:
        """Return the sums over the tokens that follow those of *context*."""
        before = self._encode(context)
        answers = []
        is_first = True
        for continuation in continuations:
            ids = self._encode(context + continuation)
            if not before or len(ids) <= len(before):
                raise RequestRefusedError(
                    f"A row {MISSING_TOKENS}.", "Run the checkpoint here, or leave this task out."
                )
            steps = []
            for end in range(len(before), len(ids)):
                # what other requests left in the server's cache would change the last bits
                steps.append(self._read(ids[:end], ids[end], use_cache=not is_first))
                is_first = False
            answers.append((math.fsum(value for value, _ in steps), all(greedy for _, greedy in steps)))
        return answers

    def _encode(self, text: str, special: bool = True) -> list[int]:
        body = {"content": text, "add_special": special, "parse_special": special, "with_pieces": True}
        answer = self._post("tokenize", body, at_root=True)
        try:
            tokens = [(one["id"], one["piece"]) for one in answer["tokens"]]
        except (KeyError, TypeError):
            raise ValueError("it does not return the tokens of a text") from None
        self._fragments |= {token for token, piece in tokens if not isinstance(piece, str)}
        return [token for token, _ in tokens]

    def _read(self, prompt: list[int], token: int, use_cache: bool) -> Answer:
        """Return (log-probability, greedy) of *token* after *prompt*."""
        if token not in self._fragments:
            found = self._choose(prompt, token, 1, use_cache)
            return self._to_float(found), found["top_logprobs"][0]["id"] == token
        for most in (FIRST_PROBABILITIES, ALL_PROBABILITIES):
            found = self._choose(prompt, self._whole_token, most, use_cache)
            listed = next((one for one in found["top_logprobs"] if one["id"] == token), None)
            if listed is not None:
                return self._to_float(listed), found["top_logprobs"][0]["id"] == token
        raise ValueError("it does not list the log-probability of a part of a character")

    @cached_property
    def _whole_token(self) -> int:
        """A token that is whole characters: of another, which waits for the next, llama-server says nothing."""
        return self._encode("a", special=False)[-1]

    def _choose(self, prompt: list[int], token: int, most: int, use_cache: bool) -> dict[str, Any]:
        """Return what the server says of *token* when it has to choose it: itself, and the *most* likely ones."""
        body = {
            "model": self._model,
            "prompt": prompt,
            "n_predict": 1,
            "n_probs": most,
            "temperature": 0,
            "logit_bias": [[token, FORCING_BIAS]],
            "cache_prompt": use_cache,
        }
        answer = self._post("completion", body, at_root=True)
        try:
            found: dict[str, Any] = answer["completion_probabilities"][0]
            chosen = found["id"]
            listed = [one["id"] for one in found["top_logprobs"]]
        except (KeyError, IndexError, TypeError):
            raise ValueError("it returns no log-probability of a token") from None
        if chosen != token or not listed:
            raise ValueError("it does not choose the token that it is asked for")
        return found

    @staticmethod
    def _to_float(found: dict[str, Any]) -> float:
        value = found["logprob"]
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError("a log-probability is no number")
        return float(value)


def find_scorer(scorers: Sequence[Scorer], host: str) -> Scorer:
    """Return the first of the scorers that gives log-probabilities of a known text; BenchError if none does."""
    reasons = []
    for scorer in scorers:
        try:
            scorer.check()
            return scorer
        except ValueError as error:
            reasons.append(str(error))
        except BenchError as error:  # a path that it does not have, a field that it refuses
            reasons.append(error.problem)
    raise BenchError(
        f"{host} returns no log-probabilities of a prompt, which this task compares ({'; '.join(reasons)}).",
        "Choose tasks whose answers are generated, serve the model with vLLM, SGLang or llama-server, or run its "
        "checkpoint here.",
    )
