"""Base of all torch sessions: requests are cut into batches, and texts and log-probabilities come back."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby, islice, pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

from bitnet_bench.backends.streaming import count_unsure, draw_tokens, find_end
from bitnet_bench.backends.token_choice import NO_TOKEN, Sampler, choose_greedy
from bitnet_bench.backends.transfers import PendingTensors, send
from bitnet_bench.data.templates import find_special_ids
from bitnet_bench.data.thoughts import find_answer_start
from bitnet_bench.errors import BenchError, GpuLostError, NotFiniteError
from bitnet_bench.machine.gpu import first_error_line, is_gpu_failure, is_out_of_memory
from bitnet_bench.protocols import ALL_REQUESTS, GREEDY, Completion, Sampling, Session, Share, Thoughts
from bitnet_bench.runs.choices import Precision

Ids = tuple[int, ...]
TreePosition = tuple[int, int, int]
"""A token as (tree of the batch, branch, offset in the branch); offset -1 of branch 0 is the context's last token."""


@dataclass(frozen=True)
class Tree:
    """A context and the inputs that branch off it, such as a document and its choices without their last token."""

    context: Ids
    branches: tuple[Ids, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the context and of every branch."""
        return len(self.context), *map(len, self.branches)

    def __len__(self) -> int:
        return sum(self.shape)


@dataclass(frozen=True)
class Prompt:
    """A prompt to continue: at most *limit* tokens follow; *draw* numbers the answers to equal prompts."""

    ids: Ids
    limit: int
    draw: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def room(self) -> int:
        """Tokens of the prompt and of the longest answer."""
        return len(self.ids) + self.limit


@dataclass(frozen=True)
class Writing:
    """How prompts are continued: how tokens are chosen, and where a text ends."""

    stop: Sequence[str] = ()
    sampling: Sampling = GREEDY
    thoughts: Thoughts | None = None


Row = TypeVar("Row", Prompt, Tree)
Item = TypeVar("Item")
Work = TypeVar("Work")
Answer = tuple[float, bool]
Collect = Callable[[], list[tuple[int, Answer]]]
"""Function that waits for the (request, answer) pairs of a batch that was started."""

SHORTEST_PREFIX = 16
"""Least tokens of a shared prefix: a shorter one costs more to keep than to read again."""
TOKENS_PER_BATCH = 512
"""Tokens of a batch: on two cores, products reach their full rate at 100 (kernel) to 256 tokens, and more tokens only
cost attention and memory."""
ROOM_PER_BATCH = 2**16
"""Most tokens that prompts of a batch and their longest answers have together: their keys and values are held."""
LOGITS_AT_ONCE = 2**24
"""Most logits held at a time: 64 MB in float32."""


def split_by_padded_budget(items: Sequence[Item], cost: Callable[[Item], int], budget: int) -> Iterator[list[Item]]:
    """Cut *items* as `split_by_budget` does, but each costs as much as the longest of its batch."""
    batch: list[Item] = []
    longest = 0
    for item in items:
        longest = max(longest, cost(item))
        if batch and longest * (len(batch) + 1) > budget:
            yield batch
            batch, longest = [], cost(item)
        batch.append(item)
    if batch:
        yield batch


def split_by_budget(items: Sequence[Item], cost: Callable[[Item], int], budget: int) -> Iterator[list[Item]]:
    """Cut *items*, in their order, into batches that cost at most *budget* or hold one item."""
    batch: list[Item] = []
    spent = 0
    for item in items:
        if batch and spent + cost(item) > budget:
            yield batch
            batch, spent = [], 0
        batch.append(item)
        spent += cost(item)
    if batch:
        yield batch


@contextmanager
def explain_gpu_failures() -> Iterator[None]:
    """Turn the error of a failed GPU into a GpuLostError that says how to continue."""
    try:
        yield
    except RuntimeError as error:
        if not is_gpu_failure(error):
            raise
        raise GpuLostError(
            f"The GPU failed: {first_error_line(error)}.",
            "What was answered before is kept: the same command goes on from there. If it fails again, look at "
            "`nvidia-smi` and `dmesg`, or run on the CPU with CUDA_VISIBLE_DEVICES= before the command.",
        ) from error


class BatchedSession(Session, adds=("queue", "release", "wait")):
    """A session on top of the few methods in which torch backends differ."""

    shares_contexts = True
    """True if `hidden` takes trees with several branches; if not, every branch comes with its own context."""
    budget: int
    """Tokens of a batch; reduced whenever a batch does not fit into memory."""
    _sampler: Sampler | None = None
    """Draws the tokens of the batch that is being continued; None if they are greedy."""
    _to_write: int = 0
    """Most tokens that are written after the prompts that are read next, where that is known."""
    _shown: frozenset[int] = frozenset()
    """Special tokens that stay in the texts of that batch."""
    ends: frozenset[int] = frozenset()
    """Ids that end an answer in addition to the tokenizer's EOS; set when a checkpoint is opened."""

    def __init__(self, tokenizer: Any, precision: Precision, max_length: int, vocabulary: int) -> None:
        self.tokenizer = tokenizer
        self.precision: Precision = precision
        self.max_length = max_length
        self.budget = TOKENS_PER_BATCH
        self._head_rows = max(1, LOGITS_AT_ONCE // vocabulary)
        self.in_flight = 0
        """Batches that are still computing while the next one is prepared: 1 on a GPU."""

    @abstractmethod
    def batches(self, rows: list[Row], prefix: int) -> Iterator[list[Row]]:
        """Cut *rows*, which follow *prefix* tokens, into batches within the budget, longest rows first."""

    @abstractmethod
    def read_prefix(self, prefix: Ids) -> None:
        """Prepare for `hidden` of trees that follow *prefix*, which may be empty; forget the prefix before it."""

    @abstractmethod
    def hidden(self, batch: list[Tree], places: list[TreePosition]) -> Tensor:
        """Return the head's inputs [len(places), H]; each tree follows the prefix that was read last."""

    @abstractmethod
    def head(self, hidden: Tensor) -> Tensor:
        """Return logits [N, V] of *hidden* [N, H]."""

    @abstractmethod
    def prefill(self, batch: Sequence[Sequence[int]]) -> Any:
        """Read prompts, choose the first new token of each, and return a state with `tokens` [B]."""

    @abstractmethod
    def decode(self, state: Any, steps: int) -> Any:
        """Choose *steps* more tokens for every row, one after the other."""

    def queue(self, state: Any) -> Any:
        """Start to choose one more token for every row; return the coming state, or None if `decode` must be used."""
        return None

    def wait(self) -> None:
        """Wait until everything queued on a GPU is done."""
        if self.device == "cuda":
            if self.before_waiting is not None:
                self.before_waiting()
            torch.cuda.synchronize()

    def release(self) -> None:
        """Free what is kept from one batch to the next, when memory is short."""

    def loglikelihood(
        self, requests: Sequence[tuple[Sequence[int], Sequence[int]]], part: Share = ALL_REQUESTS
    ) -> Iterator[list[tuple[int, Answer]]]:
        """Yield, batch by batch, (index, (summed log-probability in nats, greedy)) of each continuation.

        Raise ValueError if a context or a continuation is empty. Requests with the same context are one tree, whose
        context is read once whatever the number of choices, and what all contexts begin with (few-shot examples) is
        read once for all.
        """
        if not all(len(context) and len(continuation) for context, continuation in requests):
            raise ValueError("a context or a continuation has no token")
        prefix = self._common_prefix([context for context, _ in requests])
        grouped: dict[Ids, dict[Ids, list[int]]] = defaultdict(lambda: defaultdict(list))
        for i, (context, continuation) in enumerate(requests):
            grouped[tuple(context[len(prefix) :])][tuple(continuation[:-1])].append(i)
        trees = [tree for context, branches in grouped.items() for tree in self._trees(context, tuple(branches))]

        def unknown(tree: Tree) -> Tree | None:
            left = [b for b in tree.branches if not part.known.issuperset(grouped[tree.context][b])]
            return Tree(tree.context, tuple(left)) if left else None

        def started(batch: list[Tree]) -> Collect:
            picks = [
                (t, b, i)
                for t, tree in enumerate(batch)
                for b, branch in enumerate(tree.branches)
                for i in grouped[tree.context][branch]
            ]
            collect = self._score(batch, picks, requests)
            return lambda: list(zip([i for _, _, i in picks], collect(), strict=True))

        def batches() -> Iterator[Collect]:
            ready = False
            for batch in self._skip_known(self.batches(trees, len(prefix)), unknown, part):
                if not ready:
                    self.read_prefix(prefix)
                    ready = True
                yield from self._run_in_memory(batch, started, lambda: self.read_prefix(prefix))

        try:
            with explain_gpu_failures():
                yield from self._collect_in_turn(batches())
        finally:
            with suppress(RuntimeError):  # the GPU may have failed
                self.read_prefix(())

    def _collect_in_turn(self, batches: Iterator[Collect]) -> Iterator[list[tuple[int, Answer]]]:
        """Yield the answers of *batches* in order, each after `in_flight` more batches have been started.

        If a batch fails, those started before it are still answered.
        """
        started: deque[Collect] = deque()
        failure: Exception | None = None
        try:
            for collect in batches:
                started.append(collect)
                if len(started) > self.in_flight:
                    yield started.popleft()()
        except Exception as error:
            if is_gpu_failure(error):
                raise
            failure = error
        while started:
            yield started.popleft()()
        if failure is not None:
            raise failure

    @staticmethod
    def _skip_known(
        batches: Iterator[list[Row]], unknown: Callable[[Row], Row | None], part: Share
    ) -> Iterator[list[Row]]:
        """Yield this worker's batches without the rows whose answers are known."""
        for batch in islice(batches, part.worker, None, part.workers):
            left = [row for row in map(unknown, batch) if row is not None]
            if left:
                yield left

    def _run_in_memory(
        self, batch: list[Row], work: Callable[[list[Row]], Work], forget: Callable[[], None]
    ) -> Iterator[Work]:
        """Yield the *work* of *batch*, in parts if memory is too small for the whole.

        *forget* resets the session after a pass that was cut off.
        """
        waiting: deque[list[Row]] = deque([batch])
        while waiting:
            some = waiting.popleft()
            cut = list(split_by_budget(some, len, self.budget))
            if len(cut) > 1:
                waiting.extendleft(reversed(cut))
                continue
            done = self._try_batch(some, work)
            if done is not None:
                yield done
                continue
            if len(some) == 1:
                raise BenchError(
                    f"A prompt of {len(some[0])} tokens does not fit into memory beside the weights.",
                    "Use a machine with more memory, a smaller model, or leave this task out with `task`.",
                )
            self.budget = max(1, sum(map(len, some)) // 2)
            forget()
            if self.device == "cuda":
                torch.cuda.empty_cache()
            waiting.appendleft(some)

    @staticmethod
    def _try_batch(batch: list[Row], work: Callable[[list[Row]], Work]) -> Work | None:
        """Return the *work* of *batch*, or None if memory is too small for it."""
        try:
            return work(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _common_prefix(self, contexts: Sequence[Sequence[int]]) -> Ids:
        """Return the common beginning of *contexts*, without the last token of any; () if it is too short to share."""
        distinct = {tuple(context) for context in contexts}
        if not self.shares_contexts or len(distinct) < 2:
            return ()
        first, last = min(distinct), max(distinct)  # in the order of their ids, so all others are between them
        shortest = min(map(len, distinct))
        common = next((i for i in range(shortest) if first[i] != last[i]), shortest - 1)
        return first[:common] if common >= SHORTEST_PREFIX else ()

    def _trees(self, context: Ids, branches: tuple[Ids, ...]) -> list[Tree]:
        return [Tree(context, branches)] if self.shares_contexts else [Tree(context, (b,)) for b in branches]

    def _score(
        self,
        batch: list[Tree],
        picks: list[tuple[int, int, int]],
        requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    ) -> Callable[[], list[Answer]]:
        """Start one forward pass over *batch*; the returned function waits for the result of each of *picks*.

        A pick is (tree, branch, request).
        """
        places: dict[TreePosition, int] = {}
        rows: list[int] = []
        targets: list[int] = []
        for t, b, i in picks:
            continuation = requests[i][1]
            for offset in range(-1, len(continuation) - 1):
                place = (t, b if offset >= 0 else 0, offset)
                rows.append(places.setdefault(place, len(places)))
            targets += continuation
        collect = self._start_logprobs(self.hidden(batch, list(places)), torch.tensor(rows), torch.tensor(targets))

        def results() -> list[Answer]:
            logprobs, greedy = collect()
            ends = list(accumulate(len(requests[i][1]) for _, _, i in picks))
            spans = pairwise([0, *ends])
            return [(sum(logprobs[start:end]), all(greedy[start:end])) for start, end in spans]

        return results

    def _start_logprobs(
        self, hidden: Tensor, rows: Tensor, targets: Tensor
    ) -> Callable[[], tuple[list[float], list[bool]]]:
        """Start to compute the log-probability of each of *targets* [N] at its row of *hidden* [P, H].

        The returned function waits for them, and for whether each is greedy. Logits of the whole vocabulary are held
        for a bounded number of rows at a time.
        """
        order: list[Tensor] = []
        logprobs: list[Tensor] = []
        greedy: list[Tensor] = []
        for start in range(0, len(hidden), self._head_rows):
            logits = self.head(hidden[start : start + self._head_rows]).float()
            inside = ((rows >= start) & (rows < start + len(logits))).nonzero()[:, 0]
            at, wanted = send(rows[inside] - start, logits.device), send(targets[inside], logits.device)
            order.append(inside)
            logprobs.append(logits[at, wanted] - logits.logsumexp(-1)[at])
            greedy.append(logits.argmax(-1)[at] == wanted)
        arriving = PendingTensors([torch.cat(logprobs), torch.cat(greedy)])

        def collect() -> tuple[list[float], list[bool]]:
            back = torch.cat(order).argsort()
            found, same = arriving.wait()
            return found[back].tolist(), same[back].tolist()

        return collect

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop: Sequence[str],
        part: Share = ALL_REQUESTS,
        sampling: Sampling = GREEDY,
        draws: Sequence[int] = (),
        thoughts: Thoughts | None = None,
    ) -> Iterator[list[tuple[int, Completion]]]:
        """Yield, batch by batch, (index, continuation) up to EOS or another end, a stop string, or the limit.

        Equal prompts are continued once, or once for each number of a draw if tokens are drawn.
        """
        by_input: dict[Prompt, list[int]] = defaultdict(list)
        for i, prompt in enumerate(prompts):
            limit = max(1, min(max_new_tokens, self.max_length - len(prompt)))
            draw = draws[i] if draws and not sampling.is_greedy else 0
            by_input[Prompt(tuple(prompt), limit, draw)].append(i)
        writing = Writing(stop, sampling, thoughts)

        def unknown(row: Prompt) -> Prompt | None:
            return None if part.known.issuperset(by_input[row]) else row

        def texts(batch: list[Prompt]) -> list[tuple[int, Completion]]:
            try:
                written = self._continue(batch, writing)
            except NotFiniteError as error:
                error.request = by_input[batch[error.request]][0]
                raise
            return [(i, text) for row, text in zip(batch, written, strict=True) for i in by_input[row]]

        whole = self.batches(list(by_input), 0)
        batches = (some for batch in whole for some in split_by_budget(batch, lambda row: row.room, ROOM_PER_BATCH))
        with explain_gpu_failures():
            for batch in self._skip_known(batches, unknown, part):
                yield from self._run_in_memory(batch, texts, self.release)

    def _continue(self, batch: Sequence[Prompt], writing: Writing) -> list[Completion]:
        """Return the continuation of each prompt."""
        self._sampler = None
        if not writing.sampling.is_greedy:
            self._sampler = Sampler(writing.sampling, [row.ids for row in batch], [row.draw for row in batch])
        self._shown = self._find_special_marks(writing.thoughts)
        try:
            return self._write_texts(batch, writing)
        finally:
            self._sampler, self._shown = None, frozenset()

    def _write_texts(self, batch: Sequence[Prompt], writing: Writing) -> list[Completion]:
        longest = max(row.limit for row in batch)
        state = self.prefill([row.ids for row in batch])
        written: list[list[int]] = [[] for _ in batch]
        texts: list[Completion | None] = [None] * len(batch)
        for step in range(longest):
            arriving = PendingTensors([state.tokens])
            queued = self.queue(state) if step < longest - 1 else None  # it computes while the texts are decoded
            (tokens,) = arriving.wait()
            for b, (row, token) in enumerate(zip(batch, tokens.tolist(), strict=True)):
                if texts[b] is None:
                    if token == NO_TOKEN:
                        raise NotFiniteError(b, self.precision)
                    written[b].append(token)
                    texts[b] = self._find_finished_text(written[b], writing)
                    if texts[b] is None and step == row.limit - 1:
                        texts[b] = Completion(self._decode_text(written[b]), cut=True)
            if all(text is not None for text in texts):
                break
            state = self.decode(state, 1) if queued is None else queued
        return [text for text in texts if text is not None]

    def _choose(self, logits: Tensor) -> Tensor:
        """Return the next token [N] of each row of *logits* [N, V]: drawn while `generate` draws, else greedy."""
        return choose_greedy(logits) if self._sampler is None else self._sampler.choose(logits)

    def _find_special_marks(self, thoughts: Thoughts | None) -> frozenset[int]:
        """Return the marks of *thoughts* that are special tokens, which decoding would leave out."""
        if thoughts is None:
            return frozenset()
        marks = [self.tokenizer.convert_tokens_to_ids(mark) for mark in (thoughts.begin, thoughts.end)]
        return self._special & frozenset(marks)

    def stream(
        self, prompt: Sequence[int], max_new_tokens: int, stop: Sequence[str] = (), **options: Any
    ) -> Generator[str, None, tuple[int, bool]]:
        """Yield the continuation of one prompt as its tokens come, and return (new tokens, whether the limit ended it).

        Bytes of a character whose others are not there yet, and what may become a stop string, are held back.
        """
        marks = [mark for mark in stop if mark]
        with explain_gpu_failures(), draw_tokens(self, prompt, max_new_tokens, **options):
            state = self.prefill([tuple(prompt)])
            written: list[int] = []
            shown = ""
            while True:
                token = int(state.tokens[0])
                if token == NO_TOKEN:
                    raise NotFiniteError(0, self.precision)
                written.append(token)
                ended = find_end(self, written, marks)
                is_cut = ended is None and len(written) >= max_new_tokens
                text = self._decode_text(written) if ended is None else ended
                sure = text if ended is not None or is_cut else text[: len(text) - count_unsure(text, marks)]
                if len(sure) > len(shown):
                    yield sure[len(shown) :]
                    shown = sure
                if ended is not None or is_cut:
                    return len(written), is_cut
                state = self.decode(state, 1)

    @cached_property
    def _special(self) -> frozenset[int]:
        return find_special_ids(self.tokenizer)

    def _find_finished_text(self, ids: list[int], writing: Writing) -> Completion | None:
        """Return the text if the last of *ids* ends it, else None; a stop string inside a thought does not."""
        if ids[-1] == self.tokenizer.eos_token_id or ids[-1] in self.ends:
            return Completion(self._decode_text(ids[:-1]))
        marks = [mark for mark in writing.stop if mark]
        if not marks:
            return None
        text = self._decode_text(ids)
        start = find_answer_start(text, writing.thoughts)
        if start is None:
            return None
        cuts = [text.index(mark, start) for mark in marks if mark in text[start:]]
        if cuts:
            return Completion(text[: min(cuts)])
        return None if self._special.isdisjoint(ids) else self._cut_at_special(ids, marks, writing.thoughts)

    def _cut_at_special(self, ids: list[int], marks: Sequence[str], thoughts: Thoughts | None) -> Completion | None:
        """Return the text before the first stop string that contains special tokens, or None if there is none."""
        whole: str = self.tokenizer.decode(ids)
        start = find_answer_start(whole, thoughts)
        if start is None:
            return None
        cuts = [whole.index(mark, start) for mark in marks if mark in whole[start:]]
        if not cuts:
            return None
        before = len(ids)
        while len(left := self.tokenizer.decode(ids[:before])) > min(cuts):
            before -= 1
        return Completion(self._decode_text(ids[:before]) + whole[len(left) : min(cuts)])

    def _decode_text(self, ids: list[int]) -> str:
        """Return *ids* as text without special tokens, except the marks of thoughts."""
        if self._shown.isdisjoint(ids):
            text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
            return text
        runs = groupby(ids, self._shown.__contains__)
        return "".join(self.tokenizer.decode(list(some), skip_special_tokens=not shown) for shown, some in runs)
