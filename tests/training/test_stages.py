"""A float model becomes ternary in stages, and its records say what was lost and what came back."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from bitnet_bench.checkpoints.inspect import inspect_folder
from bitnet_bench.checkpoints.loading import load_model, load_tokenizer
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.protocols import no_display
from bitnet_bench.runs.jobs import Arms, FinetuneJob
from bitnet_bench.runs.records import FinetuneRecord
from bitnet_bench.training.finetune import finetune
from bitnet_bench.training.loss import response_loss
from bitnet_bench.training.stage_checks import check_text_exists
from bitnet_bench.training.stages import explain_stage_errors, plan_stages

WORDS = ["안녕", "오늘", "한국", "서울", "네", "아니요"]


def write_rows(folder: Path) -> tuple[str, str]:
    """Write rows with answers and running texts, and return the names of both files."""
    rows, texts = folder / "rows.jsonl", folder / "texts.jsonl"
    answers = [{"prompt": f"{WORDS[n % 6]} {WORDS[n % 5]}", "response": WORDS[n % 4]} for n in range(12)]
    rows.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in answers), encoding="utf-8")
    texts.write_text(json.dumps({"text": " ".join(WORDS * 3)}, ensure_ascii=False) + "\n", encoding="utf-8")
    return str(rows), str(texts)


def make_job(folder: Path, model: str, **settings: Any) -> FinetuneJob:
    rows, _ = write_rows(folder)
    common: dict[str, Any] = {"epochs": 1, "batch_size": 4, "max_length": 32, "compute": "fp32", "track": ()}
    return FinetuneJob.model_validate(
        {"model": model, "data": (rows,), "out": str(folder / "out"), **common, **settings}
    )


def run_stages(job: FinetuneJob, **arms: Any) -> dict[str, FinetuneRecord]:
    _, texts = write_rows(Path(job.out).parent)
    stages = plan_stages(job, Arms(preset="bitdistill", text=(texts,), text_length=16, **arms))
    return {stage.name: finetune(stage.job) for stage in stages}


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
def test_the_twin_teaches_what_running_text_has_prepared(
    family: str, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    records = run_stages(make_job(tmp_path, str(tiny_model(family)), relation_heads=2), text_tokens=256)
    assert list(records) == ["fp16", "text", "ternary"]
    assert [records[name].job.method for name in records] == ["sft", "pretrain", "distill"]
    assert records["text"].steps == 2
    assert [records[name].job.subln for name in records] == [False, True, False]
    assert records["ternary"].base.path == f"{tmp_path / 'out-text'}/masters"
    assert records["ternary"].base.format == "masters"
    assert records["ternary"].job.teacher == records["fp16"].job.out
    names = {
        name for name in json.loads((tmp_path / "out/config.json").read_text()) if name == "bitnet_bench_sub_norms"
    }
    assert bool(names) == (family != "llama")


def test_a_record_says_what_the_conversion_lost(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    """Each loss is computed here again: of the float model, and of its ternary layers without any training."""
    job = make_job(tmp_path, str(tiny_model("qwen3")), learning_rate=1e-3)
    conversion = finetune(job).conversion
    assert conversion is not None
    assert conversion.rows == "training"
    floats = load_model(inspect_folder(tiny_model("qwen3")), "run", "fp32")
    ternary = load_model(inspect_folder(tiny_model("qwen3")), "train", "ternary").eval()
    losses = [_mean_loss(model, job) for model in (floats, ternary)]
    assert conversion.float_loss == pytest.approx(losses[0], rel=1e-4)
    assert conversion.ternary_loss == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)
    tokens = [point[0] for point in conversion.curve]
    assert tokens == sorted(set(tokens))
    assert tokens[-1] == _count_tokens(job)


def test_a_ternary_base_has_lost_nothing(tmp_path: Path) -> None:
    assert finetune(make_job(tmp_path, "demo", max_steps=1)).conversion is None


def test_preferences_have_no_loss_of_tokens_to_compare(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    """The loss of DPO is of pairs, and would stand beside one of tokens."""
    job = make_job(tmp_path, str(tiny_model("llama")), method="dpo", max_steps=1)
    Path(job.data[0]).write_text('{"prompt": "가", "chosen": "네", "rejected": "아니요"}\n' * 4, encoding="utf-8")
    assert finetune(job).conversion is None


def test_without_text_the_second_stage_is_left_out(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    stages = plan_stages(make_job(tmp_path, str(tiny_model("qwen3"))), Arms(preset="bitdistill"))
    assert [stage.name for stage in stages] == ["fp16", "ternary"]
    assert stages[-1].job.subln


def test_rates_that_are_given_are_those_of_the_last_stage(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    """The twin has the table's, for its embeddings too."""
    job = make_job(tmp_path, str(tiny_model("qwen3")), learning_rate=1e-3, float_learning_rate=1e-4)
    twin, last = plan_stages(job, Arms(preset="bitdistill"))
    assert (twin.job.learning_rate, twin.job.float_learning_rate) == (None, None)
    assert (last.job.learning_rate, last.job.float_learning_rate) == (1e-3, 1e-4)


