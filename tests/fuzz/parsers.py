"""List the parsers of foreign files: for each a valid seed, how it is mutated, and how it is read.

A new parser registers here: a function that writes its valid files into a folder, and one that reads them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from fuzz import answer_parsers, mutations, served_parsers, sweep_parsers
from fuzz.parser import Parser

RUN = Path(__file__).parents[1] / "runs" / "old" / "run"
TRAINED = RUN.parent / "checkpoint"
SHIPPED = Path(__file__).parents[2]
VOCABULARY = 300
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ROWS: tuple[Any, ...] = (
    {"prompt": "한국의 수도는?", "response": "서울이에요."},
    {"messages": [{"role": "system", "content": "짧게"}, {"role": "user", "content": "안녕"},
                  {"role": "assistant", "content": "안녕하세요", "weight": 1}]},
    {"conversations": [{"from": "human", "value": "안녕"}, {"from": "gpt", "value": "네"}]},
    {"instruction": "요약", "input": "긴 글", "output": "짧은 글", "history": [["가", "나"]]},
    {"prompt": "질문", "chosen": "좋은 답", "rejected": "나쁜 답"},
    {"prompt": [{"role": "user", "content": "가"}], "chosen": [{"role": "assistant", "content": "나"}],
     "rejected": [{"role": "assistant", "content": "다"}]},
    {"text": "이어지는 글"},
    {"question": "왜?", "answer": "그래서", "context": "배경"},
    {"system_prompt": "가", "question": "나", "response": "다"},
    {"messages": [{"role": "developer", "content": [{"type": "text", "text": "가"}]}, {"role": "user", "content": "나"},
                  {"role": "assistant", "content": "찾아볼게요",
                   "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
                  {"role": "assistant", "content": "다"}]},
)  # fmt: skip


def write_tokenizer(folder: Path) -> None:
    """Write a byte-level BPE of 300 tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(["안녕하세요 안녕 서울 서울 한국 한국 네 네"], trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    made.chat_template = TEMPLATE
    made.save_pretrained(folder)


@cache
def _checkpoint(kind: str) -> Path:
    """Return a folder, kept for this process, with a tiny checkpoint: `packed`, `float`, or `sharded`."""
    import tempfile

    import torch
    from transformers import AutoModelForCausalLM, BitNetConfig, LlamaConfig

    folder = Path(tempfile.mkdtemp(prefix="bitnet-bench-fuzz-")) / "checkpoint"
    shape = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128}
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = (LlamaConfig if kind != "packed" else BitNetConfig)(**shape, **special)
    torch.manual_seed(0)
    plain = folder if kind != "packed" else folder.with_name("masters")
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(plain, **({"max_shard_size": "100KB"} if kind == "sharded" else {}))
    write_tokenizer(plain)
    if kind == "packed":
        from bitnet_bench.checkpoints.converting import convert_checkpoint
        from bitnet_bench.checkpoints.locate import open_checkpoint
        from bitnet_bench.protocols import no_progress

        convert_checkpoint(open_checkpoint(str(plain)), "packed", folder, no_progress, logits=None)
        file = folder / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        del config["quantization_config"]["sha256"]  # every changed file would be refused for that alone
        file.write_text(json.dumps(config), encoding="utf-8")
    return folder


