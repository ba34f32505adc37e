"""Define the values in the files of a run: what a job was, what a model scored, what it cost, and where."""

from __future__ import annotations

import statistics
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from bitnet_bench.runs.choices import Format, Precision, ReadAs, RecordedPrecision
from bitnet_bench.runs.jobs import FinetuneJob, rename_former_fields
from bitnet_bench.runs.machines import Machine, Neighbours, make_machine
from bitnet_bench.runs.value import GrownValue, Value

SCHEMA_VERSION = 1
RowPacking = Literal["off", "step", "full"]
"""How rows share sequences; see `FinetuneRecord.packing`."""
ROWS_INPUT = "data rows"
"""Name of the digest of the training rows in `FinetuneRecord.inputs`."""


class Checkpoint(GrownValue):
    """Properties of a checkpoint, read from its files (`bitnet_bench.checkpoints.inspect.inspect_folder`)."""

    ADDED: ClassVar[tuple[str, ...]] = (
        "group_size",
        "ternary_tables",
        "quantizes_activations",
        "gguf_types",
        "read_as",
        "endpoint",
        "served_as",
    )

    source: str
    """Name that the user gave: a folder, a GGUF file, a hub id, an embedded checkpoint such as `demo`, or the name of a
    model on a server."""
    path: str
    """Folder with its config.json and tokenizer; of a GGUF file, one in the cache that is made from its metadata; empty
    for a served model."""
    revision: str | None = None
    architecture: str
    format: Format
    scale_direction: Literal["multiply", "divide"] | None = None
    """Operation of a stored `weight_scale` on the integer product; None if none is stored."""
    inner_norm: Literal["plain", "learned"] | None = None
    """RMSNorm inside every ternary layer, before its activations are quantized: without (plain) or with weights
    (learned)."""
    inner_norm_eps: float | None = None
    dtype: str
    """Dtype of the weights that are not ternary; of a GGUF file, a type of ggml, such as Q4_K."""
    sha256: str
    """Digest of the weight files, in name order; of a served model, whose weights cannot be seen, of its endpoint, its
    name, and what the server says of it."""
    weight_bytes: dict[str, int]
    """Bytes on disk by kind: ternary, linear, embedding, head, norm. A tied head adds nothing."""
    parameters: int
    ternary_parameters: int
    zero_density: float | None = None
    """Share of codes that are 0; None if codes are not stored but computed from masters."""
    group_size: int | None = None
    """Inputs that share a scale, which each row has of its own; None if a layer has one scale."""
    ternary_tables: tuple[str, ...] = ()
    """Modules of embedding and head that are ternary too."""
    quantizes_activations: bool = True
    """Whether the model was made to round the inputs of its ternary layers to int8, as BitNet b1.58 does."""
    gguf_types: dict[str, int] = {}
    """Bytes by tensor type, if the checkpoint is a GGUF file; {} if it is a folder."""

    read_as: ReadAs | None = None
    """What the user said that the float weights are, where nothing in the files says it; None if nothing was said."""
    endpoint: str | None = None
    """Base URL of the server that holds the model; None if its files are here."""
    served_as: dict[str, Any] = {}
    """What the server says of the model; {} if its files are here."""

    @property
    def weights_id(self) -> str:
        """Return the digest of the weight files and, if the user said it, what they are read as."""
        return f"{self.sha256}-{self.read_as}" if self.read_as else self.sha256

    @property
    def is_served(self) -> bool:
        """Return whether a server holds the model, so that its weights can be neither read nor digested."""
        return self.endpoint is not None

    @property
    def is_gguf(self) -> bool:
        """Return whether the checkpoint is a GGUF file."""
        return bool(self.gguf_types)

    @property
    def float_dtype(self) -> str:
        """Return the dtype to save floats in that were trained from it: its own, or bfloat16 if that is no dtype."""
        return self.dtype if self.dtype in ("float16", "float32") else "bfloat16"

    @property
    def is_ternary(self) -> bool:
        """Return whether the checkpoint is meant to be run with ternary weights."""
        return self.format not in ("float", "served")

    @property
    def has_codes_only(self) -> bool:
        """Return whether the ternary layers are stored as 2-bit codes, so that there are no float weights to run."""
        return self.format in ("bitlinear", "autobitlinear", "packed")


