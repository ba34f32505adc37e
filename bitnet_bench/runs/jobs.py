"""What a user asks for: a fine-tuning, an evaluation. A field is an option, a recipe's key and Python's parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator

from bitnet_bench.runs.choices import (
    AUTO,
    DEFAULT_MODEL,
    DEFAULT_PROMPTS,
    MARGIN,
    TRAINING_BACKEND,
    Activations,
    Answer,
    KvCache,
    Precision,
    ReadAs,
    TrainingPrecision,
)
from bitnet_bench.runs.settings import Option, Settings

MAX_COUNT = 2**31 - 1
"""Largest number of rows, steps or tokens that a setting takes."""
MAX_TOKENS = 10**13
MAX_BATCH = 2**20
MAX_EPOCHS = 10**6
MAX_SEEDS = 1000
"""Largest number of runs with a seed each: each has a folder, and is planned before the first begins."""
MAX_TEMPERATURE = 100.0
MAX_REPEATS = 10**4
GENERATION_FIELDS = ("temperature", "top_p", "top_k", "max_new_tokens", "repeats", "system", "thinking")
"""Fields of `EvaluateJob` that say how answers are generated."""
MAX_SEED = 2**32 - 1
"""Largest seed that every random generator takes."""
BatchSize = Annotated[int, Field(gt=0, le=MAX_BATCH)]
AUTO_SEQUENCES = 16
"""Sequences of a step, for each gradient accumulation that is asked for, where the batch size is auto."""
FORMER_FIELDS = {"despite_parity": "allow_mismatch"}
"""Names of fields until 0.1.0: files and recipes with them still open."""
DATA = Option("Data")
METHOD = Option("Method")
OPTIMIZATION = Option("Optimization")
TERNARY = Option("Ternary")
DISTILLATION = Option("Distillation")
STAGES = Option("Stages")
OUTPUT = Option("Output")
GENERATION = Option("Generation")
SERVING = Option("A model on a server")
MAX_CONCURRENCY = 1024


def rename_former_fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return *settings* with the names that fields have today."""
    return {FORMER_FIELDS.get(name, name): value for name, value in settings.items()}


def _show_size(value: Any) -> str:
    """Return a wrong batch size for a message, with the bound that it exceeds."""
    return f"above {MAX_BATCH:,}" if isinstance(value, int) and value > MAX_BATCH else repr(str(value)[:40])


