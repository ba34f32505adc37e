"""The `bitnetcpp` backend: its shim over a fake libllama of two generations, and over a real build if one is named."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import bitnet_bench
from bitnet_bench.backends.bitnetcpp import BitnetCppBackend
from bitnet_bench.backends.bitnetcpp.build import BuildLibrary
from bitnet_bench.backends.llama_session import LlamaSession
from bitnet_bench.backends.reference import source_logits
from bitnet_bench.checkpoints.gguf.exports import open_or_export_gguf
from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.checkpoints.parity import encode_prompts
from bitnet_bench.errors import BenchError
from bitnet_bench.machine.environment import find_compiler as find_compiler
from bitnet_bench.measurement.candidates import Candidate
from bitnet_bench.measurement.measure import measure
from bitnet_bench.measurement.scenario import Scenario
from bitnet_bench.protocols import RuntimeOptions, sort_answers
from bitnet_bench.runs.records import Checkpoint

FAKE = Path(__file__).with_name("fake_llama")
DEMO = Path(bitnet_bench.__file__).parent / "demo" / "ternary"
SHORT = Scenario(prompt_tokens=16, new_tokens=4, rounds=1, threads=1)
CC = find_compiler()
compiler = pytest.mark.skipif(CC is None, reason="no C compiler")
real = pytest.mark.skipif("BITNETCPP_DIR" not in os.environ, reason="BITNETCPP_DIR names no build of microsoft/BitNet")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep exported files and shims of a test to itself."""
    monkeypatch.setenv("BITNET_BENCH_GGUF", str(tmp_path / "gguf"))


@pytest.fixture
def demo(tmp_path: Path) -> GgufFile:
    """Give the embedded model's export."""
    return open_or_export_gguf(open_checkpoint("demo"), "i2_s", None)


@pytest.fixture(params=["OLD", "NEW"])
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Give the folder of a build, whose libllama is the fake one of a generation."""
    root, generation = tmp_path / "BitNet", request.param
    headers, library = root / "3rdparty/llama.cpp/include", root / "build/3rdparty/llama.cpp/src"
    for folder in (headers, library, root / "3rdparty/llama.cpp/ggml/include"):
        folder.mkdir(parents=True)
    other = {"OLD": "// NEW", "NEW": "// OLD"}[generation]
    lines = (FAKE / "llama.h.in").read_text().splitlines()
    (headers / "llama.h").write_text("\n".join(line for line in lines if not line.endswith(other)))
    made = ["-shared", "-fPIC", f"-D{generation}", f"-I{headers}", str(FAKE / "llama.c")]
    subprocess.run([str(CC), *made, "-o", str(library / "libllama.so")], check=True)
    return root


def _backend(build: Path, allow_mismatch: bool = False) -> BitnetCppBackend:
    return BitnetCppBackend().configured(RuntimeOptions(directory=str(build), allow_mismatch=allow_mismatch))


def _session(build: Path, file: GgufFile) -> LlamaSession:
    return LlamaSession(BuildLibrary(_backend(build).find_build(), file), file, None, "i2_s")


def _expected(ids: list[int]) -> torch.Tensor:
    """Return what llama.c computes after *ids*."""
    total = sum(token * (i + 1) for i, token in enumerate(ids))
    return 1.0 + (np.arange(300) * 31 + total) % 101


@compiler
def test_the_shim_reads_what_it_is_given(build: Path, demo: GgufFile) -> None:
    """Sequences of several lengths side by side, logits in the order that was asked for, then greedy tokens."""
    session = _session(build, demo)
    assert (session.library.vocabulary, session.max_length) == (300, 128)
    assert session.library.tokenize("가a") == [0xEA, 0xB0, 0x80, 0x61]
    rows = [[5, 6, 7], [9], [1, 2, 3, 4]]
    found = session.logits(rows, [(2, 3), (0, 0), (0, 2), (1, 0), (0, 0)])
    for row, ids in zip(found, ([1, 2, 3, 4], [5], [5, 6, 7], [9], [5]), strict=True):
        assert row.tolist() == list(_expected(ids))
    state = session.decode(session.prefill(rows), 3)
    assert state.lengths == [6, 4, 7]
    for row, token in zip(rows, state.tokens.tolist(), strict=True):
        for _ in range(3):
            row.append(int(_expected(row).argmax()))
        assert token == int(_expected(row).argmax())
    long = list(range(200)) * 12
    assert session.logits([long], [(0, 2399)])[0].tolist() == list(_expected(long))
    session.close()


@compiler
def test_a_build_that_computes_another_model_is_refused(build: Path) -> None:
    """The fake one gives logits of a vocabulary of its own: the gate says so, and opening refuses."""
    backend, checkpoint = _backend(build), open_checkpoint("demo")
    parity = backend.check(checkpoint, "ternary")
    assert "no logits of the shape" in str(parity.fault)
    assert parity.runtime.startswith("bitnet.cpp (no commit, built 20")
    with pytest.raises(BenchError, match="no logits of the shape"), backend.open(checkpoint, "ternary"):
        pass
    with _backend(build, allow_mismatch=True).open(checkpoint, "ternary") as session:
        assert session.precision == "ternary"


@compiler
def test_a_build_that_fails_says_it_in_its_own_words(
    build: Path, demo: GgufFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that does not load, a call that fails, a token that is lost, and too little memory."""
    session = _session(build, demo)
    with pytest.raises(MemoryError):
        session.library.make_room(2_000_000, 1)
    session.library.make_room(64, 1)
    state = session.prefill([[1, 2, 3]])
    monkeypatch.setenv("FAKE_FAULT", "lost")
    with pytest.raises(BenchError, match=r"holds \[4\] tokens where \[5\] were read"):
        session.decode(state, 2)
    monkeypatch.setenv("FAKE_FAULT", "status")
    with pytest.raises(BenchError, match=r"failed with status -3. the graph is broken"):
        session.prefill([[1, 2, 3]])
    with pytest.raises(BenchError, match="exceed the 1024"):
        session.decode(state, 5000)
    demo.path.write_bytes(b"GGML" + demo.path.read_bytes()[4:])
    with pytest.raises(BenchError, match=r"does not load .* invalid magic characters"):
        _session(build, demo)


