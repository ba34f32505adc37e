"""Commands take a GGUF file where they take a folder, and give the folder's results."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bitnet_bench.checkpoints.gguf.exports import find_gguf_file, is_itself, is_own_precision, open_for_precision
from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile
from bitnet_bench.checkpoints.gguf.types import Q6_K, pack_tensor, unpack_tensor
from bitnet_bench.checkpoints.gguf.writing import embedding_type, write_gguf
from bitnet_bench.checkpoints.hub import push_checkpoint
from bitnet_bench.checkpoints.locate import load_config, open_checkpoint
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.machine.runtime_choice import default_precision
from bitnet_bench.measurement.candidates import make_candidates
from bitnet_bench.runs.folder import load_record, load_training_record

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def quiet(done: int, total: int, note: str = "") -> None:
    """Tell nobody."""


@pytest.fixture
def ternary_file(tmp_path: Path) -> Path:
    """Give the embedded ternary model as I2_S."""
    write_gguf(open_checkpoint("demo"), "i2_s", tmp_path / "ternary.gguf", quiet)
    return tmp_path / "ternary.gguf"


@pytest.fixture
def float_file(tmp_path: Path) -> Path:
    """Give the embedded FP16 model as F16."""
    write_gguf(open_checkpoint("demo-fp16"), "f16", tmp_path / "float.gguf", quiet)
    return tmp_path / "float.gguf"


def test_a_file_scores_as_its_folder_row_by_row(float_file: Path, ternary_file: Path, run_command: Run) -> None:
    """F16 holds the folder's very values: predictions are equal, and the record names the file with its digest."""
    folder = float_file.parent
    for model, name in ((str(float_file), "a"), ("demo-fp16", "b"), (str(ternary_file), "c"), ("demo", "d")):
        done = run_command(
            "evaluate", "--suite", "sample", "--task", "copa", "--task", "sentineg", "--limit", "6",
            "--model", model, "--out", name, "--no-cache",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    for ours, theirs in (("a", "b"), ("c", "d")):
        for task in ("copa", "sentineg"):
            file = next((folder / ours / "samples").glob(f"*{task}*"))
            assert file.read_text() == (folder / theirs / "samples" / file.name).read_text()
    record = load_record(folder / "a")
    assert record.checkpoint.source == str(float_file)
    assert record.checkpoint.sha256 == open_checkpoint(str(float_file)).sha256
    assert (load_record(folder / "c").backend, load_record(folder / "c").precision) == ("ternary", "ternary")


def test_inspect_says_that_it_is_a_file(ternary_file: Path, run_command: Run) -> None:
    """As JSON too: format, types, and the layers with their zeros."""
    found = json.loads(run_command("inspect", str(ternary_file), "--json").stdout)
    assert found["checkpoint"]["format"] == "packed"
    assert set(found["checkpoint"]["gguf_types"]) == {"F16", "F32", "I2_S"}
    assert len(found["layers"]) == 28
    assert "packed, in a GGUF file" in run_command("inspect", str(ternary_file)).stdout


@pytest.mark.parametrize("form", ["packed", "masters", "baked", "bitlinear"])
def test_a_ternary_file_becomes_a_folder_without_loss(form: str, ternary_file: Path, run_command: Run) -> None:
    """Codes and scales are compared by `convert` itself; the tokenizer comes along."""
    done = run_command("convert", str(ternary_file), "out", "--to", form)
    assert done.returncode == 0, done.stderr
    found = open_checkpoint(str(ternary_file.parent / "out"))
    assert (found.format, found.gguf_types) == (form, {})
    ours, theirs = Weights(found), Weights(open_checkpoint("demo"))
    for module in theirs.ternary:
        (codes, gamma), (other, scale) = ours.codes(module), theirs.codes(module)
        assert torch.equal(codes, other)
        assert abs(gamma / scale - 1) < 1e-6
    assert (ternary_file.parent / "out" / "tokenizer.json").is_file()


def test_a_float_file_becomes_a_float_folder_only(float_file: Path, ternary_file: Path, run_command: Run) -> None:
    """Its values are kept; it is no ternary model, and a ternary one is no float."""
    assert run_command("convert", str(float_file), "out", "--to", "float").returncode == 0
    found = open_checkpoint(str(float_file.parent / "out"))
    assert (found.format, found.dtype) == ("float", "float16")
    for name in Weights(found).floats:
        assert torch.equal(Weights(found).tensor(name), Weights(open_checkpoint("demo-fp16")).tensor(name))
    for file, form, said in (
        (float_file, "packed", "not trained to be ternary"),
        (ternary_file, "float", "Convert it to baked"),
    ):
        done = run_command("convert", str(file), "other", "--to", form)
        assert done.returncode == 1
        assert said in done.stderr


def test_training_goes_on_from_a_file(ternary_file: Path, run_command: Run) -> None:
    """From codes as from those of a folder; the record names the file."""
    rows = ternary_file.parent / "rows.jsonl"
    rows.write_text('{"prompt": "안녕?", "response": "네, 안녕하세요."}\n' * 4, encoding="utf-8")
    done = run_command(
        "finetune", "--model", str(ternary_file), "--data", str(rows), "--out", "trained", "--max-steps", "1",
        "--lr", "1e-30", "--batch-size", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = load_training_record(ternary_file.parent / "trained")
    assert record is not None
    assert record.base.source == str(ternary_file)
    ours, theirs = Weights(open_checkpoint(str(ternary_file.parent / "trained"))), Weights(open_checkpoint("demo"))
    for module in theirs.ternary:
        assert torch.equal(ours.codes(module)[0], theirs.codes(module)[0])


def test_embeddings_are_written_as_q6_k_on_request(tmp_path: Path) -> None:
    """As bitnet.cpp recommends; read again within the step of 6 bits."""
    from bitnet_bench.checkpoints.gguf.exports import export_gguf

    found = export_gguf("demo", "i2_s", tmp_path / "model.gguf", embeddings="q6_k")
    assert found.types["Q6_K"] == 6144 * 210
    checkpoint = open_checkpoint(str(tmp_path / "model.gguf"))
    name = "model.embed_tokens.weight"
    ours, theirs = Weights(checkpoint).tensor(name), Weights(open_checkpoint("demo")).tensor(name).float()
    assert (ours - theirs).abs().max() < theirs.abs().max() / 31
    with pytest.raises(BenchError, match="no whole blocks of 256"):
        embedding_type("i2_s", 320, "q6_k")


def test_q6_k_rounds_within_half_a_step() -> None:
    """Blocks of zeros and groups of zeros stay zero, one large value keeps its size, and errors are those of 6 bits."""
    values = np.random.default_rng(0).standard_normal((8, 512)).astype(np.float32)
    values[0, :256], values[1, 16:32], values[2, 5] = 0, 0, 100
    found = unpack_tensor(pack_tensor(values, Q6_K), Q6_K, values.shape)
    assert not found[0, :256].any()
    assert not found[1, 16:32].any()
    assert abs(found[2, 5] / 100 - 1) < 0.01
    groups, errors = values.reshape(-1, 16), np.abs(found - values).reshape(-1, 16)
    ordinary = np.abs(values).reshape(-1, 256).max(axis=1).repeat(16) < 50
    assert (errors.max(axis=1) <= np.abs(groups).max(axis=1) / 28 + 1e-2)[ordinary].all()
    assert np.sqrt((errors[ordinary] ** 2).mean()) < 0.02


def test_a_runtime_of_gguf_runs_the_file_itself(float_file: Path, ternary_file: Path, tmp_path: Path) -> None:
    """At the precision that it stores; at another one an export is made of it, and what cannot be made is named."""
    floats, ternary = open_checkpoint(str(float_file)), open_checkpoint(str(ternary_file))
    assert find_gguf_file(floats) == float_file
    assert (default_precision(floats, "llamacpp"), default_precision(ternary, "llamacpp")) == ("fp16", "ternary")
    assert default_precision(floats) in ("fp32", "bf16")
    own = open_for_precision(floats, "fp16", None)
    assert own.path == float_file
    assert is_itself(floats, own)
    exported = open_for_precision(floats, "q8_0", None)
    assert exported.path != float_file
    assert not is_itself(floats, exported)
    assert is_own_precision(ternary, "i2_s")
    assert not is_own_precision(ternary, "ternary")  # llama.cpp reads no I2_S: it is exported
    assert open_for_precision(ternary, "ternary", None).tensors["blk.0.attn_q.weight"].kind.name == "TQ2_0"
    with pytest.raises(BenchError, match="has no q4_k weights"):
        open_for_precision(floats, "q4_k", None)
    candidates = make_candidates([str(float_file)], (), None, backends=("llamacpp", "hf"))
    assert [(one.backend, one.precision) for one in candidates] == [
        ("llamacpp", "fp16"), ("hf", "fp16"), ("hf", "bf16"),
    ]  # fmt: skip


def test_a_file_is_not_pushed(float_file: Path) -> None:
    """A card is beside a folder's files."""
    with pytest.raises(UsageError, match="is a file, and a checkpoint folder is pushed"):
        push_checkpoint(float_file, "ORG/NAME", private=True, runs=[], hub=SimpleNamespace())  # type: ignore[arg-type]


def test_a_file_of_the_hub_is_named_with_its_repository(
    float_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And with its revision, if it is another than the newest; the record has the one that was downloaded."""
    import huggingface_hub

    asked: list[tuple[str, str, str | None]] = []
    place = tmp_path / "snapshots" / "abc123" / "gguf"
    place.mkdir(parents=True)
    float_file.rename(place / "float.gguf")

    def download(repo: str, file: str, revision: str | None = None) -> str:
        asked.append((repo, file, revision))
        return str(place.parent / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    found = open_checkpoint("hub:ORG/NAME@main/gguf/float.gguf")
    assert asked == [("ORG/NAME", "gguf/float.gguf", "main")]
    assert (found.source, found.revision) == ("hub:ORG/NAME@main/gguf/float.gguf", "abc123")
    open_checkpoint("hub:ORG/NAME/gguf/float.gguf")
    assert asked[-1] == ("ORG/NAME", "gguf/float.gguf", None)
    with pytest.raises(UsageError, match="names no file of the hub"):
        open_checkpoint("hub:ORG/NAME")
    with pytest.raises(BenchError, match="would have to be downloaded"):
        load_config("hub:ORG/NAME/float.gguf")


def test_the_file_of_a_split_model_is_its_first_part(float_file: Path) -> None:
    """llama.cpp asks for it, and finds the others."""
    assert GgufFile(find_gguf_file(open_checkpoint(str(float_file)))).architecture == "bitnet"