def _copy_checkpoint(kind: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        shutil.copytree(_checkpoint(kind), folder, dirs_exist_ok=True)

    return prepare


def read_checkpoint(folder: Path) -> None:
    """Describe a checkpoint and load its model."""
    from bitnet_bench.checkpoints.inspect import inspect_folder
    from bitnet_bench.checkpoints.loading import load_model

    checkpoint = inspect_folder(folder)
    load_model(checkpoint, "run", "ternary" if checkpoint.is_ternary else "fp32")


def read_settings(folder: Path) -> None:
    """Read what is used of a config without loading weights."""
    from bitnet_bench.checkpoints.building import list_ternary_shapes, load_config_object, name_config
    from bitnet_bench.checkpoints.config import read_config
    from bitnet_bench.checkpoints.detect import detect_format
    from bitnet_bench.checkpoints.random_weights import find_shape
    from bitnet_bench.checkpoints.shards import Shards

    config = read_config(folder)
    with name_config(folder):
        detect_format(folder, config, Shards(folder))
        list_ternary_shapes(config)
    load_config_object(folder)
    find_shape(str(folder))


def read_tokenizer(folder: Path) -> None:
    """Load a tokenizer and use it as an evaluation does."""
    from bitnet_bench.checkpoints.identity import digest_files
    from bitnet_bench.checkpoints.loading import find_end_ids, load_tokenizer
    from bitnet_bench.data.rows import Row, Turn
    from bitnet_bench.data.templates import find_turn_end, render_row

    digest_files(folder)
    checkpoint = _describe(folder)
    tokenizer = load_tokenizer(checkpoint)
    find_end_ids(checkpoint, tokenizer)
    find_turn_end(tokenizer)
    row = Row((Turn("user", "안녕"), Turn("model", "네")))
    text = render_row(row, "chat" if tokenizer.chat_template else "dialogue", tokenizer).text
    tokenizer.decode(tokenizer(text).input_ids)


def _describe(folder: Path) -> Any:
    from bitnet_bench.checkpoints.inspect import inspect_folder

    return inspect_folder(_checkpoint("float")).model_copy(update={"path": str(folder), "source": str(folder)})


def _copy_suite(folder: Path) -> None:
    shipped = SHIPPED / "tasks" / "sample"
    for file in shipped.glob("*.yaml"):
        shutil.copy(file, folder)
    for task in ("copa", "qa"):
        shutil.copytree(shipped / "data" / task, folder / "data" / task, dirs_exist_ok=True)


def read_suite(folder: Path) -> None:
    """Read a suite, find its rows, and digest its tasks."""
    from bitnet_bench.evaluation.finished import digest_definition
    from bitnet_bench.evaluation.suites import read_suite
    from bitnet_bench.evaluation.tasks import TaskSettings, has_local_rows

    suite = read_suite(folder / "suite.yaml")
    suite.list_runnable_tasks(None)
    for task in suite.tasks[:3]:
        has_local_rows(suite, task, TaskSettings())
        digest_definition(suite, task, TaskSettings())


def read_task(folder: Path) -> None:
    """Build a task on its rows and try them all."""
    from bitnet_bench.evaluation.suites import read_suite
    from bitnet_bench.evaluation.task_run import check_rows
    from bitnet_bench.evaluation.tasks import TaskSettings, build_task

    suite = read_suite(folder / "suite.yaml")
    for name in ("copa", "qa"):
        check_rows(build_task(suite, suite.task(name), TaskSettings()), 3)


def _copy_recipe(folder: Path) -> None:
    shutil.copy(SHIPPED / "recipes" / "sentiment.yaml", folder / "recipe.yaml")


def read_recipe(folder: Path) -> None:
    """Read a recipe and plan its steps."""
    from bitnet_bench.errors import BenchError
    from bitnet_bench.pipeline.recipe import read_recipe
    from bitnet_bench.pipeline.steps import plan_steps

    recipe = read_recipe(folder / "recipe.yaml")
    try:  # what a recipe asks for may not be there: that is no fault of the file
        for step in plan_steps(recipe, folder / "out"):
            _ = step.title
    except BenchError as error:
        _check_sentence(error)


def _copy_run(folder: Path) -> None:
    shutil.copytree(RUN, folder, dirs_exist_ok=True)


def read_record(folder: Path) -> None:
    """Read a run strictly and leniently, compare it, and say what stands in it."""
    from bitnet_bench.cli.output import costs_table, list_notes, scores_table
    from bitnet_bench.comparison.compare_runs import compare_runs
    from bitnet_bench.errors import BenchError
    from bitnet_bench.runs.folder import load_record, load_record_to_extend
    from bitnet_bench.runs.reading import read_run

    run = read_run(folder)
    scores_table([run.record]), costs_table([run.record]), list_notes([run.record])
    compare_runs(folder, RUN)
    for load in (load_record, load_record_to_extend):
        try:
            load(folder)
        except BenchError as error:
            _check_sentence(error)


def read_samples(folder: Path) -> None:
    """Read the answers of a run for a report, a comparison and a sheet."""
    from bitnet_bench.rating.sheet import make_sheet
    from bitnet_bench.runs.reading import read_run

    run = read_run(folder)
    for task in run.examples:
        _ = run.examples[task]
    make_sheet(folder, RUN, folder / "sheet.html", samples=5)


def write_report(folder: Path) -> None:
    """Write a report on a run."""
    from bitnet_bench.reports.write import write_report

    write_report([folder, RUN], folder / "report.html")


def _check_sentence(error: Exception) -> None:
    from fuzz.running import MAX_CHARACTERS

    assert len(str(error)) <= MAX_CHARACTERS, f"a message of {len(str(error))} characters"


def _copy_training(folder: Path) -> None:
    shutil.copytree(TRAINED, folder, dirs_exist_ok=True)


def read_training(folder: Path) -> None:
    """Read the record of a training."""
    from bitnet_bench.runs.folder import load_training_record
    from bitnet_bench.runs.reading import _read_training

    _read_training(folder, [])
    load_training_record(folder)


def _write_rows(folder: Path) -> None:
    lines = (json.dumps(row, ensure_ascii=False) for row in ROWS)
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_list(folder: Path) -> None:
    documents = {
        "data": [
            {"title": "가", "paragraphs": [{"context": "글", "qas": [
                {"question": "무엇?", "id": "1", "answers": [{"text": "글", "answer_start": 0}]}]}]},
        ]
    }  # fmt: skip
    (folder / "rows.json").write_text(json.dumps(documents, ensure_ascii=False), encoding="utf-8")


def _write_table(folder: Path) -> None:
    (folder / "rows.csv").write_text('prompt,response\n안녕,"네, 안녕"\n"가\n나",다\n', encoding="utf-8")


def read_rows(folder: Path) -> None:
    """Read training rows, and look for what is wrong with them."""
    from bitnet_bench.data.checking import examine_rows
    from bitnet_bench.data.rows import read_rows
    from bitnet_bench.errors import BenchError
    from bitnet_bench.evaluation.tasks import normalise_text

    (file,) = folder.glob("rows.*")
    try:
        examine_rows(file, _tokenizer(), "dialogue", 64, {}, normalise_text)
    except BenchError as error:
        _check_sentence(error)
    read_rows(file)


@cache
def _tokenizer() -> Any:
    from bitnet_bench.checkpoints.loading import load_tokenizer

    return load_tokenizer(_describe(_checkpoint("float")))


def read_evaluation_rows(folder: Path) -> None:
    """Read evaluation rows of one's own."""
    from bitnet_bench.evaluation.local_rows import compute_rows_digest, count_rows, read_rows_file

    (file,) = folder.glob("rows.*")
    rows, _lines = read_rows_file(file, "")
    compute_rows_digest(rows)
    count_rows(file)


def _write_evaluation_rows(folder: Path) -> None:
    shutil.copy(SHIPPED / "tasks/sample/data/copa/test.jsonl", folder / "rows.jsonl")


@cache
def _gguf() -> Path:
    from bitnet_bench.checkpoints.gguf.writing import write_gguf
    from bitnet_bench.checkpoints.inspect import inspect_folder
    from bitnet_bench.protocols import no_progress

    out = _checkpoint("packed").parent / "model.gguf"
    write_gguf(inspect_folder(_checkpoint("packed")), "f16", out, no_progress)
    return out


def _copy_gguf(folder: Path) -> None:
    shutil.copy(_gguf(), folder / "model.gguf")


def read_gguf(folder: Path) -> None:
    """Read the header of a GGUF file, all its tensors, and compare it with its checkpoint."""
    from bitnet_bench.checkpoints.gguf.file_parity import compare_weights
    from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile
    from bitnet_bench.checkpoints.inspect import inspect_folder

    file = GgufFile(folder / "model.gguf")
    for name in file.tensors:
        file.values(name), file.scale(name)
    compare_weights(inspect_folder(_checkpoint("packed")), file)


def read_gguf_model(folder: Path) -> None:
    """Open a GGUF file as a model, and read its tokenizer and all its tensors."""
    from bitnet_bench.checkpoints.gguf.cache import GGUF_DIR_VARIABLE
    from bitnet_bench.checkpoints.loading import load_tokenizer
    from bitnet_bench.checkpoints.locate import open_checkpoint
    from bitnet_bench.checkpoints.weights import Weights

    os.environ[GGUF_DIR_VARIABLE] = str(folder / "cache")
    checkpoint = open_checkpoint(str(folder / "model.gguf"))
    weights = Weights(checkpoint)
    for module in weights.ternary:
        weights.panels(module)
    for name in weights.floats:
        weights.tensor(name)
    load_tokenizer(checkpoint)


def _write_ratings(folder: Path) -> None:
    points = {"fluency": 3, "accuracy": 4, "relevance": 5}
    run = {"folder": str(folder / "gone"), "checkpoint_sha256": "aa"}
    key = {
        "kind": "bitnet-bench rating key", "schema_version": 1, "sheet": "aaaa", "seed": 0, "tasks": ["sample:qa"],
        "a": {"name": "a", **run}, "b": {"name": "b", **run}, "left_is_a": [True, False],
    }  # fmt: skip
    rating = {
        "kind": "bitnet-bench rating", "schema_version": 1, "sheet": "aaaa", "rater": "나", "finished": "2026-01-01",
        "judgements": [{"item": i, "left": points, "right": points, "preferred": "left"} for i in range(2)],
    }  # fmt: skip
    (folder / "key.json").write_text(json.dumps(key), encoding="utf-8")
    (folder / "rating.json").write_text(json.dumps(rating, ensure_ascii=False), encoding="utf-8")


def read_ratings(folder: Path) -> None:
    """Summarize ratings."""
    from bitnet_bench.rating.collect import collect_ratings, save_judgement

    save_judgement(*collect_ratings([folder / "key.json", folder / "rating.json"]))


def _write_template(folder: Path) -> None:
    (folder / "chat.jinja").write_text(TEMPLATE, encoding="utf-8")


def read_template(folder: Path) -> None:
    """Render a dialogue through a template file."""
    from bitnet_bench.data.rows import Row, Turn
    from bitnet_bench.data.templates import find_chat_template, render_row

    row = Row((Turn("user", "안녕"), Turn("model", "네")))
    file = str(folder / "chat.jinja")
    find_chat_template(file, [row], _tokenizer())
    render_row(row, file, _tokenizer())


def _write_name(folder: Path) -> None:
    (folder / "name.txt").write_text("org/model-2b", encoding="utf-8")


def read_name(folder: Path) -> None:
    """Find the model of a name, which the hub does not have: there is none here."""
    from bitnet_bench.checkpoints.locate import load_config, open_checkpoint
    from bitnet_bench.errors import BenchError

    name = (folder / "name.txt").read_bytes().decode("utf-8", "surrogateescape")
    for find in (load_config, open_checkpoint):
        try:
            find(name)
        except BenchError as error:
            _check_sentence(error)


def _write_saved_step(folder: Path) -> None:
    from bitnet_bench.training.saved_steps import mark_complete

    for step in (10, 20):
        saved = folder / f"checkpoint-{step}"
        saved.mkdir(parents=True, exist_ok=True)
        (saved / "trainer_state.json").write_text(json.dumps({"global_step": step}), encoding="utf-8")
        mark_complete(saved)
    (folder / ".trainer").mkdir(exist_ok=True)
    (folder / ".trainer/job.json").write_text('{"batch_size": 4, "gradient_accumulation": 1}', encoding="utf-8")


def read_saved_step(folder: Path) -> None:
    """Find the step that a run goes on from."""
    from bitnet_bench.training.saved_steps import find_last_state

    assert find_last_state(folder) in (folder / "checkpoint-10", folder / "checkpoint-20")


def read_claim(folder: Path) -> None:
    """Read the settings that an unfinished run was started with, and go on with them."""
    from bitnet_bench.runs.jobs import FinetuneJob
    from bitnet_bench.training.resume import claim_run_folder, read_started_settings, recall_choices

    read_started_settings(folder)
    recall_choices(FinetuneJob(data=("x",), out=str(folder), batch_size="auto"), None)
    claim_run_folder(folder, {"batch_size": 4}, {})


def _write_trace(folder: Path) -> None:
    (folder / "trace.jsonl").write_text('{"s": 0, "w": 5.0}\n{"s": 9, "w": 6}\n', encoding="utf-8")


def read_trace(folder: Path) -> None:
    """Replay a recorded trace of power."""
    from bitnet_bench.measurement.energy.trace import TraceMeter

    meter = TraceMeter(folder / "trace.jsonl")
    if meter.why_absent() is None:
        meter.start()
        meter.stop()


PARSERS = (
    Parser("config", "config.json", mutations.mutate_json, _copy_checkpoint("packed"), read_settings, 8),
    Parser("float-config", "config.json", mutations.mutate_json, _copy_checkpoint("float"), read_checkpoint, 4),
    Parser("checkpoint", "config.json", mutations.mutate_json, _copy_checkpoint("packed"), read_checkpoint, 3),
    Parser("generation-config", "generation_config.json", mutations.mutate_json, _copy_checkpoint("float"),
           read_tokenizer, 2),
    Parser("tokenizer", "tokenizer.json", mutations.mutate_json, _copy_checkpoint("float"), read_tokenizer, 6),
    Parser("tokenizer-config", "tokenizer_config.json", mutations.mutate_json, _copy_checkpoint("float"),
           read_tokenizer, 6),
    Parser("safetensors", "model.safetensors", mutations.mutate_safetensors, _copy_checkpoint("packed"),
           read_checkpoint, 4),
    Parser("index", "model.safetensors.index.json", mutations.mutate_json, _copy_checkpoint("sharded"),
           read_checkpoint, 3),
    Parser("suite", "suite.yaml", mutations.mutate_yaml, _copy_suite, read_suite, 8),
    Parser("task", "copa.yaml", mutations.mutate_yaml, _copy_suite, read_task, 3, ("sample:copa",)),
    Parser("task-generation", "qa.yaml", mutations.mutate_yaml, _copy_suite, read_task, 3, ("sample:qa",)),
    Parser("task-rows", "data/copa/test.jsonl", mutations.mutate_lines, _copy_suite, read_task, 3, ("sample:copa",)),
    Parser("recipe", "recipe.yaml", mutations.mutate_yaml, _copy_recipe, read_recipe, 8),
    Parser("record", "record.json", mutations.mutate_json, _copy_run, read_record, 8),
    Parser("report", "record.json", mutations.mutate_json, _copy_run, write_report, 1),
    Parser("samples", "samples/sample-qa.jsonl", mutations.mutate_lines, _copy_run, read_samples, 4),
    Parser("finetune", "finetune.json", mutations.mutate_json, _copy_training, read_training, 5),
    Parser("rows", "rows.jsonl", mutations.mutate_lines, _write_rows, read_rows, 8),
    Parser("rows-list", "rows.json", mutations.mutate_json, _write_list, read_rows, 4),
    Parser("rows-table", "rows.csv", mutations.mutate_table, _write_table, read_rows, 4),
    Parser("evaluation-rows", "rows.jsonl", mutations.mutate_lines, _write_evaluation_rows, read_evaluation_rows, 4),
    Parser("evaluation-squad", "rows.json", mutations.mutate_json, _write_list, read_evaluation_rows, 3),
    Parser("gguf", "model.gguf", mutations.mutate_binary, _copy_gguf, read_gguf, 6),
    Parser("gguf-model", "model.gguf", mutations.mutate_binary, _copy_gguf, read_gguf_model, 3),
    Parser("rating", "rating.json", mutations.mutate_json, _write_ratings, read_ratings, 3),
    Parser("rating-key", "key.json", mutations.mutate_json, _write_ratings, read_ratings, 3, ("rating.json",)),
    Parser("template", "chat.jinja", mutations.mutate_template, _write_template, read_template, 2,
           ("chat template",)),
    Parser("name", "name.txt", mutations.mutate_name, _write_name, read_name, 2, ("",)),
    Parser("saved-step", "checkpoint-20/complete", mutations.mutate_json, _write_saved_step, read_saved_step, 1),
    Parser("claim", ".trainer/job.json", mutations.mutate_json, _write_saved_step, read_claim, 2),
    Parser("trace", "trace.jsonl", mutations.mutate_lines, _write_trace, read_trace, 1),
    *sweep_parsers.PARSERS,
    *answer_parsers.PARSERS,
    *served_parsers.PARSERS,
)  # fmt: skip


def mutate_case(parser: Parser, seed: bytes, number: int, start: int) -> bytes:
    """Return the bytes of case *number* of a parser."""
    rng = random.Random(f"{parser.name} {start} {number}")
    try:
        return parser.mutate(seed, rng)
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError):  # what no writer can write
        return mutations.mutate_bytes(seed, rng)