class Conversion(Value):
    """What a float model lost when its weights became ternary, and what training gave back, in nats a token."""

    rows: Literal["validation", "training"]
    """Rows of the losses: those held out, or the first training rows (the curve: each step's own)."""
    float_loss: float
    """Mean loss of the float model."""
    ternary_loss: float
    """Mean loss right after its weights became ternary and, with `subln`, its norms were added."""
    curve: tuple[tuple[int, float], ...] = ()
    """Pairs (tokens up to a logged step, that one included; loss).

    Of held-out rows the loss is that after the step. Of training rows it is the mean over the steps since the pair
    before, each before it changed any weight, without those of a `ternary_warmup`.
    """


class FinetuneRecord(GrownValue):
    """The result of a training run: written to `finetune.json` next to the checkpoint that it made."""

    ADDED: ClassVar[tuple[str, ...]] = ("inputs", "conversion", "packing")

    schema_version: int = SCHEMA_VERSION
    job: FinetuneJob
    backend: str
    base: Checkpoint
    result: Checkpoint
    rows: int
    dropped_rows: int
    truncated_rows: int
    overlapping_rows: int = 0
    """Number of rows of a task's training split that were left out because they are also in its evaluation."""
    data_sha256: str
    steps: int
    train_loss: float
    """Mean loss over the last tenth of the steps, in nats: per response token, for DPO per pair."""
    first_loss: float | None = None
    """Loss of the first wholly ternary step, before it changed a weight; for distillation the cross-entropy alone."""
    last_loss: float | None = None
    """Mean of the same loss over the last tenth of the steps."""
    guessing_loss: float | None = None
    """Loss of guessing: ln vocabulary, for DPO ln 2. None, like the two above, in records of older versions."""
    history: tuple[dict[str, float], ...]
    validation: tuple[dict[str, float], ...] = ()
    """Validation results by step: loss in nats per response token (for DPO per pair), with margin and accuracy."""
    validation_rows: int = 0
    packing: RowPacking | None = None
    """off: a sequence for each row, or texts end to end. step: rows of a step that fit beside its longest row share a
    sequence, where none sees another. full: sequences are filled from all rows. None in records of older versions."""
    warnings: tuple[str, ...] = ()
    train_seconds: float
    resumed_from_step: int
    environment: Environment
    inputs: dict[str, str] = {}
    """sha256 of what was read, by name: base weights, tokenizer, chat template, configuration, data rows, validation
    rows, teacher weights. {} in records of older versions."""
    conversion: Conversion | None = None
    """None if the base was ternary already, or the result is not, and for DPO, whose losses are of pairs."""


class Trial(GrownValue):
    """One run of a search."""

    ADDED: ClassVar[tuple[str, ...]] = ("share", "steps")

    arm: str
    settings: dict[str, str]
    seed: int
    out: str
    validation_loss: float | None
    """Validation loss at the end, in nats per response token (for DPO per pair); None if the run diverged."""
    error: str | None = None
    share: float = 1.0
    """Length of the run as a share of the whole job; its schedule has the same length."""
    steps: int | None = None
    """Optimizer steps that the run took, up to where it diverged; None in records of older versions."""


