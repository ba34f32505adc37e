"""Make the embedded pair: one ternary and one FP16 model of one architecture, from scratch, on the same text.

python benchmarks/demo_pair.py prepare --data-dir DATA --work WORK   # text, tokenizer
python benchmarks/demo_pair.py search --work WORK                    # rate and batch, equal budgets for both arms
python benchmarks/demo_pair.py pretrain --work WORK --precision fp16 # one arm; on a GPU 1 to 2 minutes, else hours
python benchmarks/demo_pair.py install --work WORK                   # held-out losses, model card, into the package

Text is Korean that may be passed on, and text of the grammar of the `sample` suite without the frames of its test rows.
Pre-training is the project's own `finetune --method pretrain`. What stands in WORK already is not made again.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sample_text import write_documents

from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.cli.tables import progress_bar
from bitnet_bench.data.jsonl import parse_nfc_json, read_numbered_lines
from bitnet_bench.data.rows import BadRowError, Row, parse_row, read_rows
from bitnet_bench.files import write_whole
from bitnet_bench.runs.choices import TrainingPrecision
from bitnet_bench.runs.jobs import FinetuneJob
from bitnet_bench.runs.records import Checkpoint, FinetuneRecord
from bitnet_bench.training.finetune import finetune

VOCABULARY = 6144
CONTEXT = 512
SEED = 20261123
HELD_OUT = 0.01
LENGTH = 256
HELD_OUT_KINDS = ("real", "generated")
GENERATED_BYTES = 16_000_000
"""Of generated text, about as many tokens as there are of other text."""
TOKENS = 12_000_000
"""Tokens that an arm sees: one and a half passes."""
SEARCHED_TOKENS = 6_000_000
"""Tokens of a run of the search."""
RATES, BATCHES = (2e-3, 4e-3, 8e-3), (32, 64)
FOUND = {
    "ternary": {"learning_rate": 4e-3, "batch_size": 32},
    "fp16": {"learning_rate": 2e-3, "batch_size": 32},
}
"""Rate and batch that the search found for the pair in the package; taken where WORK has no search."""
PAIR: tuple[TrainingPrecision, ...] = ("ternary", "fp16")
SHIPPED = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
# what may be passed on with the model: raw_ko without progit2 (CC BY-NC-SA), MIT dialogues, CC0 reviews
RAW_TEXT = ("nsmc_reviews", "kaist_treebank", "react_docs", "vue_docs", "hf_course", "pytorch_tutorials")
DIALOGUES = ("chatbot_data/train", "hg_tods_manual/train", "hg_tods_music/validation")
EVALUATED = ("nsmc/test", "nsmc/validation", "chatbot_data/test", "hg_tods_manual/test", "hg_tods_music/test")


def documents(data: Path) -> Iterator[dict[str, Any]]:
    """Yield the training documents, none of which (by normalised text) is in a split that is evaluated on."""
    evaluated = {
        _normalised(str(value))
        for name in EVALUATED
        for row in _lines(data / f"{name}.jsonl")
        for value in row.values()
    }
    for name in RAW_TEXT:
        for row in _lines(data / f"raw_ko/{name}.jsonl"):
            if _normalised(row["text"]) not in evaluated:
                yield {"text": row["text"]}
    for row in _lines(data / "nsmc/train.jsonl"):
        if _normalised(row["document"]) not in evaluated:
            yield {"text": row["document"]}
    for name in DIALOGUES:
        for row in _lines(data / f"{name}.jsonl"):
            if "Q" in row:
                if _normalised(row["Q"]) not in evaluated:
                    yield {"prompt": row["Q"], "response": row["A"]}
            else:
                yield {"turns": row["turns"]}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for _, line in read_numbered_lines(path):
        yield parse_nfc_json(line)


def _normalised(text: str) -> str:
    return re.sub(r"\W+", "", unicodedata.normalize("NFC", text)).lower()


def prepare(data: Path | None, work: Path) -> None:
    """Write what is missing of real.jsonl, train.jsonl, the held-out files and the tokenizer."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "real.jsonl").exists():
        if data is None:
            raise SystemExit(f"There is no {work / 'real.jsonl'}: name the folder of the texts with --data-dir.")
        rows = [row for row in documents(data) if _usable(row)]
        random.Random(SEED).shuffle(rows)
        cut = int(len(rows) * HELD_OUT)
        for name, part in (("heldout-real", rows[:cut]), ("real", rows[cut:])):
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
            (work / f"{name}.jsonl").write_text(text, encoding="utf-8")
    if not (work / "tokenizer").exists():
        train_tokenizer(work / "real.jsonl", work / "tokenizer")
    if not (work / "train.jsonl").exists():
        mix(work)


