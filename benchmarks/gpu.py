"""The GPU engine against bfloat16 and other kernels: products, the shape of 2B-4T, evaluation, training. In 5 minutes.

    python benchmarks/gpu.py                                   # every part; answers are checked
    python benchmarks/gpu.py --part product --w2a8 FOLDER      # beside a build of microsoft/BitNet's gpu/bitnet_kernels
    python benchmarks/gpu.py --part product --part model --out FILE.jsonl

FOLDER holds `libbitnet.so` and `pack_weight.py` of that project, built there by its `compile.sh`. A machine without a
network needs torch, Triton, transformers and this project. A part that fails prints its traceback and leaves the rest.
"""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from bitnet_bench.backends.hf.inference import HFSession
from bitnet_bench.backends.ternary.engine import Batch
from bitnet_bench.backends.ternary.gpu_engine import GpuEngine
from bitnet_bench.backends.ternary.gpu_inference import GpuTernarySession
from bitnet_bench.machine.gpu import find_gpu, why_no_gpu, why_no_kernels
from bitnet_bench.ternary.gpu import calls
from bitnet_bench.ternary.gpu.calls import GpuJoinedLayers, QuantizedRows

sys.path.insert(0, str(Path(__file__).parent))
import gpu_evaluation
import gpu_training

Row = dict[str, Any]
SHAPES = ((2560, 2560), (3840, 2560), (13824, 2560), (2560, 6912))
TOKENS = (1, 2, 4, 16, 64, 256, 512, 1024, 4096)
GAMMA = 0.037
READ_BYTES_PER_S, INT8_OPS_PER_S = 3.0e12, 1.5e15
"""Of the floor in the table: an H200 copies at 4.3 TB/s counting both ways."""


def time_graph(works: list[Callable[[], Any]], repeats: int = 12) -> float:
    """Return the median microseconds of one of *works*, which run one after the other in a CUDA graph."""
    for work in works:
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for work in works:
            work()
    graph.replay()
    times = []
    for _ in range(repeats):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        graph.replay()
        ended.record()
        ended.synchronize()
        times.append(began.elapsed_time(ended) * 1e3 / len(works))
    return statistics.median(times)


class W2A8:
    """Microsoft's kernel for one token, from a build of it."""

    def __init__(self, folder: Path) -> None:
        sys.path.insert(0, str(folder))
        from pack_weight import convert_weight_int8_to_int2

        self._pack = convert_weight_int8_to_int2
        self._library = ctypes.CDLL(str(folder / "libbitnet.so"))

    def pack(self, codes: Tensor) -> Tensor:
        """Return *codes* in its layout, on the GPU."""
        packed: Tensor = self._pack(codes.cpu()).cuda()
        return packed

    def multiply(self, q: Tensor, packed: Tensor, shape: tuple[int, int], y: Tensor, scales: Tensor) -> None:
        """Write sum / scales[0] * scales[1..] into bfloat16 *y* [1, N] for int8 q [1, K]."""
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (q, packed, y, scales[:1], scales[1:])]
        sizes = [ctypes.c_int(n) for n in (1, *shape)]
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        self._library.bitlinear_int8xint2(*pointers, *sizes, stream)


def products(w2a8: W2A8 | None) -> Iterator[Row]:
    """Yield microseconds of a product for every shape, weights rotated so that they come from memory."""
    device = torch.device("cuda")
    for shape in SHAPES:
        codes = torch.randint(-1, 2, shape, dtype=torch.int8, device=device)
        copies = [GpuJoinedLayers([(codes, GAMMA, None)], shape[1], device) for _ in range(24)]
        dense = [torch.randn(shape, device=device).bfloat16() for _ in range(24)]
        packed = w2a8.pack(codes) if w2a8 else None
        for tokens in TOKENS:
            few = 24 if tokens < 128 else 6
            yield _product(codes, copies[:few], dense[:few], tokens)
        if w2a8 and packed is not None:
            yield _w2a8_product(w2a8, codes, packed)