class FinetuneJob(Settings):
    """One training run. The FP16 twin of a job is the same job with another model, precision and out."""

    data: Annotated[tuple[str, ...], DATA]
    """Rows in a file (JSONL, JSON, CSV, TSV, Parquet), of the hub (hub:ORG/NAME[@REVISION][/SUBSET][:SPLIT]), or a
    task's training rows (SUITE:TASK). Repeatable.

    A revision is replaced by its commit when the job is run.
    """
    limit: Annotated[int | None, DATA] = Field(default=None, gt=0, le=MAX_COUNT)
    """Only the first N rows of each task or file."""
    hold_out: Annotated[float, DATA] = Field(default=0.0, ge=0, lt=1)
    """Share of the rows that is validated on and not trained on; the same for every seed."""
    validation: Annotated[tuple[str, ...], DATA] = ()
    """Rows to validate on, in a file or of the hub. Repeatable.

    Its loss is taken before, during and after training.
    """
    max_length: Annotated[int, DATA] = Field(default=256, gt=1, le=MAX_COUNT)
    """Longest sequence in tokens."""
    data_dir: Annotated[str | None, Option("Data", is_path=True)] = None
    """Folder of local rows; else $BITNET_BENCH_DATA, else the hub."""
    template: Annotated[str, DATA] = AUTO
    """Text around prompt and response: auto (the checkpoint's chat template if there is one, else dialogue), chat,
    dialogue, instruction, inst, plain, or a file that holds a Jinja chat template."""
    template_sha256: str | None = None
    """Of such a file; filled in when the job is run."""
    packing: Annotated[bool | None, DATA] = None
    """Several short rows in one sequence, where none sees another: sequences are filled up to `max_length`, so a step
    has more rows [default: rows of a step are joined where that saves padding; the record says if].

    By default a step keeps its rows and its loss. `no-packing`: a sequence for each row.
    """

    model: Annotated[str, METHOD] = DEFAULT_MODEL
    """A checkpoint folder, a GGUF file, a hub id (`ORG/NAME`, `ORG/NAME@REVISION`), or the embedded `demo` /
    `demo-fp16`."""
    tokenizer: Annotated[str | None, METHOD] = None
    """A folder or a hub id whose tokenizer a GGUF file is read with, where its own is missing or of an unknown kind."""
    read_as: Annotated[ReadAs | None, Option("Method", "as")] = None
    """Read plain float weights as the masters of a ternary model, where nothing in their files says that they are."""
    precision: Annotated[TrainingPrecision, METHOD] = "ternary"
    """Ternary QAT, or FP16."""
    method: Annotated[Literal["sft", "pretrain", "dpo", "distill"], METHOD] = "sft"
    """sft: loss on responses. pretrain: on all tokens. dpo: on preference pairs. distill: sft taught by `teacher`
    (BitDistill)."""
    beta: Annotated[float, METHOD] = Field(default=0.1, gt=0)
    """dpo: how strongly the model is held to where it began."""

    epochs: Annotated[float, OPTIMIZATION] = Field(default=3.0, gt=0, le=MAX_EPOCHS)
    """Passes over the data."""
    learning_rate: Annotated[float | None, Option("Optimization", "lr")] = Field(default=None, gt=0)
    """Peak learning rate [default: from a table of published rates by method, precision, base and size; the record
    names the source, docs/finetuning.md lists them].

    A rate from the table is filled in when the job is run.
    """
    learning_rate_source: str | None = None
    """Where a rate from that table comes from, filled in with it; None for a rate that was given."""
    batch_size: Annotated[BatchSize | Literal["auto"], Option("Optimization", metavar="N|auto")] = 16
    """Sequences, or pairs, a forward pass; auto: as many as fit the free memory, up to 16, with `gradient_accumulation`
    raised so that a step keeps its size.

    That is `AUTO_SEQUENCES` times the value that `gradient_accumulation` had; both are filled in when the job is run.
    """
    gradient_accumulation: Annotated[int, OPTIMIZATION] = Field(default=1, gt=0, le=MAX_BATCH)
    """Forward passes an optimizer step."""
    max_steps: Annotated[int | None, OPTIMIZATION] = Field(default=None, gt=0, le=MAX_COUNT)
    """Stop earlier, after this many optimizer steps."""
    seed: Annotated[int, OPTIMIZATION] = Field(default=0, ge=0, le=MAX_SEED)
    """Seed of everything random."""
    schedule: Annotated[Literal["cosine", "linear", "constant", "two-stage"], OPTIMIZATION] = "cosine"
    """How the learning rate falls after warm-up.

    two-stage: linear, in the second half at 2/3 and without weight decay (the b1.58 recipe for pre-training).
    """
    warmup_ratio: Annotated[float, OPTIMIZATION] = Field(default=0.05, ge=0, lt=1)
    """Share of the steps that warm up."""
    compute: Annotated[Literal["auto", "bf16", "fp32"], OPTIMIZATION] = "auto"
    """Dtype of products; auto: the faster one here, by a short timing. Masters are float32 always.

    It is that of matrix products outside the ternary forward. auto is filled in when the job is run, and a run is
    continued only with the same.
    """
    compile: Annotated[Literal["auto", "on", "off"], OPTIMIZATION] = "auto"
    """torch.compile the layers; auto: on a GPU, in runs so long that it pays after a minute."""
    gradient_checkpointing: Annotated[bool, OPTIMIZATION] = False
    """Less memory: activations are computed again in the backward pass."""
    weight_decay: Annotated[float, OPTIMIZATION] = Field(default=0.0, ge=0)
    """AdamW's weight decay."""
    loss_reduction: Annotated[Literal["mean", "sum"], Option("Optimization", "loss")] = "mean"
    """Mean or sum over the tokens of a step.

    sum: as in the fine-tuning of bitnet-b1.58-2B-4T; longer batches weigh more.
    """
    freeze: Annotated[tuple[Literal["embeddings", "head", "norms"], ...], OPTIMIZATION] = ()
    """Leave this part as it is. Repeatable."""
    neftune_alpha: Annotated[float | None, OPTIMIZATION] = Field(default=None, gt=0)
    """Noise on embeddings (NEFTune), such as 5.

    Uniform while training, of magnitude alpha / sqrt(length x width) (arXiv:2310.05914).
    """
    shard: Annotated[bool, OPTIMIZATION] = False
    """Under torchrun: split the model over the processes (FSDP2), no copy in each.

    That is masters, gradients and optimizer states.
    """

    ternary_warmup: Annotated[int, TERNARY] = Field(default=0, ge=0, le=MAX_COUNT)
    """Steps in which layers become ternary gradually (lambda warm-up)."""
    float_learning_rate: Annotated[float | None, Option("Ternary", "float-lr")] = Field(default=None, gt=0)
    """Of embeddings, head and norms [default: `learning_rate`]."""
    group_size: Annotated[int | None, TERNARY] = None
    """A scale for every 64 or 128 inputs of a row, not one per layer [default: as the base has it].

    Embedding and head are ternary if those of the base are.
    """
    activations: Annotated[Literal["int8", "none"] | None, TERNARY] = None
    """With scales of groups: round the inputs of ternary layers to int8, or not [default: as the base, else none]."""
    subln: Annotated[bool, TERNARY] = False
    """Add BitNet's two norms (SubLN) to a float model before training."""
    lora_rank: Annotated[int | None, TERNARY] = Field(default=None, gt=0, le=MAX_COUNT)
    """Train adapters inside the quantizer, merged at the end.

    Nothing else is trained.
    """
    lora_alpha: Annotated[float, TERNARY] = Field(default=16.0, gt=0)
    """Adapters count alpha / rank."""

    teacher: Annotated[str | None, DISTILLATION] = None
    """distill: a float checkpoint with the same tokenizer."""
    distill_weight: Annotated[float, DISTILLATION] = Field(default=10.0, ge=0)
    """distill: weight of the teacher's probabilities.

    lambda in BitDistill.
    """
    temperature: Annotated[float, DISTILLATION] = Field(default=5.0, gt=0)
    """distill: of those probabilities."""
    relation_weight: Annotated[float, DISTILLATION] = Field(default=1.0, ge=0)
    """distill: weight of the relations of queries, keys and values; 0 for none.

    gamma in BitDistill.
    """
    relation_layer: Annotated[int, DISTILLATION] = -1
    """distill: the layer of the relations, from either end."""
    relation_heads: Annotated[int, DISTILLATION] = Field(default=8, gt=0, le=MAX_COUNT)
    """distill: heads of the relations."""

    out: Annotated[str, Option("Output", is_path=True)]
    """Folder for the checkpoint; the same command resumes after a kill."""
    keep_masters: Annotated[bool, OUTPUT] = False
    """Keep the float32 masters too, in OUT/masters."""
    save_minutes: Annotated[float, OUTPUT] = Field(default=5.0, ge=0)
    """Minutes between the states that a kill falls back to; 0: by steps only."""
    save_every: Annotated[int, OUTPUT] = Field(default=200, gt=0, le=MAX_COUNT)
    """Steps between those states, and between validations."""
    track: Annotated[tuple[Literal["tensorboard", "wandb", "trackio"], ...], OUTPUT] = ("tensorboard",)
    """Where figures go while it runs, such as OUT/tensorboard. Repeatable."""

    @field_validator("batch_size", mode="wrap")
    @classmethod
    def _is_a_size(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise ValueError(f"must be a number above 0, or auto, not {_show_size(value)}") from None

    @field_validator("group_size")
    @classmethod
    def _is_a_known_group(cls, value: int | None) -> int | None:
        if value not in (None, 64, 128):
            raise ValueError(f"must be 64 or 128, not {value}")
        return value

    @model_validator(mode="after")
    def _check_combinations(self) -> FinetuneJob:
        if (self.method == "distill") != (self.teacher is not None):
            raise ValueError("`method=distill` needs a `teacher`, and no other method has one")
        if self.method == "dpo" and self.neftune_alpha:
            raise ValueError("`neftune_alpha` would make the policy differ from its reference; dpo has none")
        if self.packing and self.method == "dpo":
            raise ValueError("`packing` puts rows into one sequence, and dpo compares an answer with its pair's other")
        if self.packing and self.method == "pretrain":
            raise ValueError("`packing` is for rows with responses; pretrain joins documents end to end already")
        if self.lora_rank and self.freeze:
            raise ValueError("`lora_rank` trains adapters only: there is nothing to `freeze`")
        if self.compile == "on" and self.ternary_warmup:
            raise ValueError("`ternary_warmup` changes the layers at every step, and `compile` would compile them anew")
        return self

    @property
    def sequences(self) -> int:
        """Sequences of a forward pass; of a batch size that is still auto, the most that it may become."""
        return AUTO_SEQUENCES if self.batch_size == "auto" else self.batch_size

    @property
    def masters(self) -> str:
        """Folder of the masters that `keep_masters` keeps."""
        return f"{self.out}/masters"

    @property
    def peak_rate(self) -> float:
        """The learning rate of a job that is run."""
        assert self.learning_rate is not None, "`set_default_rate` fills the learning rate in"
        return self.learning_rate

    @property
    def float_rate(self) -> float:
        """The learning rate of what is not ternary, of a job that is run."""
        return self.peak_rate if self.float_learning_rate is None else self.float_learning_rate

    def settings(self) -> dict[str, Any]:
        """Return what decides the result: all but where it is written, how often it is saved, and who runs it how."""
        undecisive = {"out", "save_every", "save_minutes", "track", "shard", "compile", "learning_rate_source"}
        return self.model_dump(mode="json", exclude=undecisive)


class Arms(Settings):
    """Which runs a fine-tuning makes of one job: on the command line, and in a recipe."""

    backend: Annotated[str, METHOD] = TRAINING_BACKEND
    """The library that trains; `bitnet-bench backends` lists them."""
    twin: Annotated[bool, METHOD] = False
    """Then fine-tune the FP16 twin into OUT-fp16, on the same data.

    On the same rows in the same order; a recipe gives it a folder of its own.
    """
    twin_model: Annotated[str | None, METHOD] = None
    """Where the twin starts: by default demo-fp16 for demo, else `model` itself."""
    seeds: Annotated[int, METHOD] = Field(default=1, gt=0, le=MAX_SEEDS)
    """With `search` or `find_learning_rate`: runs of the chosen settings, a seed each.

    In a recipe: runs of each arm, with the seeds `seed`, `seed` + 1, ...
    """
    preset: Annotated[Literal["bitdistill"] | None, STAGES] = None
    """bitdistill: make a float model ternary in three stages (arXiv:2510.13998): SubLN, training on `text`, and
    distillation on `data` from its FP16 twin.

    The twin is fine-tuned first, into OUT-fp16, unless `method=distill` names a `teacher`; the second stage is kept in
    OUT-text.
    """
    text: Annotated[tuple[str, ...], STAGES] = ()
    """With `preset`: a JSONL file of running text for the second stage, which is left out without one. Repeatable."""
    text_tokens: Annotated[int | None, STAGES] = Field(default=None, gt=0, le=MAX_TOKENS)
    """Tokens of the second stage [default: every text once].

    Texts are repeated if there are fewer.
    """
    text_length: Annotated[int, STAGES] = Field(default=512, gt=1, le=MAX_COUNT)
    """Tokens of a sequence of the second stage, whose steps have 8 of them."""
    text_learning_rate: Annotated[float | None, Option("Stages", "text-lr")] = Field(default=None, gt=0)
    """Peak learning rate of the second stage [default: as `learning_rate`'s, of pre-training]."""

    @model_validator(mode="after")
    def _check_stages(self) -> Arms:
        named = ("text", "text_tokens", "text_length", "text_learning_rate")
        given = [name for name in named if getattr(self, name) != self.default(name)]
        if given and self.preset is None:
            raise ValueError(f"`{given[0]}` is for the second stage of a `preset`, such as `preset=bitdistill`")
        if self.text_tokens and not self.text:
            raise ValueError("`text_tokens` needs `text`, the files that they are read from")
        if self.text_learning_rate and not self.text:
            raise ValueError("`text_learning_rate` needs `text`, which the second stage learns at that rate")
        if self.preset and self.searches:
            raise ValueError(
                "a search tries settings of one run, and `preset` is several: search its stages one by one"
            )
        return self

    find_learning_rate: Annotated[bool, Option("Method", "find-lr")] = False
    """Try seven learning rates around `learning_rate`, or around the table's, and train with the best.

    For both arms alike, each around its own; by successive halving, as `prune=halving` does it.
    """
    search: Annotated[tuple[str, ...], Option("Method", metavar="NAME=VALUE,...")] = ()
    """Try these values, or some of a range (lr=1e-5..1e-3), and choose on validation rows, for both arms alike.

    Repeatable.
    """
    trials: Annotated[int | None, METHOD] = Field(default=None, gt=1, le=1000)
    """Settings that a `search` draws where it has a range [default: 8]; of lists it tries every combination."""
    prune: Annotated[Literal["halving"] | None, METHOD] = None
    """halving: all settings of a `search` in short runs, the better half in runs of twice the length, and so on."""

    @model_validator(mode="after")
    def _check_search(self) -> Arms:
        if self.prune and not self.search:
            raise ValueError("`prune` shortens a `search`, and there is none; `find_learning_rate` is pruned already")
        searched = {option.partition("=")[0] for option in self.search}
        if self.find_learning_rate and searched & {"lr", "learning_rate"}:
            raise ValueError("`find_learning_rate` and `search=lr=...` both say which learning rates are tried")
        if self.trials and not any(".." in option for option in self.search):
            raise ValueError("`trials` draws settings from a range, such as `search=lr=1e-5..1e-3`, and there is none")
        return self

    @property
    def searches(self) -> bool:
        """Return whether settings are searched before the runs that count."""
        return bool(self.search) or self.find_learning_rate

    @property
    def prunes(self) -> bool:
        """Return whether a search gives settings up before their whole length is run."""
        return bool(self.prune) or self.find_learning_rate


class TrialPlacement(Settings):
    """Where the trials of a search run; one after the other in this process if nothing is said."""

    on: Annotated[str | None, METHOD] = None
    """Run the trials of a search side by side: local, in processes of this machine, or another executor."""
    jobs: Annotated[int | None, METHOD] = Field(default=None, ge=1)
    """Most trials of a search at a time [default with `on`: 1, or the number of GPUs]."""


class ServingJob(Settings):
    """How a model on a server is reached."""

    base_url: Annotated[str | None, SERVING] = None
    """The server of a model, such as http://localhost:8000/v1, for the backend openai; `model` is its name there."""
    api_key_variable: Annotated[str | None, SERVING] = None
    """Environment variable that holds the server's key [default: OPENAI_API_KEY, if it is set].

    The key itself is written nowhere.
    """
    request_timeout: Annotated[float, SERVING] = Field(default=300.0, gt=0, le=MAX_COUNT)
    """Seconds without a byte from a server after which a request is sent again."""


class EvaluateJob(ServingJob):
    """How checkpoints are scored."""

    concurrency: Annotated[int, SERVING] = Field(default=8, gt=0, le=MAX_CONCURRENCY)
    """Requests that a server is sent at a time.

    With 1 a server that computes the same for the same requests gives the same answers to the bit.
    """

    backend: Annotated[str, Option()] = AUTO
    """The runtime (`bitnet-bench backends`); auto: ternary where its engine fits, else hf.

    The record says why.
    """
    precision: Annotated[Precision | None, Option()] = None
    """[default: ternary for ternary checkpoints, that of a GGUF file in llamacpp, else the fastest float dtype here]"""
    tokenizer: Annotated[str | None, Option()] = None
    """A folder or a hub id whose tokenizer a GGUF file is read with, where its own is missing or of an unknown kind."""
    read_as: Annotated[ReadAs | None, Option(name="as")] = None
    """Read plain float weights as the masters of a ternary model, where nothing in their files says that they are."""
    data_dir: Annotated[str | None, Option(is_path=True)] = None
    """Folder of local rows; else $BITNET_BENCH_DATA, else the hub."""
    rows: Annotated[dict[str, str], Option(metavar="SUITE:TASK=FILE")] = {}
    """Score your own rows, in a file or hub:ORG/NAME[:SPLIT]. Repeatable.

    `bitnet-bench suites show SUITE:TASK` says which fields they need.
    """
    prompts: Annotated[str, Option()] = DEFAULT_PROMPTS
    """The suite's prompts: `default`, or `lm-eval` for kobest."""
    answer: Annotated[Answer | None, Option()] = None
    """Answer questions with choices by the likelihood of each, or by a text that one is read out of
    [default: as the authors of each set report].
    """
    shots: Annotated[int, Option()] = Field(default=0, ge=0, le=MAX_COUNT)
    """Training examples before every question."""
    seed: Annotated[int, Option()] = Field(default=0, ge=0, le=MAX_SEED)
    """Chooses the training examples of `shots`, and the random numbers of a `temperature`."""
    chat_template: Annotated[bool, Option()] = False
    """Ask through the checkpoint's chat template."""
    limit: Annotated[int | None, Option()] = Field(default=None, gt=0, le=MAX_COUNT)
    """Only the first N rows of each task or file."""
    stage: Literal["before", "after"] | None = None
    """Whether the run stands before or after a fine-tuning; the report sets the two side by side."""
    cache: Annotated[bool, Option()] = True
    """Keep answers and use those that are kept: `bitnet-bench cache`."""
    activations: Annotated[Activations, Option()] = "checkpoint"
    """int8: round what the layers of a model with a scale per group multiply, which it takes as floats. Faster, and an
    approximation: the record says by how much.

    For the backend `ternary`.
    """
    kv_cache: Annotated[KvCache, Option()] = "exact"
    """bf16: keep keys and values in bfloat16. Half of the memory, and an approximation: the record says by how much.

    For the backend `ternary` on the CPU.
    """
    gguf: Annotated[str | None, Option(is_path=True)] = None
    """A GGUF file of your own to run in llamacpp or bitnetcpp; its weights must be the model's."""
    libllama: Annotated[str | None, Option(is_path=True)] = None
    """A libllama of your own (a build with CUDA, bitnet.cpp, ik_llama.cpp): its folder or file.

    Else $BITNET_BENCH_LIBLLAMA, else the wheel of the extra `llamacpp`.
    """
    gpu_layers: Annotated[int, Option()] = Field(default=0, ge=0)
    """Layers that llamacpp or bitnetcpp keeps on the GPU; a build for the CPU has none."""
    bitnetcpp_dir: Annotated[str | None, Option(is_path=True)] = None
    """Your build of microsoft/BitNet; else $BITNETCPP_DIR."""
    allow_mismatch: Annotated[bool, Option(name="allow-mismatch")] = False
    """Run a runtime that computes another model, and mark what it gives."""

    temperature: Annotated[float, GENERATION] = Field(default=0.0, ge=0, le=MAX_TEMPERATURE)
    """0: the most likely token is taken at every step. Above 0: tokens are drawn, with random numbers from `seed`."""
    top_p: Annotated[float, GENERATION] = Field(default=1.0, gt=0, le=1)
    """Draw only from the most likely tokens that have this share of the probability together."""
    top_k: Annotated[int | None, GENERATION] = Field(default=None, gt=0, le=MAX_COUNT)
    """Draw only from the N most likely tokens [default: all]."""
    max_new_tokens: Annotated[int | None, GENERATION] = Field(default=None, gt=0, le=MAX_COUNT)
    """Most tokens of an answer, a thought included [default: as the task says, else 256]."""
    repeats: Annotated[int, GENERATION] = Field(default=1, gt=0, le=MAX_REPEATS)
    """Answers to each row whose answer is generated; needs a `temperature`."""
    system: Annotated[str | None, GENERATION] = Field(default=None, min_length=1)
    """Text of the system turn; needs `chat_template`."""
    thinking: Annotated[Literal["auto", "on", "off"], GENERATION] = "auto"
    """Tell the chat template to let the model think first, or not to; auto: as the template does by itself.

    What follows a thought is scored.
    """

    @model_validator(mode="after")
    def _check_generation(self) -> Self:
        if self.temperature == 0 and self.repeats > 1:
            raise ValueError("`repeats` needs a `temperature` above 0: without one, all answers to a row are the same")
        for name in ("top_p", "top_k"):
            if self.temperature == 0 and getattr(self, name) != self.default(name):
                raise ValueError(f"`{name}` needs a `temperature` above 0: without one, no token is drawn")
        if not self.chat_template and self.system is not None:
            raise ValueError("`system` needs `chat_template`: only a chat template has a place for it")
        if not self.chat_template and self.thinking != "auto":
            raise ValueError("`thinking` needs `chat_template`: it is the template that lets a model think or not")
        return self

    def generation_settings(self) -> dict[str, Any]:
        """Return the settings of how answers are generated that are not the default."""
        return {name: value for name in GENERATION_FIELDS if (value := getattr(self, name)) != self.default(name)}

    @field_validator("rows", mode="before")
    @classmethod
    def _files_by_task(cls, rows: Any) -> Any:
        """Take SUITE:TASK=FILE, which the command line gives, as well."""
        if not isinstance(rows, list | tuple):
            return rows
        found = {}
        for text in rows:
            name, _, file = str(text).partition("=")
            if name.count(":") != 1 or not file:
                raise ValueError(f"{text} is not SUITE:TASK=FILE, such as translation:own_en_ko=pairs.jsonl")
            found[name] = file
        return found

    @model_validator(mode="before")
    @classmethod
    def _rename_former_fields(cls, settings: Any) -> Any:
        return rename_former_fields(settings) if isinstance(settings, Mapping) else settings


class JudgeJob(Settings):
    """How a model judges the answers of runs; `EvaluateJob` says how it is run."""

    mode: Annotated[Literal["single", "pairwise"] | None, Option()] = None
    """single: points for each answer. pairwise: one run's answer against the other's, in both orders.

    [default: single for one run, pairwise for two]
    """
    tasks: Annotated[tuple[str, ...], Option(name="task", metavar="SUITE:TASK")] = ()
    """Only answers to this task [default: all open ones]. Repeatable."""
    prompt: Annotated[str | None, Option(is_path=True)] = None
    """A judge's prompt of your own, in YAML (docs/judging.md) [default: ours, in Korean]."""
    limit: Annotated[int | None, Option()] = Field(default=None, gt=0, le=MAX_COUNT)
    """Only the first N questions of each task."""
    max_new_tokens: Annotated[int, Option()] = Field(default=1024, gt=0, le=MAX_COUNT)
    """Longest verdict in tokens."""
    out: Annotated[str | None, Option(is_path=True)] = None
    """Folder for the verdicts and a copy of each record; the runs stay as they are [default: the run folders]."""


class SuiteTrust(Settings):
    """Whether the code of suites in folders may run. It is no setting of a recipe: a recipe cannot vouch for itself."""

    trust_suite: Annotated[bool, Option("Data", name="trust-suite")] = False
    """Run the code that a suite in a folder brings, now and until one of its files changes."""


class Sharing(Settings):
    """How a report, a comparison or a model card is written for others."""

    keep_paths: Annotated[bool, Option(name="keep-paths")] = False
    """Keep whole paths; else they are shortened, because they name users and projects."""


class CostComparison(Settings):
    """Which costs a report or a leaderboard compares."""

    across_machines: Annotated[bool, Option(name="across-machines")] = False
    """Compare costs of different machines in one table, too, and say so; else each machine has its own."""


class BoardOptions(CostComparison):
    """What a leaderboard shows; () is everything."""

    suites: Annotated[tuple[str, ...], Option(name="suite")] = ()
    """Only this suite. Repeatable."""
    tasks: Annotated[tuple[str, ...], Option(name="task")] = ()
    """Only this task, as SUITE:TASK or as TASK of any suite. Repeatable."""
    categories: Annotated[tuple[str, ...], Option(name="category")] = ()
    """Only this category or label, as records have them in their `parts`. Repeatable."""
    paired: Annotated[bool, Option()] = True
    """Compare twins row by row, which reads their examples; else by standard errors."""
    margin: float = Field(default=MARGIN, ge=0)
    """Difference in points between twins that is too small to matter."""

    @field_validator("suites", mode="after")
    @classmethod
    def _split_commas(cls, suites: tuple[str, ...]) -> tuple[str, ...]:
        """Take several suites with commas as well, as an evaluation does."""
        return tuple(name for given in suites for name in given.split(","))


class MeasureJob(Settings):
    """What is measured, and with what; `bitnet_bench.measurement.scenario.Scenario` says on which work."""

    out: Annotated[str | None, Option(is_path=True)] = None
    """Run folder whose record gains the costs of one checkpoint."""
    backends: Annotated[tuple[str, ...], Option(name="backend")] = (AUTO,)
    """A runtime (`bitnet-bench backends`); auto: ternary where its engine fits, else hf. Repeatable."""
    precisions: Annotated[tuple[Precision, ...], Option(name="precision")] = ()
    """[default: ternary for ternary checkpoints, else fp16 and bf16]"""
    tokenizer: Annotated[str | None, Option()] = None
    """A folder or a hub id whose tokenizer a GGUF file is read with, where its own is missing or of an unknown kind."""
    read_as: Annotated[ReadAs | None, Option(name="as")] = None
    """Read plain float weights as the masters of a ternary model, where nothing in their files says that they are."""
    baselines: Annotated[tuple[str, ...], Option(name="baseline")] = ()
    """Another model to measure beside it, in `hf`; repeatable."""
    floats: Annotated[bool, Option()] = True
    """Always measure FP16 and BF16 beside the others."""
    meter: Annotated[str, Option()] = AUTO
    """auto, rapl, nvml, zeus, codecarbon (a model), trace or none."""
    model_energy: Annotated[bool, Option(name="model-energy")] = False
    """Without a counter, work joules out of operations (modelled)."""


class ChatJob(ServingJob):
    """How models are talked to."""

    backends: Annotated[tuple[str, ...], Option(name="backend")] = (AUTO,)
    """A runtime (`bitnet-bench backends`); auto: ternary where its engine fits, else hf. One for all models, or one for
    each, in their order."""
    precision: Annotated[Precision | None, Option()] = None
    """[default: ternary for ternary checkpoints, that of a GGUF file in llamacpp, else the fastest float dtype here]"""
    tokenizer: Annotated[str | None, Option()] = None
    """A folder or a hub id whose tokenizer a GGUF file is read with, where its own is missing or of an unknown kind."""
    read_as: Annotated[ReadAs | None, Option(name="as")] = None
    """Read plain float weights as the masters of a ternary model, where nothing in their files says that they are."""
    libllama: Annotated[str | None, Option(is_path=True)] = None
    """A libllama of your own (a build with CUDA, bitnet.cpp, ik_llama.cpp): its folder or file.

    Else $BITNET_BENCH_LIBLLAMA, else the wheel of the extra `llamacpp`.
    """
    gpu_layers: Annotated[int, Option()] = Field(default=0, ge=0)
    """Layers that llamacpp or bitnetcpp keeps on the GPU; a build for the CPU has none."""
    system: Annotated[str | None, GENERATION] = Field(default=None, min_length=1)
    """Text of the system turn."""
    temperature: Annotated[float, GENERATION] = Field(default=0.0, ge=0, le=100)
    """0: the most likely token is taken at every step. Above 0: tokens are drawn, with random numbers from `seed`."""
    top_p: Annotated[float, GENERATION] = Field(default=1.0, gt=0, le=1)
    """Draw only from the most likely tokens that have this share of the probability together."""
    top_k: Annotated[int | None, GENERATION] = Field(default=None, gt=0, le=MAX_COUNT)
    """Draw only from the N most likely tokens [default: all]."""
    seed: Annotated[int, GENERATION] = Field(default=0, ge=0, le=MAX_SEED)
    """Seed of everything random."""
    max_new_tokens: Annotated[int, GENERATION] = Field(default=512, gt=0, le=MAX_COUNT)
    """Most tokens of an answer."""

    @model_validator(mode="after")
    def _check_drawing(self) -> ChatJob:
        for name in ("top_p", "top_k"):
            if self.temperature == 0 and getattr(self, name) != self.default(name):
                raise ValueError(f"`{name}` needs a `temperature` above 0: without one, no token is drawn")
        return self