class SearchRecord(GrownValue):
    """The settings that a search tried, and the choice made on validation rows: written to `search.json`."""

    ADDED: ClassVar[tuple[str, ...]] = (
        "ladders",
        "prune",
        "choice",
        "reasons",
        "warnings",
        "studies",
        "sampler",
        "sampler_seed",
        "pruned",
        "steps",
    )

    schema_version: int = SCHEMA_VERSION
    grid: dict[str, tuple[str, ...]]
    """Field -> the values that were tried, or the range such as `1e-5..1e-3` that they were drawn from."""
    ladders: dict[str, tuple[str, ...]] = {}
    """Arm -> the learning rates that it tried beside the grid, around its own default."""
    prune: Literal["halving"] | None = None
    """How settings were given up before their whole length was run; None if all were run in full."""
    seeds: int
    trials: tuple[Trial, ...] = ()
    choice: dict[str, dict[str, str]] = {}
    """Arm -> its best settings."""
    reasons: dict[str, str] = {}
    """Arm -> why these: the losses that were compared last."""
    chosen: dict[str, tuple[str, ...]] = {}
    """Arm -> the folders of its best settings, one per seed."""
    warnings: tuple[str, ...] = ()
    studies: dict[str, str] = {}
    """Arm -> the name of its Optuna study in `search.journal`; {} in older records, like the fields below."""
    sampler: str | None = None
    """What chose the settings: every combination, or a sampler of Optuna with its version."""
    sampler_seed: int | None = None
    pruned: dict[str, tuple[dict[str, str], ...]] = {}
    """Arm -> the settings that were given up before their whole length was run, those that diverged apart."""
    steps: dict[str, int] = {}
    """Arm -> the optimizer steps of all its trials."""

    def count_steps(self, arm: str) -> int:
        """Return the optimizer steps that *arm* took in all its trials."""
        return sum(trial.steps or 0 for trial in self.trials if trial.arm == arm)


class Environment(Value):
    """The machine and the software with which a number was made."""

    time: str
    platform: str
    python: str
    cpu: str
    cores: int
    threads: int
    memory_bytes: int
    packages: dict[str, str]
    command: str
    gpu: str | None = None
    """GPU, its driver, torch's CUDA and Triton; None if torch was not loaded, or computes on the CPU."""

    @property
    def machine(self) -> Machine:
        """Return the machine as far as it is recorded here: that of a cost which does not say where it was measured."""
        gpus = (self.gpu.partition(" (")[0],) if self.gpu else ()
        return make_machine(self.cpu, self.cores, self.memory_bytes, gpus)


class Score(GrownValue):
    """One metric on one task, with its uncertainty and a signature that says exactly what was computed."""

    ADDED: ClassVar[tuple[str, ...]] = ("part_counts", "part_errors")

    task: str
    metric: str
    value: float
    stderr: float | None
    """Standard error; None if none is defined; never 0 for a missing one."""
    n: int
    signature: str
    primary: bool = False
    chance: float | None = None
    majority: float | None = None
    """The metric of always answering the most frequent target of these rows; None for a task that generates."""
    limits: tuple[float, float | None] = (0.0, 100.0)
    """Least and greatest value of the metric; None if it has no greatest."""
    lower_is_better: bool = False
    parts: dict[str, float] = {}
    """The same metric by label, entity type or n-gram order, if it has such parts; of the rows of each category or
    subject, if the task has them, under names such as `category=history`."""
    part_counts: dict[str, int] = {}
    """Rows of each part that is made of rows."""
    part_errors: dict[str, float] = {}
    """Standard error of each such part; a part without one has too few rows."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % interval within the metric's limits: normal, or Wilson's if every example came out alike."""
        from bitnet_bench.statistics import interval  # with numpy, which few readers of a record need

        return interval(self.value, self.stderr, *self.limits, n=self.n)

    @property
    def stderr_for_means(self) -> float | None:
        """Return the standard error; if every example came out alike, the interval's longer side over 1.96."""
        from bitnet_bench.statistics import ALIKE_STDERR, NORMAL_95

        if self.stderr is None or self.stderr > ALIKE_STDERR:
            return self.stderr
        if self.interval is None:
            return None
        return max(self.value - self.interval[0], self.interval[1] - self.value) / NORMAL_95


class Answer(GrownValue):
    """One of several answers to a row."""

    ADDED: ClassVar[tuple[str, ...]] = ("output_labels", "output_choice", "malformed", "cut", "thought", "unfinished")

    output: str
    output_labels: tuple[str, ...] = ()
    output_choice: int | None = None
    malformed: bool = False
    cut: bool = False
    thought: str = ""
    unfinished: bool = False
    correct: float
    """Primary metric on this answer alone, in 0..1."""


