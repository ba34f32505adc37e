"""What sessions over libllama share, over a library that computes with the project's own exact engine."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig
from transformers.activations import ACT2FN

from bitnet_bench.backends.libllama.token_batch import Logits, TokenBatch
from bitnet_bench.backends.llama_session import LlamaSession, compare_with_checkpoint, open_session
from bitnet_bench.backends.reference import source_logits
from bitnet_bench.backends.ternary.engine import Batch, Engine
from bitnet_bench.checkpoints.gguf.exports import open_or_export_gguf
from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile
from bitnet_bench.checkpoints.loading import load_model, load_tokenizer
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.checkpoints.parity import encode_prompts
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.protocols import Sampling, sort_answers
from bitnet_bench.runs.records import Checkpoint, RuntimeParity

Forward = Callable[[list[int]], Tensor]


class FakeLibrary:
    """A `Library` whose logits [T, V] of a row of ids are what *forward* computes."""

    def __init__(self, checkpoint: Checkpoint, forward: Forward) -> None:
        config = AutoConfig.from_pretrained(checkpoint.path)
        self._forward, self._tokenizer = forward, load_tokenizer(checkpoint)
        self.vocabulary, self.trained_context = config.vocab_size, config.max_position_embeddings
        self.rooms: list[tuple[int, int]] = []
        self.closed = False

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of *text*."""
        return list(self._tokenizer(text).input_ids)

    def make_room(self, tokens: int, sequences: int) -> None:
        """Note what was asked for."""
        self.rooms.append((tokens, sequences))

    def forget(self) -> None:
        """Empty the context."""
        self._rows: dict[int, list[int]] = {}

    def read(self, tokens: TokenBatch) -> None:
        """Read tokens, whose positions must follow what was read, and compute the logits that are wanted."""
        asked = []
        for token, position, sequence, wanted in zip(
            tokens.ids.tolist(),
            tokens.positions.tolist(),
            tokens.sequences.tolist(),
            tokens.wanted.tolist(),
            strict=True,
        ):
            row = self._rows.setdefault(sequence, [])
            assert position == len(row)
            row.append(token)
            if wanted:
                asked.append((sequence, position))
        with torch.inference_mode():
            whole = {s: self._forward(self._rows[s]).numpy() for s in {s for s, _ in asked}}
        self._found = np.stack([whole[s][p] for s, p in asked])

    def logits(self, rows: int) -> Logits:
        """Return what `read` computed."""
        assert rows == len(self._found)
        return self._found

    def count_held_tokens(self, sequence: int) -> int:
        """Return how many tokens were read of *sequence*."""
        return len(self._rows[sequence])

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True


