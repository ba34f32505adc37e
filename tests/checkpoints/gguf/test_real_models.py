"""Two pretrained models as GGUF score as their folders do; skipped where the models are not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

import bitnet_bench
from bitnet_bench.backends.libllama.builds import LIBRARY_VARIABLE
from bitnet_bench.checkpoints.gguf.exports import export_gguf
from bitnet_bench.checkpoints.gguf.tokenizer import save_tokenizer
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
LARGEST_DIFFERENCE: dict[GgufType, float] = {"f16": 0.001, "bf16": 0.001, "q8_0": 0.5, "q4_0": 10.0}
"""Mean |difference| in nats of a log-likelihood; an answer of KoBEST has up to a hundred tokens of SmolLM2's."""
LARGEST_RUNTIME_DIFFERENCE = 1.0
"""That of llama.cpp, which rounds what layers multiply to 8 bits, for an answer of some twenty tokens."""
DEMO_BF16_DIFFERENCE = 0.02
"""That of the embedded model in BF16, which rounds it: it is stored in float16, and the real ones in bfloat16."""
CHOICES = ("boolq", "copa", "wic", "hellaswag", "sentineg")
"""Tasks of `sample` that are scored by likelihood."""
DEMO = Path(bitnet_bench.__file__).parent / "demo" / "fp16"
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


@pytest.fixture
def leave_folder(tmp_path: Path) -> Callable[[str], Path]:
    """Give what makes a folder of a model by its name that can be taken away, of links to its files."""

    def leave(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        source = DEMO if name == "demo-fp16" else Path(os.environ[MODELS_VARIABLE]) / name
        for file in source.iterdir():
            (folder / file.name).symlink_to(file)
        return folder

    return leave


def score(model: str, out: Path, *, whole: bool) -> list[Example]:
    """Return the examples of `model` on `sample` and on 20 rows of each task of KoBEST; less where not *whole*.

    Less is likelihoods alone: 10 rows of each task of KoBEST, or 8 of each of `sample` that has choices.
    """
    data = os.environ.get(DATA_VARIABLE)
    parts: list[tuple[str, tuple[str, ...], int | None]] = [("sample", (), None)] if whole else []
    if data:
        parts.append(("kobest", (), 20 if whole else 10))
    elif not whole:
        parts.append(("sample", CHOICES, 8))
    found = []
    for suite, tasks, limit in parts:
        job = EvaluateJob(backend="hf", precision="fp32", limit=limit, data_dir=data)
        chosen = select_tasks([suite], tasks, data_dir=Path(data) if data else None)
        record = evaluate(model, chosen, out / suite, job)
        assert not record.errors
        found += load_samples(out / suite, list(record.samples))
    return found


@pytest.mark.parametrize("name", ["demo-fp16", *SHIPPED])
def test_a_real_model_scores_as_its_folder_in_every_type(
    name: str, leave_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """F16 gives every answer of the folder, text included, when the folder is gone; other types stay near it."""
    folder = leave_folder(name)
    wanted = score(str(folder), tmp_path / "folder", whole=True)
    files = {form: tmp_path / f"{form}.gguf" for form in LARGEST_DIFFERENCE}
    for form, file in files.items():
        export_gguf(str(folder), form, file)
    shutil.rmtree(folder)
    for form, bound in LARGEST_DIFFERENCE.items():
        found = score(str(files[form]), tmp_path / form, whole=form == "f16")
        rounds = form == "bf16" and name == "demo-fp16"
        assert _compare(f"{name} {form}", found, wanted) < (DEMO_BF16_DIFFERENCE if rounds else bound)
        if form == "f16":
            assert [one.output for one in found] == [one.output for one in wanted]
    if name in SHIPPED:
        shipped = Path(os.environ[MODELS_VARIABLE]) / SHIPPED[name]
        found = score(str(shipped), tmp_path / "shipped", whole=False)
        assert _compare(f"{name} shipped", found, wanted) < LARGEST_DIFFERENCE["q8_0"]  # the folder is rounded to BF16


def _compare(what: str, ours: list[Example], theirs: list[Example]) -> float:
    """Print and return the mean difference in nats of the rows of *ours*, which are among those of *theirs*."""
    others = {(one.task, one.doc_id): one for one in theirs}
    pairs = [(one, others[one.task, one.doc_id]) for one in ours]
    equal = sum(one.output == other.output for one, other in pairs)
    difference = _compute_difference(*map(list, zip(*pairs, strict=True)))
    print(f"{what}: {equal} of {len(pairs)} answers equal, {difference:.2g} nats", flush=True)
    return difference


def _compute_difference(ours: list[Example], theirs: list[Example]) -> float:
    pairs = [
        (a, b)
        for one, other in zip(ours, theirs, strict=True)
        for a, b in zip(one.loglikelihoods, other.loglikelihoods, strict=True)
    ]
    return sum(abs(a - b) for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_ids_of_a_shipped_file_are_its_folders(name: str, tmp_path: Path) -> None:
    """From tokens and merges or scores alone: neither file holds a tokenizer.json."""
    models = Path(os.environ[MODELS_VARIABLE])
    file = models / SHIPPED[name]
    fields = read_whole(file)[0]
    assert WHOLE_TOKENIZER_KEY not in fields
    save_tokenizer(file, fields, tmp_path)
    ours = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    theirs = load_tokenizer(open_checkpoint(str(models / name)))
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
    assert _compare(f"{name} in llama.cpp", ours, theirs) < LARGEST_RUNTIME_DIFFERENCE
