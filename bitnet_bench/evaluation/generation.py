"""What a generation is asked for: its limit, its stops, how its tokens are chosen; and the answer that comes back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bitnet_bench.data.thoughts import split_thought
from bitnet_bench.protocols import GREEDY, Completion, Sampling, Thoughts
from bitnet_bench.runs.jobs import EvaluateJob

DEFAULT_NEW_TOKENS = 256
"""Most new tokens where a task names no number, as in lm-eval."""
LEAST_ANSWER_TOKENS = 256
LEAST_ANSWER_SHARE = 1 / 8
"""Room that a prompt leaves to its answer, in tokens and as a share of the context: the larger of the two counts, but
never more than half the context, nor more than the answer may have."""


class GeneratedText(str):
    """The part of a completion that is scored, with what else is known of it."""

    cut: bool
    thought: str
    unfinished: bool

    def __new__(cls, text: str, cut: bool = False, thought: str = "", unfinished: bool = False) -> GeneratedText:
        """Make a text: *cut* by its limit, after a *thought*, which may be *unfinished*."""
        made = super().__new__(cls, text)
        made.cut, made.thought, made.unfinished = cut, thought, unfinished
        return made


@dataclass(frozen=True)
class GenerationRequest:
    """The part of a request that many share: they are generated together."""

    stops: tuple[str, ...]
    limit: int
    sampling: Sampling = GREEDY
    thoughts: Thoughts | None = None

    def describe(self, draw: int) -> tuple[str, ...]:
        """Return what decides an answer besides the prompt and its limit; a greedy one needs the stops alone."""
        found = [json.dumps(self.stops)]
        if not self.sampling.is_greedy:
            found.append(json.dumps([asdict(self.sampling), draw]))
        if self.thoughts:
            found.append(json.dumps(asdict(self.thoughts)))
        return tuple(found)


def read_request(options: Mapping[str, Any], job: EvaluateJob | None, thoughts: Thoughts | None) -> GenerationRequest:
    """Return what lm-eval's *options* of a request ask for; what *job* says about generation comes first.

    Without a job, tokens are drawn if the options say so. A task's own temperature does not count against a job's.
    """
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

    given = normalize_gen_kwargs(dict(options), default_max_gen_toks=DEFAULT_NEW_TOKENS)
    stops = tuple(handle_stop_sequences(given["until"], eos=None))
    limit = int(given["max_gen_toks"])
    if job is None:
        own = {name: given[name] for name in ("temperature", "top_p", "top_k", "seed") if given.get(name) is not None}
        return GenerationRequest(stops, limit, Sampling(**own) if own.get("temperature") else GREEDY, thoughts)
    sampling = Sampling(job.temperature, job.top_p, job.top_k, job.seed) if job.temperature else GREEDY
    return GenerationRequest(stops, job.max_new_tokens or limit, sampling, thoughts)


def asks_to_sample(options: Mapping[str, Any]) -> bool:
    """Return whether lm-eval's *options* of a request ask for random tokens."""
    from lm_eval.models.utils import normalize_gen_kwargs

    given = normalize_gen_kwargs(dict(options), default_max_gen_toks=DEFAULT_NEW_TOKENS)
    return bool(given.get("do_sample")) and float(given.get("temperature") or 0.0) > 0.0


def fit_into_context(prompt: int, limit: int, context: int) -> tuple[int, int]:
    """Return (tokens of a prompt that are kept, tokens that its answer may have) in a *context*.

    What does not fit first shortens the answer, down to `LEAST_ANSWER_TOKENS` or the share of the context, and only
    then the prompt.
    """
    least = min(limit, max(1, context // 2), max(LEAST_ANSWER_TOKENS, int(context * LEAST_ANSWER_SHARE)))
    kept = min(prompt, context - least)
    return kept, min(limit, context - kept)


def divide_completion(completion: Completion, thoughts: Thoughts | None) -> GeneratedText:
    """Return the answer in a completion, apart from the thought before it."""
    if completion.thought:
        unfinished = completion.cut and not completion.text.strip()
        return GeneratedText(completion.text, completion.cut, completion.thought, unfinished)
    found = split_thought(completion.text, thoughts)
    return GeneratedText(found.answer, completion.cut, found.thought, found.unfinished)


def pack_completion(completion: Completion) -> bytes:
    """Return the bytes of a completion in the answer store."""
    return json.dumps([completion.text, completion.cut, completion.thought], ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


def unpack_completion(packed: bytes) -> Completion:
    """Return the completion that `pack_completion` packed."""
    return Completion(*json.loads(packed.decode("utf-8", "surrogatepass")))


def number_draws(requests: Sequence[Any]) -> list[int]:
    """Return for each request how many before it are the same object, as lm-eval repeats a request."""
    seen: Counter[int] = Counter()
    numbers = []
    for request in requests:
        numbers.append(seen[id(request)])
        seen[id(request)] += 1
    return numbers
