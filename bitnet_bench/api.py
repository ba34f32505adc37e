"""The composition root: open plugins, hand checkpoints, rows and sessions on, keep what comes back."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bitnet_bench import plugins
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.files import write_whole
from bitnet_bench.machine.environment import environment
from bitnet_bench.machine.gpu import find_gpu
from bitnet_bench.machine.runtime_choice import AUTO, FALLBACK, choose_backend
from bitnet_bench.protocols import (
    MARGIN,
    NO_OPTIONS,
    CheckedBackend,
    InferenceBackend,
    Ingredients,
    Progress,
    ReportOptions,
    RuntimeOptions,
    Steps,
    TrainingBackend,
)
from bitnet_bench.runs import folder as store
from bitnet_bench.runs.records import (
    Checkpoint,
    EvaluateJob,
    FinetuneJob,
    FinetuneRecord,
    Format,
    Precision,
    RunRecord,
)
from bitnet_bench.runs.twins import TWIN_SUFFIX, find_twin, is_run

if TYPE_CHECKING:
    from bitnet_bench.checkpoints.gguf.file_parity import FileParity
    from bitnet_bench.checkpoints.gguf.types import Form
    from bitnet_bench.checkpoints.layers import Inspection
    from bitnet_bench.checkpoints.parity import Logits, Parity
    from bitnet_bench.comparison import Comparison
    from bitnet_bench.comparison.conditions import Judged
    from bitnet_bench.data.checking import Checked
    from bitnet_bench.data.rows import Row
    from bitnet_bench.evaluation.answer_cache import Kept
    from bitnet_bench.evaluation.suites import Suite, Task
    from bitnet_bench.measurement.contest import Contestant, Outcome
    from bitnet_bench.measurement.devices import Device
    from bitnet_bench.measurement.floors import Plan
    from bitnet_bench.measurement.scenario import Scenario
    from bitnet_bench.runs.run import Notice

_log = logging.getLogger(__name__)
EMBEDDED = {"demo": "ternary", "demo-fp16": "fp16"}
DATA_VARIABLE = "BITNET_BENCH_DATA"
TITLES = {"sft": "fine-tune", "pretrain": "pre-train", "dpo": "align", "distill": "distill"}
GIGABYTE = 10**9
SHARD_GIGABYTES = 2.0

FLOATS: tuple[Precision, ...] = ("fp16", "bf16")
TERNARY_BACKENDS = ("ternary", "ternary-int8-head")
"""Those that run ternary weights only; a float twin that is measured beside them runs in `hf`."""


class Place(NamedTuple):
    """A checkpoint, and the run folder whose record gains what is found, if any."""

    model: str
    out: Path | None


class Contender(NamedTuple):
    """What to measure."""

    model: str
    precision: Precision
    out: Path | None = None
    """The run folder whose record gains the cost, if any."""
    backend: str | None = None
    """None: that of the call."""
    opened: Checkpoint | None = None
    """What *model* is, where that is known; its weights need not be read once more then."""

    @property
    def place(self) -> Place:
        """Where its costs go."""
        return Place(self.model, self.out)


@dataclass(frozen=True)
class Compared:
    """A comparison, the conditions that it was held against, and what is wrong with the runs."""

    comparison: Comparison
    outcomes: tuple[Judged, ...]
    notices: tuple[Notice, ...]


@contextmanager
def quiet(title: str) -> Iterator[Progress]:
    """Show no progress."""
    yield lambda done, total, note="": None


def open_checkpoint(model: str) -> Checkpoint:
    """Return what *model* is: `demo`, `demo-fp16`, a folder, or a hub id (downloaded, safetensors only)."""
    from bitnet_bench.checkpoints.inspect import inspect

    if model in EMBEDDED:
        return inspect(Path(__file__).parent / "demo" / EMBEDDED[model], source=model)
    if Path(model).exists():
        return inspect(Path(model))
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise BenchError(
            f"There is no checkpoint {model}.", "Give a folder, a hub id such as ORG/NAME, or `demo` / `demo-fp16`."
        )
    path = _download(model)
    return inspect(path, source=model, revision=path.name)


def _download(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.jinja"]
    try:
        return Path(snapshot_download(model, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise BenchError(
            f"{model} is neither a folder here nor to be had from the hub: {str(error).splitlines()[0]}",
            "Check the name, the network, and `hf auth login` for a gated model.",
        ) from error


def look_into(model: str, steps: Steps = quiet) -> Inspection:
    """Return everything that can be said about the checkpoint *model* without running it."""
    from bitnet_bench.checkpoints.layers import look_into as look

    checkpoint = open_checkpoint(model)
    with steps("inspect") as progress:
        return look(checkpoint, progress)


def convert(
    model: str, form: Format, out: Path, *, shard_gigabytes: float = SHARD_GIGABYTES, steps: Steps = quiet
) -> tuple[Checkpoint, Parity]:
    """Write the checkpoint *model* in format *form* to *out*; return what *out* is and how equal it is to *model*.

    BenchError if the two are not the same model; *out* does not exist then.
    """
    from bitnet_bench.checkpoints.converting import convert as write

    source = open_checkpoint(model)
    with steps(f"convert to {form}") as progress:
        size = int(shard_gigabytes * GIGABYTE)
        parity = write(source, form, out, progress, logits=_logits_of(source), shard_bytes=size)
    return open_checkpoint(str(out)), parity


def export_gguf(model: str, form: Form, out: Path, steps: Steps = quiet) -> FileParity:
    """Write the checkpoint *model* to the GGUF file *out*, and return how equal its weights are.

    BenchError if they are not the same; *out* does not exist then.
    """
    from bitnet_bench.checkpoints.gguf.file_parity import compare_weights
    from bitnet_bench.checkpoints.gguf.gguf_file import GgufFile
    from bitnet_bench.checkpoints.gguf.writing import write_gguf

    checkpoint = open_checkpoint(model)
    with steps(f"convert to gguf-{form}") as progress:
        write_gguf(checkpoint, form, out, progress)
    try:
        return compare_weights(checkpoint, GgufFile(out))
    except BenchError:
        out.unlink()
        raise


def _logits_of(checkpoint: Checkpoint) -> Logits | None:
    """Return what runs *checkpoint* for the parity gate, or None if this machine has too little memory for it."""
    import psutil

    from bitnet_bench.checkpoints.parity import engine_logits, engine_runs, transformers_logits

    if engine_runs(checkpoint):
        return engine_logits
    needed = 4 * checkpoint.parameters + checkpoint.ternary_parameters  # float32 first, then int8 codes
    return transformers_logits if needed < 0.7 * psutil.virtual_memory().available else None


def presets() -> dict[str, str]:
    """Return the published model whose shape each preset has."""
    from bitnet_bench.checkpoints.random_weights import presets as found

    return found()


def init(
    preset: str,
    out: Path,
    *,
    seed: int = 0,
    form: Format | None = None,
    shard_gigabytes: float = SHARD_GIGABYTES,
    steps: Steps = quiet,
) -> Checkpoint:
    """Write a random checkpoint of a published shape to *out*, in its published format or in *form*.

    It gets the tokenizer of the embedded pair, because the published ones cannot be had without a download.
    """
    from bitnet_bench.checkpoints.random_weights import initialize, preset_config

    tokenizer = Path(__file__).parent / "demo" / EMBEDDED["demo"]
    with steps(f"init {preset}") as progress:
        initialize(preset_config(preset), seed, form, out, tokenizer, progress, int(shard_gigabytes * GIGABYTE))
    return open_checkpoint(str(out))


def data_directory(given: Path | None) -> Path | None:
    """Return the folder of local rows: --data-dir, else $BITNET_BENCH_DATA, else None (the hub)."""
    chosen = given or (Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None)
    if chosen is not None and not chosen.is_dir():
        raise BenchError(f"There is no data folder {chosen}.", f"Check --data-dir or {DATA_VARIABLE}.")
    return chosen


def suites() -> dict[str, Suite]:
    """Return every installed suite by name."""
    from bitnet_bench.evaluation.suites import find_suites

    return find_suites(plugins.task_folders())


def list_tasks(data_dir: Path | None = None) -> list[dict[str, Any]]:
    """Return what there is to know of every task without running it; rows are counted where they are at hand."""
    from bitnet_bench.evaluation.local_rows import count_rows

    directory = data_directory(data_dir)
    listed = []
    for suite in suites().values():
        for task in suite.tasks:
            file = suite.rows_file(task, "test", directory)
            local = file is not None and file.is_file()
            below = f"{task.local}/{task.files.get('test')}"
            listed.append(
                {
                    "suite": suite.name,
                    "version": suite.version,
                    "task": task.name,
                    "rows": count_rows(file) if local and file else None,
                    "from": "embedded" if suite.embedded else below if local else _origin(suite, task),
                    "metrics": list(task.metrics),
                    "primary_metric": task.metrics[0],
                    "chance": task.chance,
                    "prompts": ["default", *suite.prompts],
                    "licence": suite.licence_of(task),
                    "citation": task.citation or suite.citation,
                }
            )
    return listed


def _origin(suite: Suite, task: Task) -> str:
    if task.own_rows:
        return f"--rows {suite.name}:{task.name}=FILE"
    return suite.hub_of(task) or "--data-dir"


def select_tasks(
    names: Sequence[str], tasks: Sequence[str] = (), data_dir: Path | None = None
) -> list[tuple[Suite, Task]]:
    """Return the tasks of the suites called *names* that have rows here, or those of them called in *tasks*."""
    from bitnet_bench.evaluation.harness_tasks import PREFIX, shipped_suite
    from bitnet_bench.evaluation.suites import choose, nearest

    found = suites()
    prefix = f"{PREFIX}:"
    chosen = [shipped_suite(n.removeprefix(prefix)) if n.startswith(prefix) else choose(found, n) for n in names]
    if not tasks:
        return [(s, task) for s in chosen for task in (s.tasks if s.name == PREFIX else s.runnable(data_dir))]
    selected = []
    for name in tasks:
        owners = [suite for suite in chosen if name in {task.name for task in suite.tasks}]
        if not owners:
            there = [task.name for suite in chosen for task in suite.tasks]
            raise UsageError(f"No task {name!r} in {', '.join(names)}.", nearest(name, there))
        selected += [(suite, suite.task(name)) for suite in owners]
    return selected


def training_rows(job: FinetuneJob) -> tuple[list[Row], int]:
    """Return the rows of all of a job's data: JSONL files, and SUITE:TASK for a task's training split.

    The second value counts rows of tasks that were left out because their evaluation asks the same.
    """
    from bitnet_bench.data.rows import Row, Turn, read_rows
    from bitnet_bench.evaluation.task_run import training_pairs
    from bitnet_bench.evaluation.tasks import Setting, build_task

    rows: list[Row] = []
    left_out = 0
    for source in job.data:
        suite, _, task = source.partition(":")
        if Path(source).is_file() or not task:
            rows += read_rows(Path(source))[: job.limit]
            continue
        directory = data_directory(Path(job.data_dir) if job.data_dir else None)
        for owner, found in select_tasks([suite], [task]):
            pairs, overlap = training_pairs(build_task(owner, found, Setting(directory)), job.limit)
            left_out += overlap
            rows += [Row((Turn("user", prompt), Turn("model", response)), verbatim=True) for prompt, response in pairs]
    return rows, left_out


def check_data(
    files: Sequence[Path],
    model: str = "demo",
    *,
    template: str = "auto",
    max_length: int = 256,
    suites_named: Sequence[str] = (),
    data_dir: Path | None = None,
    steps: Steps = quiet,
) -> list[Checked]:
    """Say of every line of training *files* what is wrong with it, and how long rows are in tokens of *model*.

    Rows that hold a text of a task of *suites_named*, of 20 letters or more, are found too.
    """
    from bitnet_bench.checkpoints.loading import load_tokenizer
    from bitnet_bench.data.checking import check
    from bitnet_bench.data.templates import refuse_unknown
    from bitnet_bench.evaluation.tasks import normalised

    refuse_unknown(template)
    asked = _asked(suites_named, data_dir) if suites_named else {}
    tokenizer = load_tokenizer(open_checkpoint(model))
    found = []
    with steps("check") as progress:
        for number, file in enumerate(files, 1):
            found.append(check(file, tokenizer, template, max_length, asked, normalised))
            progress(number, len(files))
    return found


def _asked(suites_named: Sequence[str], data_dir: Path | None) -> dict[str, str]:
    """Return every text in the test rows of suites, as letters and digits, with its task."""
    from bitnet_bench.evaluation.tasks import Setting, build_task, normalised

    directory = data_directory(data_dir)
    texts: dict[str, str] = {}
    for suite, task in select_tasks(suites_named, data_dir=directory):
        for doc in build_task(suite, task, Setting(directory)).lm_task.test_docs():
            texts |= {normalised(text): f"{suite.name}:{task.name}" for text in doc.values() if isinstance(text, str)}
    return texts


def convert_data(file: Path, out: Path) -> int:
    """Write the rows of *file*, whatever their shape, as {"messages"} (pairs as {"prompt", "chosen", "rejected"}).

    Returns how many; BenchError names the first bad line, and *out* is not written then.
    """
    from bitnet_bench.data.rows import as_fields, read_rows

    if out.exists():
        raise BenchError(f"{out} is there already.", "Name another file.")
    rows = read_rows(file)
    write_whole(out, "".join(json.dumps(as_fields(row), ensure_ascii=False) + "\n" for row in rows))
    return len(rows)


def hold_out(rows: Sequence[Row], job: FinetuneJob) -> tuple[list[Row], list[Row]]:
    """Return (training rows, validation rows): the job's files, and a share of its rows, in which no text recurs.

    Which rows are held out depends on the rows alone, so that all seeds, settings and twins are validated on the same.
    """
    import random

    from bitnet_bench.data.rows import read_rows

    validation = [row for source in job.validation for row in read_rows(Path(source))]
    count = max(1, round(job.hold_out * len(rows))) if job.hold_out else 0
    chosen = set(random.Random(0).sample(range(len(rows)), count))
    validation += [row for i, row in enumerate(rows) if i in chosen]
    kept = set(validation)
    training = [row for row in rows if row not in kept]
    if not training:
        raise BenchError("Every training row is a validation row.", "Lower --hold-out, or give other --validation.")
    return training, validation


def finetune(job: FinetuneJob, backend: str = "hf", steps: Steps = quiet) -> FinetuneRecord:
    """Run *job* and return its record; a finished run of the same settings is not done again, a killed one goes on."""
    from bitnet_bench.data.templates import digest, refuse_unknown
    from bitnet_bench.machine.fast_dtype import fast_compute
    from bitnet_bench.processes import is_first
    from bitnet_bench.training.rates import with_default_rate
    from bitnet_bench.training.resume import recall_choices

    refuse_unknown(job.template)
    compute = fast_compute() if job.compute == "auto" else job.compute
    job = job.model_copy(update={"template_sha256": digest(job.template), "compute": compute})
    done = Path(job.out) / "finetune.json"
    record = FinetuneRecord.model_validate_json(done.read_text(encoding="utf-8")) if done.is_file() else None
    job = recall_choices(job, record)
    if record:
        differing = [name for name, value in job.settings().items() if record.job.settings().get(name) != value]
        if differing:
            raise BenchError(
                f"{job.out} holds a finished run with another {', '.join(differing)}.",
                "Give another --out, or delete the folder.",
            )
        return record
    trainer = plugins.load("backends", FALLBACK if backend == AUTO else backend)
    if not isinstance(trainer, TrainingBackend):
        raise UsageError(f"The backend {backend!r} does not train.", "`bitnet-bench backends` lists those that do.")
    rows, left_out = training_rows(job)
    rows, held_out = hold_out(rows, job)
    teacher = open_checkpoint(job.teacher) if job.teacher else None
    base = open_checkpoint(job.model)
    job = with_default_rate(job, base)
    given = Ingredients(base, rows, held_out, teacher, left_out)
    with (steps if is_first() else quiet)(f"{TITLES[job.method]} {job.precision}") as progress:
        return trainer.finetune(job, given, progress)


def twin_of(job: FinetuneJob, model: str | None) -> FinetuneJob:
    """Return the FP16 twin of a job: same data, order, steps and settings, written to `<out>-fp16`.

    A learning rate that was given is the twin's too; one from the table of defaults is looked up for the twin itself.
    """
    if model is None:
        model = "demo-fp16" if job.model == "demo" else job.model
    return job.model_copy(
        update={
            "model": model,
            "precision": "fp16",
            "out": f"{job.out}{TWIN_SUFFIX}",
            "keep_masters": False,
            "ternary_warmup": 0,
            "learning_rate": None if job.learning_rate_source else job.learning_rate,
            "learning_rate_source": None,
        }
    )


def evaluate(
    model: str, tasks: Sequence[tuple[Suite, Task]], out: Path, job: EvaluateJob | None = None, steps: Steps = quiet
) -> RunRecord:
    """Score *model* on *tasks*, keep every example in `out/samples`, and return the record (`out/record.json`).

    Tasks that were finished with the same checkpoint and settings are not done again, nor is an answer that the cache
    holds. A task that cannot be scored does not lose the others: it stands in the record's `errors`.
    """
    return evaluate_several([(model, out)], tasks, job, steps)[0]


def evaluate_several(
    models: Sequence[tuple[str, Path]],
    tasks: Sequence[tuple[Suite, Task]],
    job: EvaluateJob | None = None,
    steps: Steps = quiet,
) -> list[RunRecord]:
    """Score every model into the folder beside it, as `evaluate` does, task by task in turn.

    Under `torchrun` or `accelerate launch` the processes share the work, and the first one writes.
    """
    from bitnet_bench.evaluation.evaluate import score
    from bitnet_bench.processes import workers

    if not tasks:
        raise UsageError("None of the tasks has rows here.", "Give --data-dir, or name a task with --task.")
    job = job or EvaluateJob()
    directory = data_directory(Path(job.data_dir) if job.data_dir else None)
    opened = [(open_checkpoint(model), out) for model, out in models]
    with workers() as crew:
        return score(opened, tasks, job, directory, crew, steps if crew.first else quiet)


def kept_answers() -> tuple[Path, list[Kept]]:
    """Return the file of answers that evaluations keep, and what is in it by model."""
    from bitnet_bench.evaluation.answer_cache import cache_file, kept

    return cache_file(), kept(cache_file())


def prune_answers(unused_days: float) -> tuple[list[Kept], int]:
    """Forget the answers of models that were not used for *unused_days*: return them, and the bytes set free."""
    from bitnet_bench.evaluation.answer_cache import cache_file, prune

    return prune(cache_file(), unused_days)


def measure(
    contestants: Sequence[Contender | tuple[str, Precision, Path | None]],
    scenario: Scenario,
    *,
    backend: str = AUTO,
    meter: str = "auto",
    model_energy: bool = False,
    options: RuntimeOptions = NO_OPTIONS,
    steps: Steps = quiet,
    began_s: float | None = None,
) -> list[RunRecord]:
    """Measure *contestants* in alternating rounds within the scenario's budget; return a record for each checkpoint.

    *backend* is that of contestants that name none. One that cannot be measured stands in its record's `cost_errors`,
    and one for which the budget has no time in `cost_left_out`. *model_energy*: where no counter is, work joules out
    of the operations, and call them modelled. Where a run folder is given its record gains the costs; it must be of
    the same checkpoint. The budget counts from *began_s* on the monotonic clock, else from this call.
    """
    from bitnet_bench.measurement.budget import Budget, Countdown
    from bitnet_bench.measurement.contest import measure as run_rounds

    began_s = time.monotonic() if began_s is None else began_s

    entered = [Contender(*given) for given in contestants]
    meters = plugins.names("meters")
    meter = _meter() if meter == "auto" else meter
    if meter not in meters:
        plugins.load("meters", meter)  # says what there is
    opened = {one.model: one.opened for one in entered if one.opened}
    opened |= {one.model: open_checkpoint(one.model) for one in entered if one.model not in opened}
    ready = [_contestant(opened[one.model], one, backend, options) for one in entered]
    _refuse_too_long(ready, scenario)
    records = _records_to_extend(entered, ready)
    with steps("measure (s)") as progress:
        countdown = Countdown(Budget(scenario.budget_s, time.monotonic, began_s), progress)
        outcomes = run_rounds(ready, scenario, meters[meter].value, countdown)
        found = _recorded(records, entered, ready, outcomes, model_energy)
        countdown.finish()
    return found


def _meter() -> str:
    return "rapl" if find_gpu() is None else "nvml"


def _contestant(checkpoint: Checkpoint, one: Contender, backend: str, options: RuntimeOptions) -> Contestant:
    from bitnet_bench.measurement.contest import Contestant

    name, reason = choose_backend(one.backend or backend, checkpoint, one.precision)
    loaded, path = plugins.load("backends", name), plugins.names("backends")[name].value
    given = options if hasattr(loaded, "configured") else NO_OPTIONS
    return Contestant(checkpoint, one.precision, name, path, given, isinstance(loaded, CheckedBackend), reason)


def _records_to_extend(entered: Sequence[Contender], ready: Sequence[Contestant]) -> dict[Place, RunRecord]:
    """Return the record of every checkpoint and run folder without costs; BenchError if one is of another checkpoint.

    It is made before anything is measured, so that no measurement is lost to a wrong folder.
    """
    records: dict[Place, RunRecord] = {}
    for one, contestant in zip(entered, ready, strict=True):
        if one.place not in records:
            records[one.place] = _record_to_extend(one.out, contestant)
    return records


def _recorded(
    records: dict[Place, RunRecord],
    entered: Sequence[Contender],
    ready: Sequence[Contestant],
    outcomes: Sequence[Outcome],
    model_energy: bool,
) -> list[RunRecord]:
    """Return *records* with costs, failures and what was left out; those with a run folder are saved."""
    from bitnet_bench.measurement.floors import add_floors, with_modelled_energy

    measured = [(cost, c.checkpoint) for c, outcome in zip(ready, outcomes, strict=True) for cost in outcome.costs]
    floored = iter(add_floors(measured))
    for one, contestant, outcome in zip(entered, ready, outcomes, strict=True):
        record, who = records[one.place], f"{contestant.backend} {contestant.precision}"
        reason = {"backend_reason": contestant.backend_reason}
        costs = [next(floored).model_copy(update=reason) for _ in outcome.costs]
        if model_energy:
            costs = [with_modelled_energy(cost, contestant.checkpoint) for cost in costs]
        failed = {who: str(outcome.error)} if outcome.error else {}
        left_out = {who: outcome.left_out} if outcome.left_out else {}
        records[one.place] = record.model_copy(
            update={
                "costs": (*record.costs, *costs),
                "cost_errors": record.cost_errors | failed,
                "cost_left_out": record.cost_left_out | left_out,
            }
        )
    found = [_keep_earlier_costs(record, place) for place, record in records.items()]
    for place, record in zip(records, found, strict=True):
        if place.out is not None:
            store.save_record(place.out, record)
    return found


def _keep_earlier_costs(record: RunRecord, place: Place) -> RunRecord:
    """Return *record* with the costs that its folder holds already, where nothing was measured this time."""
    if record.costs or place.out is None or not (place.out / store.RECORD).is_file():
        return record
    return record.model_copy(update={"costs": store.load_record(place.out).costs})


def run_of(name: str) -> Place:
    """Return what *name* measures: of a run folder its checkpoint, and the folder, whose record gains the costs."""
    if not is_run(name):
        return Place(name, None)
    checkpoint = store.load_record(Path(name)).checkpoint
    here = checkpoint.source not in EMBEDDED and Path(checkpoint.path).exists()
    if not here and checkpoint.source not in EMBEDDED and checkpoint.revision is None:
        raise BenchError(
            f"The checkpoint of the run {name} is gone: {checkpoint.path}.",
            "Put it back, or measure it where it is now and name the run folder with --out.",
        )
    return Place(checkpoint.path if here else checkpoint.source, Path(name))


def with_twin(names: Sequence[str]) -> list[str]:
    """Return *names*, with the twin that is found beside it where they are a single run folder."""
    named = list(dict.fromkeys(names))
    twin = find_twin(Path(named[0])) if len(named) == 1 and is_run(named[0]) else None
    if twin is None:
        return named
    try:
        run_of(str(twin))
    except BenchError as error:
        _log.warning("The twin %s is not measured. %s", twin, error.problem)
        return named
    return [*named, str(twin)]


def contenders(
    models: Sequence[str],
    precisions: Sequence[Precision],
    out: Path | None,
    *,
    backends: Sequence[str | None] = (None,),
    baselines: Sequence[str] = (),
    against_floats: bool = False,
) -> list[Contender]:
    """Pair models with backends and precisions; by default a ternary one runs as ternary, a float one as FP16 and BF16.

    A model is a checkpoint, whose costs go to *out*, or a run folder, whose own record gains those of its checkpoint.
    BF16 stands beside FP16 because many CPUs have no fast FP16: against FP16 alone ternary looks better than it is.
    *against_floats* adds both for a model that has neither here: of its twin, or of its own weights as dense floats.
    *baselines* are models of any kind, run in `hf`.
    """
    paired: list[Contender] = []
    places = [run_of(model) for model in models]
    opened = {
        model: open_checkpoint(model) for model in dict.fromkeys((*(place.model for place in places), *baselines))
    }
    for model, own in places:
        default: Sequence[Precision] = ["ternary"] if opened[model].is_ternary else FLOATS
        ran = backends if "ternary" in default else dict.fromkeys(map(_for_floats, backends))
        paired += [Contender(model, p, out or own, backend) for backend in ran for p in precisions or default]
    for model in baselines:
        default = ["ternary"] if opened[model].is_ternary else FLOATS
        paired += [Contender(model, precision, None, "hf") for precision in default]
    here = {one.precision for one in paired if one.backend in (None, AUTO, "hf")}
    for precision in [p for p in FLOATS if against_floats and p not in here]:
        first = places[0]
        twin = f"{first.model}{TWIN_SUFFIX}"
        float_twin = twin if twin in EMBEDDED or (Path(twin) / "config.json").is_file() else None
        dense = Contender(first.model, precision, out or first.out, "hf-dense")
        paired.append(Contender(float_twin, precision, None, "hf") if float_twin else dense)
    return [one._replace(opened=opened.get(one.model)) for one in paired]


def _for_floats(backend: str | None) -> str | None:
    """Return where a float checkpoint runs when *backend* was asked for: not where only ternary weights do."""
    return "hf" if backend in TERNARY_BACKENDS else backend


def prompts(suite: str, count: int, data_dir: Path | None = None) -> tuple[str, ...]:
    """Return *count* prompts of the tasks of *suite*, the longest first, so that none cuts the others short."""
    from bitnet_bench.evaluation.tasks import Setting, build_task

    directory = data_directory(data_dir)
    found: list[str] = []
    for owner, task in select_tasks([suite], data_dir=directory):
        built = build_task(owner, task, Setting(directory))
        found += [built.lm_task.doc_to_text(doc) for doc in built.lm_task.test_docs()]
    return tuple(sorted(found, key=len, reverse=True)[:count])


def plan(
    preset: str | None, model: str | None, context: int, batch: int, device: str = "cpu", threads: int = 0
) -> tuple[Device, list[Plan]]:
    """Return the ceilings of *device* and what each precision of a shape takes there at the least.

    The shape is that of a *preset* or of a checkpoint *model*; the device `cpu` is this machine, measured now.
    """
    from bitnet_bench.checkpoints.config import read_config
    from bitnet_bench.checkpoints.random_weights import preset_config
    from bitnet_bench.measurement.ceilings import LARGEST_BYTES, this_machine
    from bitnet_bench.measurement.devices import device as named
    from bitnet_bench.measurement.floors import plan as floors_of
    from bitnet_bench.measurement.machine_state import cores
    from bitnet_bench.measurement.shape import shape_of

    if (preset is None) == (model is None):
        raise UsageError("A plan is of a --preset or of a --model.", "Such as --preset bitnet-2b-4t.")
    config = preset_config(preset) if preset else read_config(Path(open_checkpoint(model or "").path))
    ceilings = this_machine(LARGEST_BYTES, threads or cores()) if device == "cpu" else named(device)
    shape = shape_of(config)
    kinds: list[tuple[Precision, int]] = [("ternary", 16), ("ternary", 8), ("tq2_0", 16), ("q8_0", 8), ("bf16", 16)]
    return ceilings, [floors_of(shape, precision, ceilings, context, batch, head) for precision, head in kinds]


def backends() -> list[dict[str, str | bool]]:
    """Return name, summary and abilities of every installed backend; one that cannot be imported says so."""
    found: list[dict[str, str | bool]] = []
    for name in plugins.names("backends"):
        try:
            backend = plugins.load("backends", name)
        except BenchError as error:
            found.append({"name": name, "runs": False, "trains": False, "summary": error.problem})
            continue
        summary = str(getattr(backend, "summary", ""))
        runs, trains = isinstance(backend, InferenceBackend), isinstance(backend, TrainingBackend)
        found.append({"name": name, "runs": runs, "trains": trains, "summary": summary})
    return found


def _refuse_too_long(contestants: Sequence[Contestant], scenario: Scenario) -> None:
    from bitnet_bench.checkpoints.config import read_config

    if scenario.new_tokens < 2:
        raise UsageError("--new-tokens must be 2 or more.", "The first new token is prefill's; decoding needs another.")
    for contestant in contestants:
        checkpoint = contestant.checkpoint
        context = read_config(Path(checkpoint.path)).get("max_position_embeddings", 2**31)
        if scenario.prompt_tokens + scenario.new_tokens > context:
            raise UsageError(
                f"{scenario.prompt_tokens} + {scenario.new_tokens} tokens exceed the context of "
                f"{checkpoint.source}, {context}.",
                "Lower --prompt-tokens or --new-tokens.",
            )


def _record_to_extend(out: Path | None, contestant: Contestant) -> RunRecord:
    checkpoint = contestant.checkpoint
    if out is not None and (out / store.RECORD).is_file():
        record = store.load_record(out)
        if record.checkpoint.sha256 != checkpoint.sha256:
            raise BenchError(f"{out} holds a run of another checkpoint.", "Give another --out, or delete the folder.")
        return record.model_copy(update={"costs": (), "cost_errors": {}, "cost_left_out": {}})
    return RunRecord(
        name=out.name if out else checkpoint.source,
        checkpoint=checkpoint,
        backend=contestant.backend,
        backend_reason=contestant.backend_reason,
        precision=contestant.precision,
        environment=environment(),
    )


def load_run(folder: Path) -> RunRecord:
    """Return the record of a run folder."""
    return store.load_record(folder)


def compare(a: Path, b: Path, margin: float = MARGIN, conditions: Sequence[str] = ()) -> Compared:
    """Compare the run folder *a* with *b*, and hold their differences against *conditions* (`gate.parse`).

    BenchError says what differs if no task can be compared.
    """
    from bitnet_bench.comparison import compare as compare_runs
    from bitnet_bench.comparison.conditions import judge, parse
    from bitnet_bench.runs.reading import read_run

    ours, theirs = read_run(a), read_run(b)
    asked = [parse(text, ours, theirs) for text in conditions]
    found = compare_runs(ours, theirs, margin)
    if not found.differences:
        differing = dict.fromkeys(f"{words.en}." for refused in found.refused for words in refused.differs)
        raise BenchError(f"{a} and {b} cannot be compared.", "\n  ".join(differing) or "Neither has a score.")
    outcomes = tuple(judge(condition, ours, theirs) for condition in asked)
    return Compared(found, outcomes, tuple(dict.fromkeys((*ours.notices, *theirs.notices))))


def report(
    runs: Sequence[Path],
    out: Path,
    renderer: str = "html",
    options: ReportOptions | None = None,
    training: Mapping[Path, Path] | None = None,
) -> tuple[Path, list[Notice]]:
    """Write one report about the run folders *runs* to *out*; return it, and what is wrong with the runs.

    *training* names the folder of a run's `finetune.json` where that is not its checkpoint.
    """
    from bitnet_bench.runs.reading import read_runs, zeros_by_layer

    found, unread = read_runs(runs, training or {})
    options = replace(options or ReportOptions(), unread=tuple(unread))
    found = [replace(run, layers=zeros_by_layer(run.record)) for run in found]
    write_whole(out, plugins.load("reports", renderer).render(found, options))
    return out, [*unread, *(notice for run in found for notice in run.notices)]


__all__ = [
    "backends",
    "check_data",
    "compare",
    "contenders",
    "convert",
    "convert_data",
    "data_directory",
    "evaluate",
    "evaluate_several",
    "export_gguf",
    "finetune",
    "init",
    "kept_answers",
    "load_run",
    "look_into",
    "measure",
    "open_checkpoint",
    "plan",
    "presets",
    "prompts",
    "prune_answers",
    "report",
    "select_tasks",
    "suites",
    "twin_of",
    "with_twin",
]