class AnsweredTurn(GrownValue):
    """One turn of an open task: what was asked, what the model answered, and a good answer where the row has one."""

    ADDED: ClassVar[tuple[str, ...]] = ("thought", "cut", "unfinished")

    question: str
    answer: str
    reference: str | None = None
    thought: str = ""
    """What the model wrote before its answer, if it thought."""
    cut: bool = False
    """True if the limit of new tokens ended the answer."""
    unfinished: bool = False
    """True if the thought did not end, so that there is no answer."""


class Example(GrownValue):
    """One evaluated row, with enough to score it again and to compare two runs pairwise.

    With `repeats`, the output and what is said of it are the first answer's; `answers` has all of them.
    """

    ADDED: ClassVar[tuple[str, ...]] = ("cut", "thought", "unfinished", "answers", "groups", "turns")

    task: str
    doc_id: int
    prompt: str
    choices: tuple[str, ...] = ()
    loglikelihoods: tuple[float, ...] = ()
    target: str
    target_choice: int | None = None
    """Index into choices; None for a task that generates."""
    references: tuple[str, ...] = ()
    output: str
    output_choice: int | None = None
    target_labels: tuple[str, ...] = ()
    """Gold answer of a structured task: a tag for each character (NER), "head relation" for each word (DP), the slots
    of a dialogue state (WOS)."""
    output_labels: tuple[str, ...] = ()
    """The output in the same form; a malformed output is `malformed_labels`, which agrees with no gold."""
    target_value: float | None = None
    """Gold number of a graded task (STS)."""
    output_value: float | None = None
    """Number that the model gave: the mean of the choices' values under their probabilities."""
    malformed: bool = False
    """True if the output did not follow the task's grammar: it is scored as wrong, and counted."""
    cut: bool = False
    """True if the limit of new tokens ended the output."""
    thought: str = ""
    """What the model wrote before its answer, if it thought."""
    unfinished: bool = False
    """True if the thought did not end, so that there is no answer: it is scored as wrong, and counted."""
    answers: tuple[Answer, ...] = ()
    """All answers to the row if it was asked several times, in the order of their draws; else ()."""
    groups: dict[str, str] = {}
    """What the row belongs to, such as {"category": "history"}."""
    correct: float
    """Primary metric on this row alone, in 0..1; with several answers their mean; 0 for an open task."""
    turns: tuple[AnsweredTurn, ...] = ()
    """Questions and answers of an open task, in order; () for any other task."""

    def each_answer(self) -> tuple[Example, ...]:
        """Return an example for each answer, as if it were the only one."""
        if not self.answers:
            return (self,)
        own = self.model_copy(update={"answers": ()})
        return tuple(own.model_copy(update=dict(answer)) for answer in self.answers)


class Measured(Value):
    """A number that was read on this machine; *readings* are the raw repetitions."""

    kind: Literal["measured"] = "measured"
    unit: str
    method: str
    readings: tuple[float, ...] = Field(min_length=1)

    @property
    def median(self) -> float:
        """Return the median reading, in *unit*."""
        return statistics.median(self.readings)


class Modelled(Value):
    """A number that a formula gave; it is never shown as measured."""

    kind: Literal["modelled"] = "modelled"
    unit: str
    model: str
    value: float


class Unavailable(Value):
    """A missing number, and the reason."""

    kind: Literal["unavailable"] = "unavailable"
    reason: str


Measurement = Annotated[Measured | Modelled | Unavailable, Field(discriminator="kind")]


class RuntimeParity(Value):
    """Distance of another runtime's results from the checkpoint that it was given, on a few Korean prompts."""

    runtime: str
    """Name and version of the runtime."""
    prompt_tokens: int
    """Number of tokens of the prompts; 0 if nothing was compared."""
    same_tokens: bool | None = None
    """True if the runtime's own tokenizer gives the checkpoint's ids; None if it was not tested."""
    mean_error: float | None = None
    """Mean |difference| of log-probabilities over the vocabulary, in nats."""
    relative_error: float | None = None
    """The same difference in standard deviations of the source's log-probabilities."""
    bound: float | None = None
    """Maximum of relative_error that is accepted."""
    fault: str | None = None
    """Fault of the runtime, by name if it is known; None if the error is within the bound."""
    activation: str | None = None
    """Activation that the runtime computes, by the smallest distance; None if others than the checkpoint's were not
    tried, or none explains the fault."""
    remark: str | None = None
    """How its tokenizer differs. That is no fault: ids are given to the runtime, not text."""


