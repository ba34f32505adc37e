"""Two pretrained models as GGUF score as their folders do; skipped where the models are not."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from bitnet_bench.backends.libllama.builds import LIBRARY_VARIABLE
from bitnet_bench.checkpoints.gguf.exports import export_gguf
from bitnet_bench.checkpoints.gguf.tokenizer import build_tokenizer
from bitnet_bench.checkpoints.gguf.vocabulary import WHOLE_TOKENIZER_KEY
from bitnet_bench.checkpoints.loading import load_tokenizer
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.runs.choices import GgufType
from bitnet_bench.runs.folder import load_samples
from bitnet_bench.runs.jobs import EvaluateJob
from bitnet_bench.runs.records import Example

from .gguf_writer import read_whole

MODELS_VARIABLE, DATA_VARIABLE = "BITNET_BENCH_REAL_MODELS", "BITNET_BENCH_DATA"
"""Folders of the models and of the rows of KoBEST."""
SHIPPED = {
    "smollm2-135m-instruct": "SmolLM2-135M-Instruct.Q4_1.gguf",
    "gemma-3-270m": "gemma-3-270m-q4_k_m.gguf",
}
LARGEST_DIFFERENCE: dict[GgufType, float] = {"f16": 0.001, "bf16": 0.001, "q8_0": 0.5, "q4_0": 5.0}
"""Mean |difference| in nats of a log-likelihood."""
TEXTS = (
    "안녕하세요. 2026년 서울의 날씨는?",
    "Hello, world!",
    "😀🇰🇷",
    "<bos>안녕<eos> <|im_start|>네<|im_end|>",
    " \n\n  끝",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get(MODELS_VARIABLE), reason=f"{MODELS_VARIABLE} names no folder with the two models"
    ),
]


def score(model: str, out: Path) -> list[Example]:
    """Return the examples of `model`, on the suite `sample` and on 20 rows of each task of KoBEST where they are."""
    data = os.environ.get(DATA_VARIABLE)
    suites = ["sample", *(["kobest"] if data else [])]
    job = EvaluateJob(backend="hf", precision="fp32", limit=20, data_dir=data)
    record = evaluate(model, select_tasks(suites, data_dir=Path(data) if data else None), out, job)
    assert not record.errors
    return load_samples(out, list(record.samples))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_real_model_scores_as_its_folder_in_every_type(name: str, tmp_path: Path) -> None:
    """F16 gives every prediction of the folder, and so does the file that the folder was made from."""
    models = Path(os.environ[MODELS_VARIABLE])
    wanted = score(str(models / name), tmp_path / "folder")
    for form, bound in LARGEST_DIFFERENCE.items():
        file = tmp_path / f"{form}.gguf"
        export_gguf(str(models / name), form, file)
        found = score(str(file), tmp_path / form)
        assert _compute_difference(found, wanted) < bound
        if form == "f16":
            assert [one.output for one in found] == [one.output for one in wanted]
        file.unlink()
    found = score(str(models / SHIPPED[name]), tmp_path / "shipped")
    assert _compute_difference(found, wanted) < LARGEST_DIFFERENCE["bf16"] * 20  # the folder was rounded to bfloat16


def _compute_difference(ours: list[Example], theirs: list[Example]) -> float:
    pairs = [
        (a, b)
        for one, other in zip(ours, theirs, strict=True)
        for a, b in zip(one.loglikelihoods, other.loglikelihoods, strict=True)
    ]
    return sum(abs(a - b) for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_ids_of_a_shipped_file_are_its_folders(name: str) -> None:
    """From tokens and merges or scores alone: neither file holds a tokenizer.json."""
    models = Path(os.environ[MODELS_VARIABLE])
    file = models / SHIPPED[name]
    fields = read_whole(file)[0]
    assert WHOLE_TOKENIZER_KEY not in fields
    ours, theirs = build_tokenizer(file, fields), load_tokenizer(open_checkpoint(str(models / name)))
    for text in TEXTS:
        assert ours(text).input_ids == theirs(text).input_ids, text


@pytest.mark.parametrize("name", SHIPPED)
def test_llama_cpp_runs_a_shipped_file_itself(name: str, tmp_path: Path) -> None:
    """The file's own bytes, compared with `hf` on the same file by the gate before a row is scored."""
    if find_spec("xllamacpp") is None and not os.environ.get(LIBRARY_VARIABLE):
        pytest.skip("no libllama is installed or named")
    models = Path(os.environ[MODELS_VARIABLE])
    job = EvaluateJob(backend="llamacpp", limit=8)
    record = evaluate(str(models / SHIPPED[name]), select_tasks(["sample"], ["copa"]), tmp_path / "run", job)
    assert record.precision == ("q4_1" if "SmolLM2" in SHIPPED[name] else "q5_0")
    hf = EvaluateJob(backend="hf", precision="fp32", limit=8)
    evaluate(str(models / SHIPPED[name]), select_tasks(["sample"], ["copa"]), tmp_path / "hf", hf)
    ours, theirs = (load_samples(tmp_path / run, ["sample:copa"]) for run in ("run", "hf"))
    assert _compute_difference(ours, theirs) < 1.0
