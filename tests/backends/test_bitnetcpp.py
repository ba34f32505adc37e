"""The `bitnetcpp` backend over a fake build, which behaves as the real one's command line and answers do."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest
import torch

from bitnet_bench import api
from bitnet_bench.backends.bitnetcpp import BitnetCppBackend
from bitnet_bench.errors import BenchError
from bitnet_bench.ports import RuntimeOptions, in_order
from bitnet_bench.records import Checkpoint
from bitnet_bench.ternary.parity import prompt_ids

FAKE = Path(__file__).parents[1] / "gguf" / "fake_llama_server.py"
DEMO = Path(api.__file__).parent / "demo" / "ternary"


@pytest.fixture(scope="module")
def bitnet(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Give a random BitNet of one layer, whose columns are whole blocks of I2_S."""
    from bitnet_bench.ternary.config import read_config
    from bitnet_bench.ternary.initializing import initialize

    config = read_config(DEMO) | {"num_hidden_layers": 1, "intermediate_size": 512, "initializer_range": 0.1}
    config["vocab_size"] = 6144
    folder = tmp_path_factory.mktemp("bitnet") / "bitnet"
    initialize(config, 0, "autobitlinear", folder, DEMO, lambda done, total, note="": None)
    return api.open_checkpoint(str(folder))


@pytest.fixture
def build(tmp_path: Path, bitnet: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder of a build, whose server is the fake one."""
    server = tmp_path / "BitNet" / "build" / "bin" / "llama-server"
    server.parent.mkdir(parents=True)
    server.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
    server.chmod(server.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("BITNET_BENCH_GGUF", str(tmp_path / "gguf"))
    monkeypatch.setenv("FAKE_CHECKPOINT", bitnet.path)
    # the gate asks for every token of four prompts; one short prompt shows as much
    monkeypatch.setattr("bitnet_bench.gguf.gate.prompt_ids", lambda checkpoint: prompt_ids(checkpoint)[:1])
    return tmp_path / "BitNet"


def _backend(build: Path, despite: bool = False) -> BitnetCppBackend:
    return BitnetCppBackend().configured(RuntimeOptions(directory=str(build), despite_parity=despite))


def test_a_right_build_passes_scores_and_is_timed(build: Path, bitnet: Checkpoint) -> None:
    """Log-probabilities are the checkpoint's, greedy tokens too, and times are the server's own."""
    from bitnet_bench.gguf.gate import source_logits

    parity = _backend(build).check(bitnet, "i2_s")
    assert parity.fault is None
    assert parity.runtime.startswith("bitnet.cpp (4242 (fake)")
    ids = prompt_ids(bitnet)[0].tolist()[:6]
    with _backend(build).open(bitnet, "i2_s") as session:
        (answer,) = in_order(session.loglikelihood([(ids[:4], ids[4:])]))
        state = session.prefill([ids])
        prefill_s, decode_s, tokens = session.timed([list(range(12))], 5)  # type: ignore[attr-defined]
    ours = source_logits(bitnet, [torch.tensor(ids)]).log_softmax(-1)
    assert answer[0] == pytest.approx(float(ours[3, ids[4]] + ours[4, ids[5]]), abs=1e-4)
    assert state.tokens.tolist() == [int(ours[5].argmax())]
    assert (prefill_s, decode_s, len(tokens)) == (0.02, pytest.approx(0.006), 4)


def test_a_build_with_the_wrong_activation_is_named(
    build: Path, bitnet: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build that computes SiLU for a squared ReLU is another model: opening refuses, unless it is told not to."""
    monkeypatch.setenv("FAKE_ACTIVATION", "silu")
    parity = _backend(build).check(bitnet, "i2_s")
    assert parity.fault is not None
    with pytest.raises(BenchError, match="another model"), _backend(build).open(bitnet, "i2_s"):
        pass
    with _backend(build, despite=True).open(bitnet, "i2_s") as session:
        assert session.precision == "i2_s"


@pytest.mark.parametrize(
    ("fault", "said"),
    [("crash", "wrong shape"), ("garbage", "did not answer as llama-server"), ("count", "read 11 and wrote 5")],
)
def test_a_build_that_fails_is_named(
    fault: str, said: str, build: Path, bitnet: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash gives the server's last words, garbage what it is, and a wrong count of tokens both counts."""
    from bitnet_bench.backends.bitnetcpp.inference import open_session
    from bitnet_bench.gguf.files import file_for

    monkeypatch.setenv("FAKE_FAULT", fault)
    file = file_for(bitnet, "i2_s", None)
    server = build / "build/bin/llama-server"
    with pytest.raises(BenchError, match=said), open_session(server, bitnet, file, "i2_s") as session:
        session.timed([list(range(12))], 5)


def test_no_build_says_how_to_make_one(tmp_path: Path, bitnet: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder, with an empty one, and for types that only its own converter writes."""
    monkeypatch.delenv("BITNETCPP_DIR", raising=False)
    with pytest.raises(BenchError, match="your own build"):
        BitnetCppBackend().check(bitnet, "i2_s")
    with pytest.raises(BenchError, match="There is no build/bin/llama-server"):
        _backend(tmp_path).check(bitnet, "i2_s")
    monkeypatch.setenv("BITNETCPP_DIR", str(tmp_path))
    with pytest.raises(BenchError, match="There is no build/bin/llama-server"):
        BitnetCppBackend().check(bitnet, "tl2")
