"""Time decoding with the stored head, with its bounded copy and with an int8 head, in turns within one process.

    python benchmarks/head.py decode CHECKPOINT
    python benchmarks/head.py rows MODEL

`decode` reads a prompt once, and then each token three times from the same cache, once with each head, in turn.
The tokens of the stored head and of its copy must be equal, or it stops. `--cpu-time` counts the seconds that the
thread ran, with one thread, on a machine that others use too. `rows` counts how many rows of a real model's head are
left by the bounds, on hidden states of texts that the model itself writes, and compares each token with the stored
head's.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor

from bitnet_bench.backends.ternary.engine import Batch, Engine, Head
from bitnet_bench.backends.ternary.greedy_head import GreedyHead
from bitnet_bench.backends.token_choice import choose_greedy
from bitnet_bench.checkpoints.building import load_config_object
from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.ternary import kernel

PROMPTS = (
    "대한민국의 수도는 서울이며, 한강을 끼고 있는 이 도시에는",
    "다음 문장을 읽고 물음에 답하시오. 철수는 어제 시장에서 사과 세 개와 배 두 개를 샀다.",
    "The capital of France is Paris, and the river that runs through it is called the",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
)
app = typer.Typer(add_completion=False)
Choose = Callable[[Tensor], Tensor]


class Heads:
    """The three heads of one table, each of which chooses tokens from hidden states."""

    def __init__(self, engine: Engine) -> None:
        table = engine.head_table
        self.stored, self.bounded, self.int8 = (
            Head(table, int8=kind == "int8") for kind in ("stored", "bounded", "int8")
        )
        self.stored.greedy, self.bounded.greedy = None, GreedyHead(table, least_weights=0)
        self.contestants = {"stored": self.stored, "bounded": self.bounded, "int8": self.int8}


@app.command()
def decode(
    checkpoint: Path,
    threads: int = 1,
    tokens: int = 64,
    prompt_tokens: int = 128,
    rows: int = 1,
    cpu_time: bool = False,
) -> None:
    """Tokens per second with each head, and how many rows of the head the bounds leave."""
    torch.set_num_threads(threads)
    clock = time.thread_time if cpu_time else time.perf_counter
    with torch.inference_mode():
        engine = Engine(Weights(inspect_folder(checkpoint)), load_config_object(checkpoint))
        heads = Heads(engine)
        seconds = _time_steps(engine, heads, rows, prompt_tokens, tokens, clock)
    best, typical = ({name: take(times) for name, times in seconds.items()} for take in (min, statistics.median))
    print(f"threads {threads}, rows {rows}, path {kernel.get_instruction_set()}, load {os.getloadavg()[0]:.1f}")
    print("| head | ms a token, least | median | tokens/s | times the stored head's speed: least, median of pairs |")
    print("| --- | --- | --- | --- | --- |")
    for name, times in seconds.items():
        pairs = [a / b for a, b in zip(seconds["stored"], times, strict=True)]
        print(
            f"| {name} | {best[name] * 1e3:.2f} | {typical[name] * 1e3:.2f} | {1 / typical[name]:.1f} "
            f"| {best['stored'] / best[name]:.2f}, {statistics.median(pairs):.2f} |"
        )
    assert heads.bounded.greedy is not None
    print(f"rows of the stored head that were computed: {heads.bounded.greedy.share:.4%}")


def _time_steps(
    engine: Engine, heads: Heads, rows: int, prompt_tokens: int, tokens: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Return the seconds of each token with each head; AssertionError if the copy chooses another one."""
    random = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, engine.config.vocab_size, (rows, prompt_tokens), generator=random).tolist()
    cache = engine.cache(rows, prompt_tokens + tokens)
    last = torch.arange(1, rows + 1) * prompt_tokens - 1
    chosen = choose_greedy(engine.logits(engine.hidden(Batch.from_sequences(prompts), cache)[last]))
    slots, names = torch.arange(rows, dtype=torch.int32), list(heads.contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for step in range(-2, tokens):  # two to warm up
        batch = Batch(chosen, slots, torch.full((rows,), prompt_tokens + max(0, step), dtype=torch.int32))
        found: dict[str, Tensor] = {}
        for name in names[step % 3 :] + names[: step % 3]:
            engine.head = heads.contestants[name]
            started = clock()
            found[name] = engine.choose(engine.hidden(batch, cache))
            if step >= 0:
                seconds[name].append(clock() - started)
        if not torch.equal(found["stored"], found["bounded"]):
            raise AssertionError(f"step {step}: {found}")
        chosen = found["stored"]
    return seconds


@app.command()
def rows(model: Path, new_tokens: int = 64, prompt: list[str] = list(PROMPTS)) -> None:  # noqa: B006 - Typer's custom
    """How many rows of a real model's head the bounds leave, and whether tokens agree."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.inference_mode():
        hidden = torch.cat([_write(loaded, tokenizer, text, new_tokens) for text in prompt])
        table = loaded.lm_head.weight.bfloat16()
        stored, copy = Head(table, int8=False), kernel.copy_head(table)
        counts, equal, int8 = [], 0, 0
        approximate = Head(table, int8=True)
        for one in hidden.split(1):
            found, expected = kernel.choose_rows(table, copy, one.contiguous()), choose_greedy(stored(one.contiguous()))
            counts.append(int(found.counts))
            equal += int((found.ids == expected).sum())
            int8 += int((choose_greedy(approximate(one.contiguous())) == expected).sum())
    ordered = sorted(counts)
    print(
        f"{model.name}: head {tuple(table.shape)}, {len(counts)} tokens, "
        f"{equal} equal to the stored head's ({int8} int8)"
    )
    print(
        f"rows left: median {statistics.median(counts):.0f}, mean {statistics.mean(counts):.1f}, "
        f"99 % {ordered[len(ordered) * 99 // 100]}, most {ordered[-1]} ({ordered[-1] / len(table):.3%})"
    )


def _write(model: Any, tokenizer: Any, text: str, new_tokens: int) -> Tensor:
    """Return the inputs of the head [new_tokens, hidden] from which *model* continues *text*."""
    ids = tokenizer(text, return_tensors="pt").input_ids
    written = model.generate(ids, max_new_tokens=new_tokens, do_sample=False)
    states: Tensor = model.model(written).last_hidden_state[0, ids.shape[1] - 1 : -1]
    return states


if __name__ == "__main__":
    app()