def mix(work: Path) -> None:
    """Write heldout-generated.jsonl, and train.jsonl with other and generated documents in any order."""
    write_documents(work / "generated.jsonl", GENERATED_BYTES)
    generated = (work / "generated.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    cut = int(len(generated) * HELD_OUT)
    (work / "heldout-generated.jsonl").write_text("".join(generated[:cut]), encoding="utf-8")
    real = (work / "real.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    lines = real + generated[cut:]
    random.Random(SEED).shuffle(lines)
    write_whole(work / "train.jsonl", "".join(lines))


def _usable(row: dict[str, Any]) -> bool:
    """A few source rows have an empty side."""
    try:
        parse_row(json.dumps(row))
    except BadRowError:
        return False
    return True


def train_tokenizer(train: Path, out: Path) -> None:
    """Train a byte-level BPE of `VOCABULARY` tokens on *train*; it adds BOS by itself and normalises to NFC."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((turn.text for row in read_rows(train) for turn in row.turns), trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(out)


def write_random(tokenizer: Path, out: Path, precision: str) -> None:
    """Write a random model of the pair's architecture; the two differ only in what their config says."""
    import torch
    from transformers import AutoTokenizer, BitNetConfig, BitNetForCausalLM

    from bitnet_bench.checkpoints.saving import save_checkpoint
    from bitnet_bench.ternary.linear import make_trainable_ternary

    config = BitNetConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    torch.manual_seed(SEED)
    model = BitNetForCausalLM(config)
    if precision == "ternary":
        make_trainable_ternary(model)
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    out.mkdir(parents=True, exist_ok=True)
    loaded.save_pretrained(out)
    save_checkpoint(model, out, "masters" if precision == "ternary" else "float", "float16")


def pretraining(out: Path, precision: TrainingPrecision, tokens: int, choice: dict[str, Any]) -> FinetuneJob:
    """Return the job that makes one of the pair; both see the same pieces in the same order."""
    steps = tokens // (choice["batch_size"] * LENGTH)
    return FinetuneJob(
        model=str(out.parent / f"random-{precision}"),
        data=(str(out.parent / "train.jsonl"),),
        validation=tuple(str(out.parent / f"heldout-{kind}.jsonl") for kind in HELD_OUT_KINDS),
        out=str(out),
        method="pretrain",
        precision=precision,
        template="dialogue",
        epochs=1000,
        max_steps=steps,
        weight_decay=0.1,
        max_length=LENGTH,
        compile="off",
        save_every=max(1, steps // 4),
        track=(),
        keep_masters=precision == "ternary",
        **choice,
    )


def pretrain(work: Path, precision: TrainingPrecision, tokens: int, choice: dict[str, Any], name: str) -> None:
    """Pre-train one arm, and write what it took and the loss on held-out text beside the checkpoint."""
    make_start(work, precision)
    began = time.monotonic()
    record = finetune(pretraining(work / name, precision, tokens, choice), steps=progress_bar)
    seconds, loss = time.monotonic() - began, record.validation[-1]["loss"]
    told = {"precision": precision, **choice, "steps": record.steps, "seconds": round(seconds, 1), "loss": loss}
    write_whole(work / f"{name}.json", json.dumps(told | {"train_seconds": record.train_seconds}))
    print(json.dumps(told), flush=True)


def make_start(work: Path, precision: TrainingPrecision) -> None:
    """Write an arm's random model, unless it is there."""
    if not (work / f"random-{precision}" / "config.json").exists():
        write_random(work / "tokenizer", work / f"random-{precision}", precision)


def search(work: Path, tokens: int, side_by_side: int) -> None:
    """Pre-train both arms with every rate and batch on equally many tokens; write each arm's best to best.json."""
    tried = [(rate, batch, precision) for rate in RATES for batch in BATCHES for precision in PAIR]
    for precision in PAIR:
        make_start(work, precision)
    for start in range(0, len(tried), side_by_side):
        commands = [_pretrain_command(work, tokens, *one) for one in tried[start : start + side_by_side]]
        for running in [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]:
            running.wait()
    found = sorted(read_tries(work), key=lambda one: float(one["loss"]))
    for one in found:
        print("{precision} rate {learning_rate:g} batch {batch_size}: {loss:.4f} ({seconds:.0f} s)".format(**one))
    best = {precision: next(one for one in found if one["precision"] == precision) for precision in PAIR}
    write_whole(work / "best.json", json.dumps(best))


def _pretrain_command(work: Path, tokens: int, rate: float, batch: int, precision: str) -> list[str]:
    name = f"try-{precision}-{rate:g}-{batch}"
    command = [sys.executable, __file__, "pretrain", "--work", str(work), "--precision", precision, "--name", name]
    return [*command, "--tokens", str(tokens), "--lr", str(rate), "--batch-size", str(batch)]


def read_tries(work: Path) -> list[dict[str, Any]]:
    """Return what the finished runs of the search in *work* wrote."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in work.glob("try-*.json")]


def best_choice(work: Path, precision: str) -> dict[str, Any]:
    """Return the rate and batch that a search in *work* found for an arm, or those of the pair in the package."""
    found = json.loads((work / "best.json").read_text(encoding="utf-8")) if (work / "best.json").exists() else FOUND
    return {name: found[precision][name] for name in FOUND[precision]}


def heldout_loss(checkpoint: Checkpoint, rows: Sequence[Row]) -> tuple[float, int]:
    """Return (mean cross-entropy in nats per token, tokens) on held-out rows, in pieces of the training length."""
    import torch

    from bitnet_bench.checkpoints.loading import load_model, load_tokenizer
    from bitnet_bench.data.tokenizing import tokenize_rows
    from bitnet_bench.training.loss import response_loss

    model = load_model(checkpoint, "run", "ternary" if checkpoint.is_ternary else "fp32")
    encoded = tokenize_rows(rows, load_tokenizer(checkpoint), "dialogue", LENGTH, pretrain=True)
    total, count = 0.0, 0
    with torch.no_grad():
        for example in encoded.examples:
            ids = torch.tensor([example.input_ids])
            loss, tokens = response_loss(model, {"input_ids": ids, "labels": ids})
            total, count = total + float(loss), count + tokens
    return total / count, count


SEARCH_NOTE = "search-note.txt"
"""File in WORK that says, in words for the card, why runs of the search did not finish."""
CARD = """---
language: ko
licence: cc-by-sa-4.0
---
# The embedded pair

Two tiny Korean language models of one architecture (`BitNetForCausalLM`: 4 layers, hidden size 256, FFN 704, 4 heads,
2 key-value heads, SubLN, squared ReLU, vocabulary {vocabulary}, context {context}), pre-trained from scratch by
`bitnet-bench finetune --method pretrain` on the same pieces of text in the same order. They exist so that every command
can be tried without a network, and know the words of the suite `sample`. They are far too small to be useful otherwise.

| | `demo` (ternary/) | `demo-fp16` (fp16/) |
| --- | --- | --- |
| weights | ternary, packed 2 bits; embedding FP16 | FP16 |
| parameters | {parameters:,} | {parameters:,} |
| bytes of weights | {ternary_bytes:,} | {fp16_bytes:,} |
| share of zeros among the codes | {zeros:.3f} | |
| learning rate, sequences of {length} tokens a step | {ternary_choice} | {fp16_choice} |
| optimizer steps | {ternary_steps:,} | {fp16_steps:,} |
| held-out loss, nats a token: Korean texts | {ternary_real:.3f} | {fp16_real:.3f} |
| held-out loss, nats a token: generated text | {ternary_generated:.3f} | {fp16_generated:.3f} |

Held out is one document in a hundred, drawn by seed before training: {real_tokens:,} tokens of Korean texts,
{generated_tokens:,} generated ones. Ternary is {real_gap} and {generated_gap} nats a token behind FP16.

## Data and licence
Half of the text is Korean that may be passed on: the Korean React and Vue documentation (CC BY 4.0), the Hugging Face
course (Apache-2.0) and PyTorch tutorials (BSD-3-Clause) in Korean, the KAIST treebank's prose (CC BY-SA 4.0; Chun et
al. 2018), NSMC reviews (CC0 1.0; Park 2016), Chatbot_data (MIT; Song 2018), and the HG-TODS dialogues (MIT; NLPLAB at
Sungkyunkwan University, 2022-2024). Documents whose normalised text is in an evaluation split of NSMC, Chatbot_data or
HG-TODS were left out; no text of KLUE, KoBEST, KorQuAD or FLORES is in it. The other half is generated from the grammar
of the suite `sample` (`benchmarks/sample/`, Apache-2.0): the same words, without the sentence frames of the suite's
test rows and without its prompts. {rows:,} documents in all. Because of the treebank the weights are offered under
**CC BY-SA 4.0**.

## Recipe
AdamW (beta 0.9, 0.95), 5 % warm-up and cosine decay, weight decay 0.1, gradient norm 1.0, {tokens:,} tokens an arm,
seed {seed} for the split and the first weights and 0 for the order, float32 masters and scales, bfloat16 products
outside the ternary forward. Rate and batch were searched: {tried} runs of {searched_tokens:,} tokens were started, the
same for both arms, and {finished} of them finished{unfinished}.
Each arm has the rate and batch of the lowest loss among its own:

| arm | rate | sequences a step | held-out loss, both kinds |
| --- | ---: | ---: | ---: |
{search_table}

Machine: {machine}.
Both arms at once, {ternary_seconds:.0f} s of training for the ternary one and {fp16_seconds:.0f} s for the other.
`make demo-checkpoints` repeats the recipe, not the bits: sums depend on the processor.
"""


def write_card(work: Path, out: Path, losses: Mapping[TrainingPrecision, dict[str, tuple[float, int]]]) -> None:
    """Write the model card from what was measured."""
    records, slots = {}, dict[str, Any]()
    for arm in PAIR:
        record = FinetuneRecord.model_validate_json((work / arm / "finetune.json").read_text(encoding="utf-8"))
        records[arm] = record
        slots[f"{arm}_choice"] = f"{record.job.learning_rate:g}, {record.job.batch_size}"
        slots |= {f"{arm}_steps": record.steps, f"{arm}_seconds": record.train_seconds}
        slots[f"{arm}_bytes"] = sum(record.result.weight_bytes.values())
        slots |= {f"{arm}_{kind}": loss for kind, (loss, _) in losses[arm].items()}
    ternary = records["ternary"]
    text = CARD.format(
        **slots,
        **{f"{kind}_gap": f"{losses['ternary'][kind][0] - losses['fp16'][kind][0]:.3f}" for kind in HELD_OUT_KINDS},
        **{f"{kind}_tokens": losses["fp16"][kind][1] for kind in HELD_OUT_KINDS},
        vocabulary=VOCABULARY,
        context=CONTEXT,
        length=LENGTH,
        parameters=ternary.result.parameters,
        zeros=ternary.result.zero_density,
        rows=ternary.rows,
        tokens=ternary.steps * ternary.job.sequences * LENGTH,
        seed=SEED,
        **describe_search(work),
        machine=ternary.environment.gpu or ternary.environment.cpu,
    )
    write_whole(out / "README.md", text)


def describe_search(work: Path) -> dict[str, Any]:
    """Return what the card says of the search: runs that were started and finished, and each one's loss."""
    found = read_tries(work)
    found.sort(key=lambda one: (PAIR.index(one["precision"]), one["learning_rate"], one["batch_size"]))
    line = "| {precision} | {learning_rate:g} | {batch_size} | {loss:.3f} |"
    note = (work / SEARCH_NOTE).read_text(encoding="utf-8").strip() if (work / SEARCH_NOTE).exists() else ""
    return {
        "tried": len(RATES) * len(BATCHES) * len(PAIR),
        "finished": len(found),
        "unfinished": f" ({note})" if note else "",
        "searched_tokens": SEARCHED_TOKENS,
        "search_table": "\n".join(line.format(**one) for one in found),
    }


def install(work: Path, out: Path) -> None:
    """Measure both arms on held-out text, and copy them and their card into the package."""
    losses = {}
    for precision in PAIR:
        (out / precision).mkdir(parents=True, exist_ok=True)
        for name in SHIPPED:
            shutil.copy(work / precision / name, out / precision / name)
        found = open_checkpoint(str(out / precision))
        losses[precision] = {
            kind: heldout_loss(found, read_rows(work / f"heldout-{kind}.jsonl")) for kind in HELD_OUT_KINDS
        }
    write_card(work, out, losses)


def main() -> None:
    """Run the step that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("prepare", "search", "pretrain", "install"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--precision", choices=PAIR)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--name", help="folder in WORK that pre-training writes; else the precision")
    parser.add_argument("--side-by-side", type=int, default=1, help="runs of the search at a time; on a GPU 6")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "bitnet_bench" / "demo")
    given = parser.parse_args()
    if given.step == "prepare":
        prepare(given.data_dir, given.work)
    elif given.step == "search":
        search(given.work, given.tokens or SEARCHED_TOKENS, given.side_by_side)
    elif given.step == "pretrain":
        choice = best_choice(given.work, given.precision)
        choice["learning_rate"] = given.lr or choice["learning_rate"]
        choice["batch_size"] = given.batch_size or choice["batch_size"]
        pretrain(given.work, given.precision, given.tokens or TOKENS, choice, given.name or given.precision)
    else:
        install(given.work, given.out)


if __name__ == "__main__":
    main()