class EngineLibrary(FakeLibrary):
    """A `Library` whose logits are a checkpoint's own."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        engine = Engine(Weights(checkpoint), AutoConfig.from_pretrained(checkpoint.path))
        super().__init__(
            checkpoint,
            lambda row: engine.logits(engine.hidden(Batch.from_sequences([row]), engine.cache(1, len(row)))),
        )


@pytest.fixture
def demo() -> Checkpoint:
    """Give the embedded BitNet."""
    return open_checkpoint("demo")


@pytest.fixture
def file(demo: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GgufFile:
    """Give its export."""
    monkeypatch.setenv("BITNET_BENCH_GGUF", str(tmp_path))
    return open_or_export_gguf(demo, "tq2_0", None)


def test_a_right_runtime_passes_and_scores_as_the_checkpoint(demo: Checkpoint, file: GgufFile) -> None:
    """Side by side, alone and in decoding; what it opened is closed."""
    opened = []

    def load(vocabulary_only: bool) -> EngineLibrary:
        opened.append(EngineLibrary(demo))
        return opened[-1]

    parity = compare_with_checkpoint(demo, file, "tq2_0", "a runtime", load)
    assert parity.fault is None
    assert parity.same_tokens
    assert parity.relative_error == pytest.approx(0, abs=1e-4)
    assert [library.closed for library in opened] == [True, True]
    ids = [row.tolist() for row in encode_prompts(demo)]
    session = LlamaSession(EngineLibrary(demo), file, load_tokenizer(demo), "tq2_0")
    answers = sort_answers(session.loglikelihood([(row[:5], row[5:9]) for row in ids]))
    for (logprob, _), row in zip(answers, ids, strict=True):
        ours = source_logits(demo, [torch.tensor(row[:8])]).log_softmax(-1)
        assert logprob == pytest.approx(sum(float(ours[i + 4, row[i + 5]]) for i in range(4)), abs=1e-3)
    state = session.decode(session.prefill([row[:6] for row in ids]), 2)
    assert state.lengths == [8] * len(ids)
    with_token = [*ids[0][:6], *session.prefill([ids[0][:6]]).tokens.tolist()]
    again = session.prefill([with_token]).tokens.tolist()
    assert state.tokens[0] == session.prefill([[*with_token, *again]]).tokens[0]


Change = Callable[[Any, pytest.MonkeyPatch], None]


def _compute_activation(name: str) -> Change:
    def change(model: Any, patch: pytest.MonkeyPatch) -> None:
        for layer in model.model.layers:
            patch.setitem(layer.mlp._modules, "act_fn", ACT2FN[name])

    return change


def _leave_out_norms(model: Any, patch: pytest.MonkeyPatch) -> None:
    for layer in model.model.layers:
        patch.setitem(layer.self_attn._modules, "attn_sub_norm", torch.nn.Identity())
        patch.setitem(layer.mlp._modules, "ffn_sub_norm", torch.nn.Identity())


def _leave_out_one_norm(model: Any, patch: pytest.MonkeyPatch) -> None:
    for layer in model.model.layers:
        patch.setitem(layer.self_attn._modules, "attn_sub_norm", torch.nn.Identity())


def _rotate_with_another_base(model: Any, patch: pytest.MonkeyPatch) -> None:
    frequencies = model.model.rotary_emb.inv_freq
    half = len(frequencies)
    patch.setitem(model.model.rotary_emb._buffers, "inv_freq", 500_000.0 ** -(torch.arange(half) / half))


def _rotate_neighbours(model: Any, patch: pytest.MonkeyPatch) -> None:
    """Rotate values 2i and 2i + 1 of a head by the angle i, as llama.cpp does for the architecture `llama`."""

    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        half = cos.shape[-1] // 2
        cos, sin = cos[:, None, :, :half], sin[:, None, :, :half]

        def turn(x: Tensor) -> Tensor:
            a, b = x[..., ::2], x[..., 1::2]
            return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)

        return turn(q), turn(k)

    patch.setattr(sys.modules[type(model).__module__], "apply_rotary_pos_emb", rotate)


CHANGES: dict[str, tuple[Change, str]] = {
    "SiLU": (_compute_activation("silu"), "computes SiLU where the checkpoint has a squared ReLU"),
    "ReLU": (_compute_activation("relu"), "computes ReLU where the checkpoint has a squared ReLU"),
    "no SubLN": (_leave_out_norms, "leaves out the norms inside the blocks (SubLN)"),
    "one norm less": (_leave_out_one_norm, "leaves out one norm inside the blocks (attn_sub_norm)"),
    "rope base": (_rotate_with_another_base, "rotates positions with the base 500,000 where the checkpoint has 10,000"),
    "neighbours": (_rotate_neighbours, "rotates neighbouring values of a head where the checkpoint rotates halves"),
}


@pytest.fixture(scope="module")
def model() -> Any:
    """Give the embedded BitNet as transformers builds it, which shares no code with the reference of the gate."""
    return load_model(open_checkpoint("demo"), "run", "ternary")


def _compare(demo: Checkpoint, file: GgufFile, library: Callable[[], FakeLibrary]) -> RuntimeParity:
    return compare_with_checkpoint(demo, file, "tq2_0", "a runtime", lambda vocabulary_only: library())


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_wrong_runtime_computes_is_named(
    change: str, model: Any, demo: Checkpoint, file: GgufFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another activation, a norm that is missing, another rotation: each is called by its name."""
    make, said = CHANGES[change]
    make(model, monkeypatch)
    parity = _compare(demo, file, lambda: FakeLibrary(demo, lambda row: model(torch.tensor([row])).logits[0].float()))
    assert str(parity.fault).startswith(f"a runtime {said}")
    assert parity.same_tokens


def test_a_runtime_that_computes_the_squared_relu_is_said_to(model: Any, demo: Checkpoint, file: GgufFile) -> None:
    """Both activations were tried: the record names the one that it computes."""
    parity = _compare(demo, file, lambda: FakeLibrary(demo, lambda row: model(torch.tensor([row])).logits[0].float()))
    assert parity.fault is None
    assert parity.activation == "relu2"


def test_a_llama_with_a_squared_relu_is_named(demo: Checkpoint, file: GgufFile, tmp_path: Path) -> None:
    """The other way round, and without an activation that is likely: a checkpoint with SiLU."""
    copied = tmp_path / "silu"
    shutil.copytree(demo.path, copied)
    config = json.loads((copied / "config.json").read_text()) | {"hidden_act": "silu"}
    (copied / "config.json").write_text(json.dumps(config))
    parity = _compare(open_checkpoint(str(copied)), file, lambda: EngineLibrary(demo))
    assert parity.fault == "a runtime computes a squared ReLU where the checkpoint has SiLU"
    assert parity.activation == "relu2"