MAX_FOREIGN_SHARE = 0.1
"""Share of the cores used by other processes above which a timing counts as disturbed."""


class DroppedRound(Value):
    """A round that other work disturbed even when it was repeated; the numbers are of the other rounds."""

    round: int
    why: tuple[str, ...]
    prefill_s: float
    decode_s: float
    """Seconds per token."""


class Cost(GrownValue):
    """The cost of running one checkpoint at one precision in its own process."""

    ADDED: ClassVar[tuple[str, ...]] = ("machine", "neighbours")

    backend: str
    backend_reason: str | None = None
    """Reason why `auto` chose the backend; None if the user named it."""
    runtime: str | None = None
    """The backend's description of what computed: the device, the kernels, the dtypes; None if it gives none."""
    precision: Precision
    prompt_tokens: int
    new_tokens: int
    batch: int
    threads: int
    weight_bytes: dict[str, int]
    """Bytes on disk by kind."""
    resident_weight_bytes: int
    """Bytes of the weights as this backend holds them in memory."""
    kv_bytes: int
    """Bytes of the key-value cache after the whole scenario."""
    metrics: dict[str, Measurement]
    """Numbers by name: load_s; prefill_s (the time to the first token), prefill_tokens_per_s; decode_s (per token),
    decode_tokens_per_s; token_p50_s, token_p95_s, token_p99_s; peak_bytes; energy_j and energy_net_j (per example), the
    same _per_token; idle_power_w; prefill_floor_s and decode_floor_s, which are modelled."""
    foreign_load: float
    """Mean share of the machine's cores that other processes used during the measurement, 0..1."""
    resident_by_kind: dict[str, int] = {}
    """Bytes in memory by kind and dtype, such as `head bfloat16`; empty if the backend does not report them."""
    conditions: dict[str, Measurement] = {}
    """State of the machine during the measurement: frequency_hz, pace_s (of a fixed piece of work), stolen (share of
    the cores), throttled (events), swapped_bytes; of a GPU gpu_prefill_s and gpu_decode_s (its own time), card_bytes,
    gpu_frequency_hz, gpu_heat_s and gpu_power_s (for how long they held its clock down)."""
    disturbances: tuple[str, ...] = ()
    """Rounds that were disturbed even when they were repeated, and by what."""
    left_out: tuple[DroppedRound, ...] = ()
    """Disturbed rounds that are in no number above, because enough others were made."""
    once_because: str | None = None
    """Reason why there is only one round, and so no interval; None if the budget had time for more."""
    parity: RuntimeParity | None = None
    """Comparison of the runtime with the checkpoint, if it is another project's; one with a fault was measured because
    the user allowed it."""
    machine: Machine | None = None
    """Machine that it was measured on, which need not be the one that scored; None in records of older versions."""
    neighbours: Neighbours | None = None
    """What else worked on that machine; None in records of older versions."""

    @property
    def is_disturbed(self) -> bool:
        """Return whether numbers are in doubt: other work disturbed their rounds, and there were too few quiet ones."""
        return self.foreign_load > MAX_FOREIGN_SHARE or (bool(self.disturbances) and not self.left_out)


class Estimated(Value):
    """A number that was computed from a sample, with its 95 % interval."""

    kind: Literal["estimated"] = "estimated"
    value: float
    interval: tuple[float, float] | None = None
    """The interval; None if none is defined or the sample is too small."""


class RatedItem(Value):
    """What all raters together said about one question of a sheet."""

    task: str
    doc_id: int
    wins_a: int
    ties: int
    wins_b: int
    points_a: float
    """Mean of run A's points over raters and scales, 1..5."""
    points_b: float


