"""What sessions over libllama share, over a library that computes with the project's own exact engine."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from bitnet_bench.backends.llama_session import LlamaSession, Logits, TokenBatch, compare_with_checkpoint, open_session
from bitnet_bench.backends.reference import source_logits
from bitnet_bench.backends.ternary.engine import Batch, Engine
from bitnet_bench.checkpoints.gguf.exports import open_or_export_gguf
from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile
from bitnet_bench.checkpoints.loading import load_tokenizer
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.checkpoints.parity import encode_prompts
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.protocols import sort_answers
from bitnet_bench.runs.records import Checkpoint


class EngineLibrary:
    """A `Library` whose logits are a checkpoint's own, or those of it with another activation."""

    def __init__(self, checkpoint: Checkpoint, activation: str | None = None) -> None:
        config = AutoConfig.from_pretrained(checkpoint.path)
        config.hidden_act = activation or config.hidden_act
        self._engine, self._tokenizer = Engine(Weights(checkpoint), config), load_tokenizer(checkpoint)
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
            whole = {s: self._whole(self._rows[s]) for s in {s for s, _ in asked}}
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

    def _whole(self, row: list[int]) -> Logits:
        found: Logits = self._engine.logits(
            self._engine.hidden(Batch.from_sequences([row]), self._engine.cache(1, len(row)))
        ).numpy()
        return found


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

    parity = compare_with_checkpoint(demo, file, "tq2_0", "a runtime", load, "relu2")
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


def test_another_activation_is_named(demo: Checkpoint, file: GgufFile) -> None:
    """A runtime that computes SiLU agrees better with the checkpoint run with SiLU than with the checkpoint."""
    parity = compare_with_checkpoint(demo, file, "tq2_0", "a runtime", lambda only: EngineLibrary(demo, "silu"), "silu")
    assert parity.fault == "a runtime computes SiLU where the checkpoint has a squared ReLU"


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
