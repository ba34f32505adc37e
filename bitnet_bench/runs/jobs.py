"""What a user asks for: a fine-tuning, an evaluation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bitnet_bench.runs.choices import Precision, TrainingPrecision
from bitnet_bench.runs.value import Value

AUTO_SEQUENCES = 16
"""Sequences of a step, for each gradient accumulation that is asked for, where the batch size is auto."""


class FinetuneJob(Value):
    """One training run. The FP16 twin of a job is the same job with another model, precision and out."""

    model: str
    data: tuple[str, ...]
    data_dir: str | None = None
    out: str
    validation: tuple[str, ...] = ()
    """JSONL files whose loss is taken before, during and after training."""
    hold_out: float = Field(default=0.0, ge=0, lt=1)
    """Share of the rows that is kept from training and joins the validation rows; the same for every seed."""
    method: Literal["sft", "pretrain", "dpo", "distill"] = "sft"
    precision: TrainingPrecision = "ternary"
    template: str = "auto"
    """A name (`bitnet_bench.data.templates.NAMES`), or a file that holds a Jinja chat template."""
    template_sha256: str | None = None
    """Of such a file; filled in when the job is run."""
    epochs: float = Field(default=3.0, gt=0)
    max_steps: int | None = Field(default=None, gt=0)
    learning_rate: float | None = Field(default=None, gt=0)
    """The peak; None: from the table of `bitnet_bench.training.rates`, filled in when the job is run."""
    learning_rate_source: str | None = None
    """Where a rate from that table comes from, filled in with it; None for a rate that was given."""
    float_learning_rate: float | None = Field(default=None, gt=0)
    """Of what is not ternary (embeddings, head, norms); None: the same."""
    schedule: Literal["cosine", "linear", "constant", "two-stage"] = "cosine"
    """two-stage: linear, in the second half at 2/3 and without weight decay (the b1.58 recipe for pre-training)."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    loss_reduction: Literal["mean", "sum"] = "mean"
    """Over the tokens of a step. sum: as in the fine-tuning of bitnet-b1.58-2B-4T; longer batches weigh more."""
    ternary_warmup: int = Field(default=0, ge=0)
    """Steps over which weights and activations become ternary by and by (lambda warm-up)."""
    freeze: tuple[Literal["embeddings", "head", "norms"], ...] = ()
    neftune_alpha: float | None = Field(default=None, gt=0)
    """Uniform noise on embeddings while training, of magnitude alpha / sqrt(length x width) (arXiv:2310.05914)."""
    lora_rank: int | None = Field(default=None, gt=0)
    """Train adapters of this rank inside the quantizer, merged at the end, and nothing else."""
    lora_alpha: float = Field(default=16.0, gt=0)
    gradient_checkpointing: bool = False
    shard: bool = False
    """Split masters, gradients and optimizer states over the processes (FSDP2), instead of a copy in each."""
    subln: bool = False
    """Add BitNet's two norms to a Llama, Mistral or Qwen2 model before training."""
    teacher: str | None = None
    """Of distill: a float checkpoint with the same tokenizer."""
    distill_weight: float = Field(default=10.0, ge=0)
    """lambda, of the teacher's probabilities."""
    temperature: float = Field(default=5.0, gt=0)
    relation_weight: float = Field(default=1.0, ge=0)
    """gamma, of the relations of queries, keys and values."""
    relation_layer: int = -1
    relation_heads: int = Field(default=8, gt=0)
    beta: float = Field(default=0.1, gt=0)
    """Of DPO: how strongly the policy is held to its reference."""
    batch_size: Annotated[int, Field(gt=0)] | Literal["auto"] = 16
    """Sequences, or pairs, of a forward pass.

    auto: as many as fit the free memory, with gradient_accumulation raised so that a step keeps `AUTO_SEQUENCES` times
    its value; both are filled in when the job is run.
    """
    gradient_accumulation: int = Field(default=1, gt=0)
    max_length: int = Field(default=256, gt=1)
    packing: bool = False
    """Put several short rows into one sequence of up to max_length tokens, where none sees another."""
    compute: Literal["auto", "fp32", "bf16"] = "auto"
    """The dtype of matrix products outside the ternary forward; masters and scales are float32 always.

    auto: what this machine is fast at, filled in when the job is run; a run goes on only with the same.
    """
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the layers; auto: on a GPU in runs so long that it pays, filled in when the job is run."""
    seed: int = 0
    limit: int | None = Field(default=None, gt=0)
    save_every: int = Field(default=200, gt=0)
    """Steps between saved states."""
    save_minutes: float = Field(default=5.0, ge=0)
    """Minutes between saved states, whichever of the two comes first; 0: by steps only."""
    keep_masters: bool = False
    """Keep the float32 masters beside the packed result, in `<out>/masters`."""
    track: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    """Where figures go while the run goes on, beside the record; TensorBoard files are in `<out>/tensorboard`."""

    @model_validator(mode="after")
    def _fits(self) -> FinetuneJob:
        if (self.method == "distill") != (self.teacher is not None):
            raise ValueError("--method distill needs a --teacher, and no other method has one")
        if self.method == "dpo" and self.neftune_alpha:
            raise ValueError("--neftune-alpha would make the policy differ from its reference; dpo has none")
        if self.packing and self.method == "dpo":
            raise ValueError("--packing puts rows into one sequence, and dpo compares an answer with its pair's other")
        if self.packing and self.method == "pretrain":
            raise ValueError("--packing is for rows with responses; pretrain joins documents end to end already")
        if self.lora_rank and self.freeze:
            raise ValueError("--lora-rank trains adapters only: there is nothing to --freeze")
        if self.compile == "on" and self.ternary_warmup:
            raise ValueError("--ternary-warmup changes the layers at every step, and --compile would compile them anew")
        return self

    @property
    def sequences(self) -> int:
        """Sequences of a forward pass; of a batch size that is still auto, the most that it may become."""
        return AUTO_SEQUENCES if self.batch_size == "auto" else self.batch_size

    @property
    def peak_rate(self) -> float:
        """The learning rate of a job that is run."""
        assert self.learning_rate is not None, "rates.with_default_rate fills the learning rate in"
        return self.learning_rate

    def settings(self) -> dict[str, Any]:
        """Return what decides the result: all but where it is written, how often it is saved, and who runs it how."""
        undecisive = {"out", "save_every", "save_minutes", "track", "shard", "compile", "learning_rate_source"}
        return self.model_dump(mode="json", exclude=undecisive)


class EvaluateJob(Value):
    """How checkpoints are scored."""

    backend: str = "auto"
    """auto: `ternary` for ternary weights that the engine fits, else `hf`; the record says why."""
    precision: Precision | None = None
    """None: ternary checkpoints as ternary, float ones in the fastest float dtype of the machine."""
    data_dir: str | None = None
    rows: dict[str, str] = {}
    """The user's own rows: SUITE:TASK -> file."""
    prompts: str = "default"
    """One of the suite's prompts."""
    shots: int = Field(default=0, ge=0)
    seed: int = 0
    """Chooses the few-shot examples."""
    chat_template: bool = False
    limit: int | None = Field(default=None, gt=0)
    stage: Literal["before", "after"] | None = None
    """Whether the run stands before or after a fine-tuning; the report sets the two side by side."""
    cache: bool = True
    """Keep answers, and take those that are kept."""
    gguf: str | None = None
    """A file to run in llamacpp or bitnetcpp instead of one that is exported."""
    bitnetcpp_dir: str | None = None
    """The user's own build of microsoft/BitNet."""
    despite_parity: bool = False
    """Score a runtime although it computes another model."""