def test_a_named_teacher_takes_the_place_of_the_twin(tmp_path: Path) -> None:
    job = make_job(tmp_path, "demo-fp16", method="distill", teacher="demo-fp16")
    stages = plan_stages(job, Arms(preset="bitdistill"))
    assert [stage.name for stage in stages] == ["ternary"]
    assert not stages[0].job.subln, "a BitNet has the norms of SubLN already"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"precision": "fp16"}, "`precision` is fp16"),
        ({"method": "pretrain"}, "`method` is pretrain"),
        ({"group_size": 64}, "`group_size`"),
        ({"lora_rank": 4}, "`lora_rank`"),
    ],
)
def test_what_is_no_conversion_is_refused(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        plan_stages(make_job(tmp_path, "demo-fp16", **settings), Arms(preset="bitdistill"))


def test_text_without_a_preset_and_tokens_without_text_are_refused() -> None:
    with pytest.raises(BenchError, match="`text` is for the second stage"):
        Arms(text=("a.jsonl",))
    with pytest.raises(BenchError, match="`text_tokens` needs `text`"):
        Arms(preset="bitdistill", text_tokens=100)
    with pytest.raises(BenchError, match="several"):
        Arms(preset="bitdistill", search=("lr=1e-4,1e-3",))


def test_a_text_that_is_not_there_is_refused_by_the_command_and_not_by_a_plan(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    """An earlier step of a recipe may write it."""
    arms = Arms(preset="bitdistill", text=(str(tmp_path / "text.jsonl"),))
    with pytest.raises(BenchError, match=r"`text`: There is no file .*text\.jsonl"):
        check_text_exists(arms)
    assert len(plan_stages(make_job(tmp_path, str(tiny_model("llama"))), arms)) == 3
    with pytest.raises(BenchError, match="There is no file"):
        check_text_exists(Arms(preset="bitdistill", text=("a" * 5000,)))  # a name that no disk takes


@pytest.mark.parametrize("place", ["encoding", "shape"])
def test_a_text_that_cannot_be_read_is_refused_before_the_twin_is_trained(
    place: str, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    text = tmp_path / "text.jsonl"
    contents = {"encoding": '{"text": "한국어"}\n'.encode("cp949"), "shape": b'{"words": 3}\n'}
    text.write_bytes(contents[place])
    said = {"encoding": "is not UTF-8", "shape": "no known shape"}[place]
    with pytest.raises(BenchError, match=f"`text`: .*{said}"):
        plan_stages(make_job(tmp_path, str(tiny_model("llama"))), Arms(preset="bitdistill", text=(str(text),)))


@pytest.mark.parametrize(
    ("family", "settings", "said"),
    [
        ("gpt2", {}, "`preset=bitdistill` cannot make this `model` ternary.*gpt2 model: only Llama"),
        ("llama", {"method": "distill", "teacher": "demo-fp16"}, "`teacher` has another vocabulary than the `model`"),
        ("llama", {"relation_layer": 7}, "`relation_layer` is 7, and the `model` has 2 layers"),
        ("llama", {"relation_heads": 5}, "cannot be split into 5 heads"),
    ],
)
def test_what_a_later_stage_could_not_use_is_refused_before_the_first(
    family: str, settings: dict[str, Any], said: str, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    """An hour of running text would be lost otherwise."""
    with pytest.raises(BenchError, match=said):
        plan_stages(make_job(tmp_path, str(tiny_model(family)), **settings), Arms(preset="bitdistill"))


def test_a_teacher_of_fewer_layers_is_named(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    """The layer of the relations is there in the student, and not in the teacher."""
    teacher = tmp_path / "teacher"
    model: Any = load_model(inspect_folder(tiny_model("llama")), "train", "fp16")
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    model.save_pretrained(teacher)
    load_tokenizer(inspect_folder(tiny_model("llama"))).save_pretrained(teacher)
    job = make_job(
        tmp_path, str(tiny_model("llama")), method="distill", teacher=str(teacher), relation_layer=1, relation_heads=2
    )
    said = "`relation_layer` is 1, and the `teacher` has 1 layers"
    with pytest.raises(BenchError, match=said):
        plan_stages(job, Arms(preset="bitdistill"))
    with pytest.raises(BenchError, match=said):
        finetune(job)


def test_a_float_model_that_becomes_ternary_is_told(
    tmp_path: Path, tiny_model: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        finetune(make_job(tmp_path, str(tiny_model("llama")), max_steps=1))
    assert "is a float model, and its weights become ternary" in caplog.text


def test_text_of_another_language_is_told(
    tmp_path: Path, tiny_model: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job(tmp_path, str(tiny_model("llama")), method="pretrain")
    Path(job.data[0]).write_text('{"text": "This is a text in English, and it is long enough."}\n' * 3)
    with caplog.at_level(logging.WARNING):
        record = finetune(job)
    assert any("0 % of the letters" in warning and "`text`" in warning for warning in record.warnings)


def _mean_loss(model: Any, job: FinetuneJob) -> float:
    with torch.no_grad():
        loss, count = response_loss(model, _make_batch(job))
    return float(loss) / count


def _make_batch(job: FinetuneJob) -> dict[str, torch.Tensor]:
    from bitnet_bench.data.collating import Collator
    from bitnet_bench.data.tokenizing import tokenize_rows
    from bitnet_bench.training.inputs import read_training_rows

    base = inspect_folder(Path(job.model))
    encoded = tokenize_rows(read_training_rows(job)[0], load_tokenizer(base), job.template, job.max_length, False)
    batch: dict[str, torch.Tensor] = Collator(2).pad_examples(list(encoded.examples))
    return batch


def _count_tokens(job: FinetuneJob) -> int:
    return int(_make_batch(job)["attention_mask"].sum())


class KilledError(Exception):
    """The end of a process, in the middle of a step."""


def die_at(title_begins: str, step: int) -> Any:
    """Return a display whose progress ends the run of a stage at a step."""

    def display(title: str) -> Any:
        def progress(done: int, total: int, note: str = "") -> None:
            if title.startswith(title_begins) and "loss" in note and done == step:
                raise KilledError

        return nullcontext(progress)

    return display


@pytest.mark.parametrize("title", ["fine-tune fp16", "pre-train ternary", "distill ternary"])
def test_a_stage_that_was_killed_ends_with_the_same_bits(
    title: str, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    """And with the same conversion in its record, which was measured before the kill."""

    def go(name: str, display: Any) -> dict[str, FinetuneRecord]:
        (tmp_path / name).mkdir(exist_ok=True)
        job = make_job(tmp_path / name, str(tiny_model("gemma3_text")), relation_heads=2, save_every=1)
        _, texts = write_rows(tmp_path / name)
        stages = plan_stages(job, Arms(preset="bitdistill", text=(texts,), text_length=16, text_tokens=384))
        return {stage.name: finetune(stage.job, steps=display) for stage in stages}

    whole = go("whole", no_display)
    with pytest.raises(KilledError):
        go("killed", die_at(title, 2))
    resumed = go("killed", no_display)
    assert any(record.resumed_from_step for record in resumed.values())
    for name, record in whole.items():
        assert resumed[name].result.sha256 == record.result.sha256
        assert resumed[name].conversion == record.conversion


def test_a_twin_model_of_another_vocabulary_is_refused_before_the_first_stage(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    """The twin teaches in the last stage; it would be trained first."""
    with pytest.raises(BenchError, match="`twin_model` has another vocabulary than the `model`"):
        plan_stages(make_job(tmp_path, str(tiny_model("llama"))), Arms(preset="bitdistill", twin_model="demo-fp16"))


def test_a_teacher_whose_projections_are_fused_is_refused_before_the_first_stage(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    """Its config.json has other names as well, such as GPT-2's `n_embd`."""
    job = make_job(tmp_path, str(tiny_model("llama")), method="distill", teacher=str(tiny_model("gpt2")))
    with pytest.raises(BenchError, match="`teacher`: GPT2LMHeadModel has no q_proj"):
        plan_stages(job, Arms(preset="bitdistill"))
    logits = job.model_copy(update={"relation_weight": 0.0})
    assert len(plan_stages(logits, Arms(preset="bitdistill"))) == 1


def test_a_packed_teacher_is_refused_before_the_first_stage(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    finetune(make_job(tmp_path, str(tiny_model("llama")), max_steps=1))
    (tmp_path / "second").mkdir()
    job = make_job(
        tmp_path / "second", str(tiny_model("llama")), method="distill", teacher=str(tmp_path / "out"), relation_heads=2
    )
    with pytest.raises(BenchError, match=r"`teacher`: .*packed ternary") as raised:
        plan_stages(job, Arms(preset="bitdistill"))
    assert "Name a float checkpoint" in str(raised.value.hint)


@pytest.mark.parametrize("name", ["twin", "twin_model"])
def test_a_twin_beside_a_named_teacher_is_refused(name: str, tmp_path: Path) -> None:
    """It would not be trained."""
    job = make_job(tmp_path, "demo-fp16", method="distill", teacher="demo-fp16")
    arms = Arms.model_validate({"preset": "bitdistill", name: True if name == "twin" else "demo-fp16"})
    with pytest.raises(UsageError, match=f"`{name}` and `teacher`"):
        plan_stages(job, arms)


def test_more_text_than_can_be_planned_is_refused_by_its_own_name(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    _, texts = write_rows(tmp_path)
    with pytest.raises(UsageError, match="`text_tokens` is 1e"):
        plan_stages(
            make_job(tmp_path, str(tiny_model("llama"))), Arms(preset="bitdistill", text=(texts,), text_tokens=10**13)
        )


def test_a_folder_of_something_else_is_refused_before_the_first_stage(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    """It is that of the last stage, which would refuse it after the others."""
    job = make_job(tmp_path, str(tiny_model("llama")))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(BenchError, match="out is not empty"):
        plan_stages(job, Arms(preset="bitdistill"))


def test_a_folder_in_place_of_a_text_is_refused_as_text(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    arms = Arms(preset="bitdistill", text=(str(tmp_path),))
    for refuse in (check_text_exists, lambda given: plan_stages(make_job(tmp_path, str(tiny_model("llama"))), given)):
        with pytest.raises(BenchError, match="`text`: ") as raised:
            refuse(arms)
        assert raised.value.hint == 'Give files with {"text": ...} a line.'


@pytest.mark.parametrize("name", ["text_length", "text_learning_rate"])
def test_a_setting_of_the_text_stage_without_a_preset_is_named(name: str) -> None:
    given: dict[str, Any] = {name: 2}
    with pytest.raises(BenchError, match=f"`{name}` is for the second stage"):
        Arms(**given)


def test_a_rate_of_the_text_stage_without_text_is_refused() -> None:
    with pytest.raises(BenchError, match="`text_learning_rate` needs `text`"):
        Arms(preset="bitdistill", text_learning_rate=1e-3)


def test_a_model_that_got_its_norms_in_an_earlier_run_gets_no_second_ones(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    """Its family is that of the float model; a float twin of it would lose the norms in transformers."""
    first = make_job(tmp_path, str(tiny_model("qwen3")), subln=True, keep_masters=True, max_steps=1)
    finetune(first)
    (tmp_path / "second").mkdir()
    job = make_job(
        tmp_path / "second",
        first.masters,
        method="distill",
        teacher=str(tiny_model("qwen3")),
        relation_heads=2,
        max_steps=1,
    )
    records = run_stages(job, text_tokens=128)
    assert list(records) == ["text", "ternary"]
    assert not any(record.job.subln for record in records.values())
    with pytest.raises(BenchError, match="in fp16: a float qwen3 with norms that its family does not have"):
        finetune(make_job(tmp_path, first.masters, precision="fp16", out=str(tmp_path / "float"), max_steps=1))


def test_a_stage_is_not_told_of_the_preset_that_it_belongs_to(
    tmp_path: Path, tiny_model: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        finetune(make_job(tmp_path, str(tiny_model("llama")), subln=True, max_steps=1))
    assert "its weights become ternary" in caplog.text
    assert "preset" not in caplog.text


def test_an_error_of_the_text_stage_names_the_settings_that_were_given() -> None:
    with pytest.raises(BenchError) as raised, explain_stage_errors(True):
        raise BenchError("It holds a finished run with another `max_steps`.", "Give another `out`.")
    assert "follow from `text_tokens`" in raised.value.hint
    for is_text, problem in ((False, "Another `max_steps`."), (True, "The disk is full.")):
        with pytest.raises(BenchError) as raised, explain_stage_errors(is_text):
            raise BenchError(problem, "Give another `out`.")
        assert raised.value.hint == "Give another `out`."


def test_a_text_longer_than_the_positions_of_the_model_is_learned_in_more_steps(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    """Its sequences are cut there, and as many tokens as were asked for need more of them."""
    _, texts = write_rows(tmp_path)
    arms = Arms(preset="bitdistill", text=(texts,), text_length=512, text_tokens=8 * 512)
    text = plan_stages(make_job(tmp_path, str(tiny_model("llama"))), arms)[1].job
    assert text.max_length == 128
    assert text.max_steps == 4


def test_a_curve_leaves_out_steps_in_which_the_model_is_not_ternary_yet(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    """Their loss is nearly that of the float model, which would look like what training gave back."""
    conversion = finetune(make_job(tmp_path, str(tiny_model("llama")), ternary_warmup=2, epochs=2)).conversion
    assert conversion is not None
    assert len(conversion.curve) == 4