class RenumberedLibrary(EngineLibrary):
    """A `Library` of the same model whose vocabulary is in another order."""

    def __init__(self, checkpoint: Checkpoint, shift: int) -> None:
        super().__init__(checkpoint)
        forward, size = self._forward, self.vocabulary
        self._shift = shift
        self._forward = lambda row: forward([(i - shift) % size for i in row]).roll(shift, -1)

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of *text* in the other order."""
        return [(i + self._shift) % self.vocabulary for i in super().tokenize(text)]


def test_another_vocabulary_is_named(demo: Checkpoint, file: GgufFile) -> None:
    """One of another size, and one that gives other ids to the same tokens."""

    class Larger(EngineLibrary):
        def __init__(self, checkpoint: Checkpoint) -> None:
            super().__init__(checkpoint)
            forward = self._forward
            self._forward = lambda row: torch.nn.functional.pad(forward(row), (0, 8))
            self.vocabulary += 8

    size = Engine(Weights(demo), AutoConfig.from_pretrained(demo.path)).head.rows
    parity = _compare(demo, file, lambda: Larger(demo))
    said = f"a runtime has a vocabulary of {size + 8:,} tokens where the checkpoint has {size:,}"
    assert parity.fault == said
    parity = _compare(demo, file, lambda: RenumberedLibrary(demo, 3))
    assert "has another vocabulary: it computes the same with other ids for the same tokens" in str(parity.fault)


def test_another_tokenizer_is_remarked_and_no_fault(demo: Checkpoint, file: GgufFile) -> None:
    """A runtime that puts a token before the text, or reads it in other parts, computes the model all the same."""

    class WithStart(EngineLibrary):
        def tokenize(self, text: str) -> list[int]:
            return [7, *super().tokenize(text)]

    class Bytes(EngineLibrary):
        def tokenize(self, text: str) -> list[int]:
            return list(text.encode())

    parity = _compare(demo, file, lambda: WithStart(demo))
    assert parity.fault is None
    assert not parity.same_tokens
    assert str(parity.remark).endswith("it puts 7 before the text")
    assert "for “안녕하세요. 오늘 서울…”, from the id at 0 on" in str(_compare(demo, file, lambda: Bytes(demo)).remark)


def test_bytes_are_named_by_kind(demo: Checkpoint, file: GgufFile) -> None:
    """Ternary layers are those with codes or a scale beside them, whatever type holds them."""
    session = LlamaSession(EngineLibrary(demo), file, None, "tq2_0")
    kinds = session.weights_by_kind()
    assert {"ternary TQ2_0", "ternary F16", "ternary F32", "embedding F16", "norm F32"} == set(kinds)
    assert session.footprint()[0] == sum(entry.bytes for entry in file.tensors.values())


def test_answers_of_another_build_or_another_file_are_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two versions of a runtime, or two files of --gguf, shared the answers that are kept."""
    monkeypatch.setenv("BITNET_BENCH_GGUF", str(tmp_path))
    checkpoint = open_checkpoint("demo")
    file = open_or_export_gguf(checkpoint, "tq2_0", None)

    def arithmetic(runtime: str) -> str:
        with open_session(checkpoint, file, "tq2_0", lambda _: EngineLibrary(checkpoint), runtime) as session:
            return session.arithmetic

    before = arithmetic("llama.cpp 1")
    assert arithmetic("llama.cpp 1") == before
    assert arithmetic("llama.cpp 2") != before
    os.utime(file.path, ns=(1, 1))
    assert arithmetic("llama.cpp 1") != before


def test_a_batch_of_long_answers_has_room_for_all_of_them(demo: Checkpoint, file: GgufFile) -> None:
    """More than twice what the prompts take, which is what is reserved at first; drawn tokens need the same."""

    def forward(row: list[int]) -> torch.Tensor:
        logits = torch.zeros(len(row), 5000)
        logits[:, 50] = 9.0
        return logits

    library = FakeLibrary(demo, forward)
    session = LlamaSession(library, file, load_tokenizer(demo), "tq2_0")
    prompts = [[7, 8, number] for number in range(9, 39)]
    for settings in ({}, {"sampling": Sampling(temperature=0.1)}):
        answers = sort_answers(session.generate(prompts, 40, [], **settings))
        assert {answer.cut for answer in answers} == {True}
        assert len({answer.text for answer in answers}) == 1
    assert library.rooms == [(30 * (3 + 40), 30)], "made once"