class HumanJudgement(GrownValue):
    """Blind judgement by people of the answers of two runs (`bitnet_bench.rating`)."""

    ADDED: ClassVar[tuple[str, ...]] = ("rated",)

    sheet: str
    """Digest of what they were shown."""
    a: str
    b: str
    a_sha256: str
    """Digest of run A's weights."""
    b_sha256: str
    tasks: tuple[str, ...]
    items: int
    raters: tuple[str, ...]
    wins_a: int
    ties: int
    wins_b: int
    win_rate: Estimated
    """Win rate of A over B, 0..100, a tie being half a win, with Wilson's interval over items."""
    scales: dict[str, dict[Literal["a", "b", "difference"], Estimated]]
    """fluency, accuracy and relevance, 1..5: means over items of each item's mean over raters."""
    alpha: dict[str, Annotated[Estimated | Unavailable, Field(discriminator="kind")]]
    """Krippendorff's alpha of the preference (nominal) and of each scale (ordinal)."""
    rated: tuple[RatedItem, ...] = ()
    """The same by question; () in records of older versions, and for sheets that they wrote."""


PossibleEstimate = Annotated[Estimated | Unavailable, Field(discriminator="kind")]


class PositionBias(Value):
    """How far the verdicts of a judge of pairs depend on which answer is shown first."""

    pairs: int
    """Pairs of answers with a usable verdict in both orders."""
    flips: int
    """Pairs in which the judge preferred one run in one order and the other run in the other order."""
    first: PossibleEstimate
    """Share of the verdicts with a preference that prefer the answer shown first, in per cent: 50 without bias."""

    @property
    def flip_share(self) -> float | None:
        """Return the share of pairs that flip, in per cent; None without pairs."""
        return 100 * self.flips / self.pairs if self.pairs else None


class JudgeAgreement(Value):
    """How far a judge agrees with people on the same questions."""

    sheet: str
    """Digest of what people were shown (`HumanJudgement.sheet`)."""
    raters: int
    questions: int
    kind: Literal["preference", "points"]
    """preference: A, tie or B. points: the judge's score of this run's answer beside people's points."""
    share: PossibleEstimate
    """Questions with the same preference, in per cent."""
    alpha: PossibleEstimate
    """Krippendorff's alpha (nominal) of the preference; Spearman's rank correlation for points."""


class JudgedPart(Value):
    """A judge's scores of the questions of one category."""

    score: PossibleEstimate
    turns: tuple[PossibleEstimate, ...]
    questions: int
    complete: int


class JudgedScore(Value):
    """What a judge, which is a model, said of the answers to one task. It is never mixed with measured metrics."""

    task: str
    mode: Literal["single", "pairwise"]
    """single: points for each answer. pairwise: this run's answer against another run's, in both orders."""
    judge: str
    """Name of the judge as the user gave it."""
    signature: str
    """Everything that decides a verdict: the judge's model, weights, runtime and precision, the prompt and settings."""
    prompt: str
    """Name and version of the judge's prompt."""
    prompt_sha256: str
    opponent: str = ""
    """Name of the other run, for pairwise."""
    opponent_sha256: str = ""
    """Digest of the other run's weights."""
    scale: tuple[float, float]
    """Least and greatest score: of the prompt, or 0..100 for a win rate."""
    score: PossibleEstimate
    """Mean over questions of the mean over turns; for pairwise the win rate, where a tie is half a win."""
    turns: tuple[PossibleEstimate, ...]
    """The same for each turn, over the questions with a usable verdict for it."""
    questions: int
    """Questions that were judged."""
    complete: int
    """Questions with a usable verdict for all turns (and orders): those that `score` is about."""
    categories: dict[str, JudgedPart]
    """The same for each category; {} if the task has none."""
    verdicts: int
    """Verdicts that were asked for."""
    unparsable: int
    """Verdicts from which no score could be read. They are in no mean."""
    reasons: dict[str, int] = {}
    """Why verdicts could not be read, with counts."""
    cut: int = 0
    """Prompts that lost their beginning, because the judge's context is too short for them."""
    wins: int = 0
    """Pairs in which both orders prefer this run; losses and ties likewise, and a tie is also a pair that flips."""
    ties: int = 0
    losses: int = 0
    position: PositionBias | None = None
    """None for single scores."""
    people: tuple[JudgeAgreement, ...] = ()
    """Agreement with people, if they rated the same questions."""
    is_own: bool = False
    """True if the judge is the model that it judges, or that of the other run."""
    verdicts_file: str = ""
    """File of the verdicts, relative to the run folder, and in `verdicts_sha256` its digest."""
    verdicts_sha256: str = ""