@compiler
def test_the_shim_is_compiled_once_for_a_build(
    build: Path, demo: GgufFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second session takes the same file; without a compiler that works, and a new header does not."""
    _session(build, demo).close()
    shims = tmp_path / "gguf" / "shims"
    (first,) = shims.iterdir()
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    _session(build, demo).close()
    assert list(shims.iterdir()) == [first]
    header = build / "3rdparty/llama.cpp/include/llama.h"
    header.write_text(header.read_text().replace("llama_batch_init", "llama_batch_make"))
    with pytest.raises(BenchError, match="No C compiler"):
        _session(build, demo)
    monkeypatch.undo()
    monkeypatch.setenv("BITNET_BENCH_GGUF", str(tmp_path / "gguf"))
    with pytest.raises(BenchError, match=r"interface of this bitnet.cpp is not known.*llama_batch_init"):
        _session(build, demo)
    header.unlink()
    with pytest.raises(BenchError, match=r"no 3rdparty/llama.cpp/include/llama\.h"):
        _session(build, demo)


def test_no_build_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder, with an empty one, and for types that only its own converter writes."""
    monkeypatch.delenv("BITNETCPP_DIR", raising=False)
    checkpoint = open_checkpoint("demo")
    with pytest.raises(BenchError, match="your own build"):
        BitnetCppBackend().check(checkpoint, "i2_s")
    with pytest.raises(BenchError, match=r"There is no build/3rdparty/llama.cpp/src/libllama\.so"):
        _backend(tmp_path).check(checkpoint, "i2_s")
    monkeypatch.setenv("BITNETCPP_DIR", str(tmp_path))
    with pytest.raises(BenchError, match=r"There is no build/3rdparty/llama.cpp/src/libllama\.so"):
        BitnetCppBackend().check(checkpoint, "i2_s")
    with pytest.raises(BenchError, match="own converter"):
        BitnetCppBackend().check(checkpoint, "tl2")
    with pytest.raises(BenchError, match="not run at fp16"):
        BitnetCppBackend().check(checkpoint, "fp16")


@real
def test_the_embedded_model_passes_in_a_real_build() -> None:
    """bitnet.cpp computes the squared ReLU: weights, tokens and log-probabilities are the checkpoint's, and scores."""
    checkpoint = open_checkpoint("demo")
    parity = BitnetCppBackend().check(checkpoint, "i2_s")
    assert parity.fault is None
    assert parity.same_tokens
    assert parity.relative_error is not None
    assert parity.relative_error < 0.02
    ids = encode_prompts(checkpoint)[0].tolist()
    with BitnetCppBackend().open(checkpoint, "i2_s") as session:
        (answer,) = sort_answers(session.loglikelihood([(ids[:4], ids[4:9])]))
    ours = source_logits(checkpoint, [torch.tensor(ids[:8])]).log_softmax(-1)
    assert answer[0] == pytest.approx(sum(float(ours[i + 3, ids[i + 4]]) for i in range(5)), rel=0.02)
    (record,) = measure([Candidate("demo", "i2_s", None, "bitnetcpp")], SHORT, meter="none")
    assert record.costs
    assert not record.cost_errors


@real
def test_a_real_build_is_caught_computing_another_activation(tmp_path: Path) -> None:
    """A BitNet with SiLU, which bitnet.cpp runs with its squared ReLU, is named."""
    from bitnet_bench.checkpoints.config import read_config
    from bitnet_bench.checkpoints.random_weights import write_random_checkpoint

    config = read_config(DEMO) | {"num_hidden_layers": 2, "hidden_act": "silu", "initializer_range": 0.1}
    write_random_checkpoint(config, 0, "autobitlinear", tmp_path / "silu", DEMO, lambda done, total, note="": None)
    checkpoint: Checkpoint = open_checkpoint(str(tmp_path / "silu"))
    parity = BitnetCppBackend().check(checkpoint, "i2_s")
    assert "a squared ReLU where the checkpoint has SiLU" in str(parity.fault)
