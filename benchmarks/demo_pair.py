"""Reproduce the embedded pair: `python benchmarks/demo_pair.py --data-dir DATA --work WORK [--out OUT]`.

Prepares the text, trains the tokenizer, and pre-trains one ternary and one FP16 model of one architecture from
scratch with the project's own `finetune --method pretrain`, on the same pieces in the same order.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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


def prepare(data: Path, work: Path) -> tuple[Path, Path]:
    """Write train.jsonl and heldout.jsonl, shuffled, and return their paths."""
    rows = [row for row in documents(data) if _usable(row)]
    random.Random(SEED).shuffle(rows)
    cut = int(len(rows) * HELD_OUT)
    work.mkdir(parents=True, exist_ok=True)
    for name, part in (("heldout", rows[:cut]), ("train", rows[cut:])):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (work / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return work / "train.jsonl", work / "heldout.jsonl"


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
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    out.mkdir(parents=True, exist_ok=True)
    loaded.save_pretrained(out)
    save_checkpoint(model, out, "masters" if precision == "ternary" else "float", "float16")


def pretraining(work: Path, train: Path, precision: TrainingPrecision) -> FinetuneJob:
    """Return the job that makes one of the pair; both see the same pieces in the same order."""
    return FinetuneJob(
        model=str(work / f"random-{precision}"),
        data=(str(train),),
        out=str(work / precision),
        method="pretrain",
        precision=precision,
        template="dialogue",
        epochs=1.5,
        learning_rate=3e-3,
        weight_decay=0.1,
        batch_size=16,
        max_length=256,
        keep_masters=precision == "ternary",
    )


def heldout_loss(checkpoint: Checkpoint, rows: Sequence[Row]) -> tuple[float, int]:
    """Return (mean cross-entropy in nats per token, tokens) on held-out rows, in pieces of the training length."""
    import torch

    from bitnet_bench.checkpoints.loading import load_model, load_tokenizer
    from bitnet_bench.data.tokenizing import tokenize_rows
    from bitnet_bench.training.loss import response_loss

    model = load_model(checkpoint, "run", "ternary" if checkpoint.is_ternary else "fp32")
    encoded = tokenize_rows(rows, load_tokenizer(checkpoint), "dialogue", 256, pretrain=True)
    total, count = 0.0, 0
    with torch.no_grad():
        for example in encoded.examples:
            ids = torch.tensor([example.input_ids])
            loss, tokens = response_loss(model, {"input_ids": ids, "labels": ids})
            total, count = total + float(loss), count + tokens
    return total / count, count


CARD = """---
language: ko
licence: cc-by-sa-4.0
---
# The embedded pair

Two tiny Korean language models of one architecture (`BitNetForCausalLM`: 4 layers, hidden size 256, FFN 704, 4 heads,
2 key-value heads, SubLN, squared ReLU, vocabulary {vocabulary}, context {context}), pre-trained from scratch by
`bitnet-bench finetune --method pretrain` on the same pieces of text in the same order. They exist so that every command
can be tried without a network. They are far too small to be useful as language models.

| | `demo` (ternary/) | `demo-fp16` (fp16/) |
| --- | --- | --- |
| weights | ternary, packed 2 bits; embedding FP16 | FP16 |
| parameters | {parameters:,} | {parameters:,} |
| bytes of weights | {ternary_bytes:,} | {fp16_bytes:,} |
| share of zeros among the codes | {zeros:.3f} | |
| optimizer steps x tokens | {steps} x 4,096 | {steps} x 4,096 |
| held-out loss, nats a token | {ternary_loss:.4f} | {fp16_loss:.4f} |
| held-out perplexity | {ternary_ppl:.2f} | {fp16_ppl:.2f} |

The held-out text is {tokens:,} tokens, one document in a hundred, drawn by seed before training.
{note}

## Data and licence
Korean React and Vue documentation (CC BY 4.0), the Hugging Face course (Apache-2.0) and PyTorch tutorials
(BSD-3-Clause) in Korean, the KAIST treebank's prose (CC BY-SA 4.0; Chun et al. 2018), NSMC reviews (CC0 1.0; Park
2016), Chatbot_data (MIT; Song 2018), and the HG-TODS dialogues (MIT; NLPLAB at Sungkyunkwan University, 2022-2024):
{rows:,} documents. Documents whose normalised text is in an evaluation split of NSMC, Chatbot_data or HG-TODS were
left out; no text of KLUE, KoBEST, KorQuAD or FLORES is in it. Because of the treebank the weights are offered under
**CC BY-SA 4.0**.

## Recipe
AdamW (beta 0.9, 0.95), learning rate 3e-3 with 5 % warm-up and cosine decay, weight decay 0.1, gradient norm 1.0, batch
16 x 256 tokens, 1.5 epochs, seed {seed} for the split and the first weights and 0 for the order, float32 masters and
scales, bfloat16 products outside the ternary forward; one thread each. Neither arm's learning rate was searched.
`make demo-checkpoints` repeats the recipe. It does not give the same bits: after these were made, the order of the
second pass changed (a batch that the first leaves incomplete is now filled), and sums depend on the processor.
"""


def write_card(out: Path, pair: dict[str, FinetuneRecord], losses: dict[str, tuple[float, int]]) -> None:
    """Write the model card from what was measured."""
    ternary, fp16 = pair["ternary"], pair["fp16"]
    behind = losses["ternary"][0] - losses["fp16"][0]
    text = CARD.format(
        vocabulary=VOCABULARY,
        context=CONTEXT,
        parameters=ternary.result.parameters,
        ternary_bytes=sum(ternary.result.weight_bytes.values()),
        fp16_bytes=sum(fp16.result.weight_bytes.values()),
        zeros=ternary.result.zero_density,
        steps=ternary.steps,
        ternary_loss=losses["ternary"][0],
        fp16_loss=losses["fp16"][0],
        ternary_ppl=math.exp(losses["ternary"][0]),
        fp16_ppl=math.exp(losses["fp16"][0]),
        tokens=losses["fp16"][1],
        rows=ternary.rows,
        seed=SEED,
        note=f"Ternary is {abs(behind):.3f} nats a token {'behind' if behind > 0 else 'ahead of'} FP16.",
    )
    write_whole(out / "README.md", text)


def main() -> None:
    """Build the pair and, with --out, install it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "bitnet_bench" / "demo")
    given = parser.parse_args()
    train, heldout = prepare(given.data_dir, given.work)
    train_tokenizer(train, given.work / "tokenizer")
    pair: dict[str, FinetuneRecord] = {}
    losses: dict[str, tuple[float, int]] = {}
    for precision in PAIR:
        write_random(given.work / "tokenizer", given.work / f"random-{precision}", precision)
        pair[precision] = finetune(pretraining(given.work, train, precision), steps=progress_bar)
        losses[precision] = heldout_loss(pair[precision].result, read_rows(heldout))
        (given.out / precision).mkdir(parents=True, exist_ok=True)
        for name in SHIPPED:
            shutil.copy(given.work / precision / name, given.out / precision / name)
    write_card(given.out, pair, losses)


if __name__ == "__main__":
    main()