class ServedTask(Value):
    """What a server counted, and how long it took, for the generated answers of a task."""

    answers: int
    prompt_tokens: int | None = None
    """Tokens of the prompts as the server counts them; None if it does not say."""
    new_tokens: int | None = None
    cut: int = 0
    """Number of answers that ended at the limit of new tokens."""
    first_token_s: tuple[float, float] | None = None
    """Median and 95th percentile of the time to the first token, waiting and network included."""
    answer_s: tuple[float, float] | None = None
    """Median and 95th percentile of the time of a whole answer."""


class RunRecord(GrownValue):
    """The results of one checkpoint in one run folder (`record.json`)."""

    ADDED: ClassVar[tuple[str, ...]] = ("inputs", "once_unsealed", "answered", "judged", "serving")

    schema_version: int = SCHEMA_VERSION
    name: str
    checkpoint: Checkpoint
    backend: str
    """Backend that ran; never `auto`."""
    backend_reason: str | None = None
    """Reason why `auto` chose the backend; None if the user named it."""
    precision: RecordedPrecision
    runtime: str | None = None
    """The backend's description of what computed: the device, the kernels, the dtypes; None if it gives none."""
    suites: dict[str, str] = {}
    """Suite name -> version."""
    settings: Annotated[dict[str, Any], AfterValidator(rename_former_fields)] = {}
    """Settings that the user passed: limit, data_dir, prompts, shots, seed, chat_template."""
    data: dict[str, str] = {}
    """Task -> sha256 of the rows that were scored."""
    sources: dict[str, str] = {}
    """Task -> the file, or the hub id and revision, that its rows come from."""
    samples: dict[str, str] = {}
    """Task -> sha256 of the file of its examples, as it was written."""
    chat_template_sha256: str | None = None
    """Digest of the checkpoint's chat template, if the prompts used it."""
    counts: dict[str, int] = {}
    """Counts of requests, of those answered from the cache, of truncated prompts, of malformed outputs."""
    errors: dict[str, str] = {}
    """Task -> why it could not be scored; the same command tries it again."""
    scores: tuple[Score, ...] = ()
    answered: dict[str, int] = {}
    """Open task -> the questions that are answered. It has no metric: people (`judgements`) or a judge (`judged`) score
    it."""
    costs: tuple[Cost, ...] = ()
    judgements: tuple[HumanJudgement, ...] = ()
    """Judgements by people of this run against another one."""
    judged: tuple[JudgedScore, ...] = ()
    """Scores by judges, which are models: a type of its own, in no mean with `scores`."""
    cost_errors: dict[str, str] = {}
    """Backend and precision -> why it could not be measured."""
    cost_left_out: dict[str, str] = {}
    """Backend and precision -> why the budget left it out, which is not a failure."""
    serving: dict[str, ServedTask] = {}
    """Task -> what a server said and took to answer it; {} if the model was run here."""
    seconds: float = 0.0
    """Seconds spent on scoring; an answer from the cache takes none."""
    environment: Environment
    inputs: dict[str, str] = {}
    """sha256 of what scores depend on, by name: the checkpoint's tokenizer, chat template and configuration; rows,
    definition and few-shot examples of each scored task. {} in records of older versions."""
    once_unsealed: bool = False
    """True if the run was read from, or extends, a record without a checksum, so that changes cannot be detected."""

    @property
    def finished_tasks(self) -> tuple[str, ...]:
        """Return the tasks that were asked to the end: those with a score, and open ones, which have answers only."""
        return tuple(dict.fromkeys((*(score.task for score in self.scores), *self.answered)))


FinetuneRecord.model_rebuild()