def _product(codes: Tensor, copies: list[GpuJoinedLayers], dense: list[Tensor], tokens: int) -> Row:
    rows, columns = codes.shape
    x = torch.randn(tokens, columns, device=codes.device) * 3
    quantized = QuantizedRows.empty(tokens, columns, codes.device)
    calls.quantize_rows(x, quantized)
    y = torch.full((tokens, rows), float("nan"), device=codes.device, dtype=torch.bfloat16)
    narrow, out = x.bfloat16(), torch.empty_like(y)
    exact = (quantized.q[:, :columns].float() @ codes.float().t()) * (quantized.steps * GAMMA)[:, None]
    copies[0].multiply(quantized, y)
    equal = bool((y == exact.bfloat16()).all())

    def whole(weights: GpuJoinedLayers) -> None:
        calls.quantize_rows(x, quantized)
        weights.multiply(quantized, y)

    found: dict[str, list[float]] = {"us": [], "with quantization": [], "bf16_us": []}
    for _ in range(3):  # alternating
        found["us"].append(time_graph([lambda w=w: w.multiply(quantized, y) for w in copies]))
        found["with quantization"].append(time_graph([lambda w=w: whole(w) for w in copies]))
        found["bf16_us"].append(time_graph([lambda w=w: torch.mm(narrow, w.t(), out=out) for w in dense]))
    medians = {name: round(statistics.median(times), 2) for name, times in found.items()}
    moved = rows * columns / 4 + tokens * (columns + 2 * rows)
    floor = max(moved / READ_BYTES_PER_S, 2 * tokens * rows * columns / INT8_OPS_PER_S)
    return {
        "part": "product",
        "shape": f"{rows}x{columns}",
        "tokens": tokens,
        **medians,
        "over bf16": round(medians["us"] / medians["bf16_us"], 2),
        "floor_us": round(1e6 * floor, 2),
        "equal": equal,
    }


def _w2a8_product(w2a8: W2A8, codes: Tensor, packed: Tensor) -> Row:
    rows, columns = codes.shape
    q = torch.randint(-127, 128, (1, columns), dtype=torch.int8, device=codes.device)
    scales = torch.ones(4 + rows, device=codes.device, dtype=torch.bfloat16)
    y = torch.full((1, rows), float("nan"), device=codes.device, dtype=torch.bfloat16)
    w2a8.multiply(q, packed, (rows, columns), y, scales)
    right = torch.allclose(y.float(), q.float() @ codes.float().t(), rtol=1e-2, atol=1.0)
    copies = [packed.clone() for _ in range(24)]
    us = time_graph([lambda p=p: w2a8.multiply(q, p, (rows, columns), y, scales) for p in copies])
    return {"part": "product", "shape": f"{rows}x{columns}", "tokens": 1, "w2a8_us": round(us, 2), "right": right}


class RandomWeights:
    """Random codes and tables of a Llama, in place of a checkpoint's `Weights`."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.checkpoint = SimpleNamespace(inner_norm=None, inner_norm_eps=None, source="random")
        self._random = torch.Generator(device="cuda").manual_seed(1)

    def codes(self, module: str) -> tuple[Tensor, Tensor]:
        """Return random codes of the shape of *module*."""
        config, kind = self.config, module.split(".")[-1].removesuffix("_proj")
        width = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
        rows = {"k": width, "v": width, "gate": config.intermediate_size, "up": config.intermediate_size}
        shape = rows.get(kind, config.hidden_size), config.intermediate_size if kind == "down" else config.hidden_size
        codes = torch.randint(-1, 2, shape, dtype=torch.int8, device="cuda", generator=self._random)
        return codes, torch.tensor(0.02)

    def bias(self, module: str) -> None:
        """Return None: there is none."""

    def has_tensor(self, name: str) -> bool:
        """Return False: the head is the embedding."""
        return False

    def tensor(self, name: str) -> Tensor:
        """Return a random embedding, and norms of ones."""
        shape = self.config.vocab_size, self.config.hidden_size
        if "embed" not in name:
            return torch.ones(self.config.hidden_size, device="cuda")
        return torch.randn(shape, device="cuda", generator=self._random).bfloat16()


def seconds(work: Callable[[], Any]) -> float:
    """Return the seconds of *work*, the GPU's included."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def allocated(make: Callable[[], Any]) -> tuple[Any, float]:
    """Return what *make* makes and the gigabytes that it holds."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    made = make()
    torch.cuda.empty_cache()
    return made, (torch.cuda.memory_allocated() - before) / 1e9


def model(prompt: int = 512, new: int = 128, rounds: int = 5) -> Iterator[Row]:
    """Yield tokens/s of the shape of 2B-4T: our engine and a bfloat16 Llama of transformers, graphs on both sides."""
    from transformers import LlamaConfig

    gpu = find_gpu()
    assert gpu is not None
    config = LlamaConfig(tie_word_embeddings=True, rms_norm_eps=1e-5, **gpu_evaluation.SHAPE)
    tokenizer: Any = SimpleNamespace(eos_token_id=0, name_or_path="random")
    weights: Any = RandomWeights(config)
    with torch.inference_mode():
        engine, ours_gb = allocated(lambda: GpuEngine(weights, config, torch.device("cuda"), torch.bfloat16))
        llama, theirs_gb = allocated(lambda: gpu_evaluation.random_llama(gpu_evaluation.SHAPE, "cuda"))
        yield {"part": "model", "what": "GB of weights", "ternary": round(ours_gb, 3), "bf16": round(theirs_gb, 3)}
        sessions: dict[str, Any] = {
            "ternary": GpuTernarySession(engine, tokenizer, gpu),
            "bf16": HFSession(llama, tokenizer, "bf16"),
        }
        for batch in (1, 16):
            prompts = torch.randint(0, config.vocab_size, (batch, prompt)).tolist()
            for session in sessions.values():
                for _ in range(3):  # eager, captured, replayed
                    session.decode(session.prefill(prompts), new)
            graph = _bf16_prefill(llama, prompts)
            read: dict[str, list[float]] = {"ternary": [], "bf16": [], "bf16 in a graph": []}
            wrote: dict[str, list[float]] = {"ternary": [], "bf16": []}
            for _ in range(rounds):
                for name, session in sessions.items():
                    took = _generate(session, prompts, new)
                    read[name].append(took[0])
                    wrote[name].append(took[1])
                read["bf16 in a graph"].append(seconds(graph))
            yield from _rates("prefill", batch, prompt * batch, read)
            yield from _rates("decode", batch, new * batch, wrote)
        yield from _answers(engine, sessions["ternary"])


def _generate(session: Any, prompts: list[list[int]], new: int) -> tuple[float, float]:
    """Return the seconds of the prompts and of *new* tokens."""
    states: list[Any] = []
    read = seconds(lambda: states.append(session.prefill(prompts)))
    return read, seconds(lambda: session.decode(states.pop(), new))


def _bf16_prefill(llama: Any, prompts: list[list[int]]) -> Callable[[], None]:
    ids = torch.tensor(prompts, device="cuda")

    def read() -> None:
        llama(ids, use_cache=False, logits_to_keep=1)

    read()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        read()

    def replay() -> None:
        assert len(ids)  # the graph reads it
        graph.replay()

    return replay


def _rates(what: str, batch: int, tokens: int, found: dict[str, list[float]]) -> Iterator[Row]:
    rates = {name: round(tokens / statistics.median(times), 1) for name, times in found.items()}
    best = max(rate for name, rate in rates.items() if name != "ternary")
    ratios = [
        min(times[i] for name, times in found.items() if name != "ternary") / found["ternary"][i]
        for i in range(len(found["ternary"]))
    ]
    yield {
        "part": "model",
        "what": f"{what} tokens/s, batch {batch}",
        **rates,
        "over bf16": round(rates["ternary"] / best, 2),
        "least": round(min(ratios), 2),
        "most": round(max(ratios), 2),
    }


def _answers(engine: GpuEngine, session: GpuTernarySession) -> Iterator[Row]:
    """Yield whether graphs give what the engine gives outside of them."""
    prompts = torch.randint(0, engine.config.vocab_size, (2, 40)).tolist()
    state = session.prefill(prompts)
    cache = engine.cache(2, 64)
    tokens = engine.logits(engine.hidden(Batch.from_sequences(prompts), cache)[[39, 79]]).argmax(-1)
    same = [bool((state.tokens == tokens).all())]
    for step in range(8):
        state = session.decode(state, 1)
        placed = Batch(tokens.cpu(), torch.arange(2, dtype=torch.int32), torch.full((2,), 40 + step, dtype=torch.int32))
        tokens = engine.logits(engine.hidden(placed, cache)).argmax(-1)
        same.append(bool((state.tokens == tokens).all()))
    yield {"part": "model", "what": "steps whose tokens are the same in and outside of a graph", "same": same}


def training() -> Iterator[Row]:
    """Yield the optimizer steps of `gpu_training`."""
    setting = gpu_training.Setting("cuda", rounds=5, steps=8)
    for row in gpu_training.measure(setting):
        yield {"part": "training", **vars(row)}


def main(
    part: Annotated[
        list[str] | None, typer.Option(help="product, model, evaluation or training; all if left out")
    ] = None,
    w2a8: Annotated[Path | None, typer.Option(help="a build of microsoft/BitNet's gpu/bitnet_kernels")] = None,
    out: Annotated[Path | None, typer.Option(help="write all rows there, as JSON lines")] = None,
) -> None:
    """Measure on the GPU of this machine."""
    gpu = find_gpu()
    why = why_no_gpu() if gpu is None else why_no_kernels(gpu)
    if gpu is None or why:
        raise SystemExit(f"Nothing is measured: {why}.")
    print(f"{gpu.describe()}, torch {torch.__version__}")
    peer = W2A8(w2a8) if w2a8 else None
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "product": lambda: products(peer),
        "model": model,
        "evaluation": lambda: iter(gpu_evaluation.measure("kobest")),
        "training": training,
    }
    for name in part or parts:
        began = time.perf_counter()
        try:
            for row in parts[name]():
                line = json.dumps(row, ensure_ascii=False)
                print(line, flush=True)
                if out:
                    with out.open("a", encoding="utf-8") as file:
                        file.write(line + "\n")
        except Exception:  # the others are measured
            traceback.print_exc(file=sys.stdout)
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    typer.run(main)
