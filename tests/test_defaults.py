"""Defaults, bounds and choices stand in one place: the command line, recipes and Python take them from the models."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
import typer
from typer.testing import CliRunner

from bitnet_bench import api
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.cli import app
from bitnet_bench.cli.job_options import Fields, expand_fields
from bitnet_bench.cli.option_names import OptionName, name_options
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.measurement.budget import parse_budget
from bitnet_bench.measurement.measure import measure
from bitnet_bench.measurement.scenario import SCENARIO_PRESETS, Scenario, Workload
from bitnet_bench.pipeline.finetune_step import FinetuneStep
from bitnet_bench.pipeline.recipe import EvaluateSettings, FinetuneSettings, MeasureSettings, read_recipe
from bitnet_bench.pipeline.steps import EvaluateStep, plan_steps
from bitnet_bench.pipeline.steps import MeasureStep as MeasuringStep
from bitnet_bench.runs.choices import GgufType, ScenarioName, TernaryFormat
from bitnet_bench.runs.jobs import Arms, EvaluateJob, FinetuneJob, MeasureJob
from bitnet_bench.runs.settings import InvalidSettingsError, Settings
from bitnet_bench.training.rates import set_default_rate

FROM_MODELS: dict[str, tuple[type[Settings], ...]] = {
    "finetune": (FinetuneJob, Arms),
    "evaluate": (EvaluateJob,),
    "measure": (MeasureJob, Scenario),
}
FILLED_IN = {"template_sha256", "learning_rate_source", "stage"}
"""Fields of jobs that no user sets."""
NOT_ASKED = {"least_rounds", "tolerance", "batches", "texts"}
"""Fields of a scenario that only Python sets; `batches` and `texts` come from --batch and --suite."""
ROWS = "rows.jsonl"
RECIPE = """\
finetune: {{data: [rows.jsonl]{finetune}}}
evaluate: {{suites: [sample]{evaluate}}}
measure: {{{measure}}}
"""


def parameters(command: str) -> dict[str, Any]:
    """Return the parameters that Typer made for a command, by name."""
    found: Any = typer.main.get_command(app)
    one = found.commands[command]
    return {parameter.name: parameter for parameter in one.get_params(typer.Context(one))}


def choices(command: str, name: str) -> tuple[str, ...]:
    """Return what --help lists as an option's values."""
    found: Any = typer.main.get_command(app)
    spelling, said = parameters(command)[name].get_help_record(typer.Context(found.commands[command]))
    listed = re.search(r"[<[](?:list\[)?([^]>]*)", spelling)
    if listed is None:  # many choices stand in the help's text
        return tuple(re.search(r"One of (.*?)\.(?:\s|$)", said)[1].split(", "))  # type: ignore[index]
    return tuple(listed[1].split("|"))


def read(text: str, folder: Path) -> Any:
    """Return the recipe in *text*, beside the rows that it names."""
    (folder / ROWS).write_text('{"prompt": "가", "response": "나"}\n', encoding="utf-8")
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return read_recipe(folder / "recipe.yaml")


def models() -> list[Any]:
    """Return each command with one of its models."""
    return [pytest.param(command, model, id=f"{command}-{model.__name__}") for command, found in FROM_MODELS.items()
            for model in found]  # fmt: skip


@pytest.mark.parametrize(("command", "model"), models())
def test_every_option_has_the_default_and_the_help_of_its_field(command: str, model: type[Settings]) -> None:
    """What an option gives when it is not named is what the model takes when the field is not named."""
    made = parameters(command)
    options = list(model.options())
    assert {name for name, _, _ in options} == model.model_fields.keys() - FILLED_IN - NOT_ASKED
    for name, field, option in options:
        parameter = made[name]
        assert parameter.opts == [f"--{option.name or name.replace('_', '-')}"]
        assert parameter.help, f"{name} has no help"
        assert parameter.required == field.is_required()
        if field.is_required():
            continue
        default = parse_budget(parameter.default) if name == "budget_s" else parameter.default
        if isinstance(field.default, tuple | dict) and not field.default:
            assert default is None
        elif isinstance(default, list):
            assert tuple(default) in (field.default, (field.default,))
        else:
            assert str(default) == str(field.default)


def test_a_command_that_is_given_nothing_makes_the_model_that_python_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs that reach training, scoring and measuring are those of the models' own defaults."""
    seen: dict[str, Any] = {}
    measured: dict[str, Any] = {}

    def stop(name: str) -> Any:
        def catch(*arguments: Any, **options: Any) -> None:
            seen[name] = arguments
            measured.update(options)
            raise BenchError("caught")

        return catch

    monkeypatch.setattr("bitnet_bench.training.finetune.finetune", stop("finetune"))
    monkeypatch.setattr("bitnet_bench.evaluation.evaluate.evaluate_several", stop("evaluate"))
    monkeypatch.setattr("bitnet_bench.measurement.measure.measure", stop("measure"))
    CliRunner().invoke(app, ["finetune", "--data", "a.jsonl", "--out", "o"])
    CliRunner().invoke(app, ["evaluate", "--suite", "sample"])
    CliRunner().invoke(app, ["measure"])
    assert seen["finetune"][0] == FinetuneJob(data=("a.jsonl",), out="o")
    assert seen["finetune"][1] == Arms().backend == inspect.signature(api.finetune).parameters["backend"].default
    assert seen["evaluate"][2] == EvaluateJob()
    assert seen["measure"][1].model_copy(update={"batches": ()}) == Scenario()
    assert measured["meter"] == MeasureJob().meter == inspect.signature(measure).parameters["meter"].default
    assert inspect.signature(api.evaluate).parameters["job"].default is None
    assert inspect.signature(api.measure).parameters["scenario"].default is None


def test_the_steps_of_a_recipe_have_the_defaults_of_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe that sets nothing plans the jobs and the scenario of the models' own defaults."""
    monkeypatch.delenv("BITNET_BENCH_DATA", raising=False)
    steps = plan_steps(read(RECIPE.format(finetune="", evaluate="", measure=""), tmp_path), tmp_path / "out")
    (training,) = [step for step in steps if isinstance(step, FinetuneStep)]
    (scoring,) = [step for step in steps if isinstance(step, EvaluateStep)]
    (measuring,) = [step for step in steps if isinstance(step, MeasuringStep)]
    assert training.job == FinetuneJob(data=(str(tmp_path / ROWS),), out=training.job.out)
    assert training.backend == Arms().backend
    assert scoring.job == EvaluateJob(data_dir=scoring.job.data_dir)
    assert measuring.scenario == Scenario()
    assert measuring.backend == EvaluateJob().backend


@pytest.mark.parametrize(
    ("section", "model"),
    [(FinetuneSettings, FinetuneJob), (EvaluateSettings, EvaluateJob), (MeasureSettings, Workload)],
)
def test_a_section_of_a_recipe_is_the_model_with_nothing_set_anew(section: type[Any], model: type[Settings]) -> None:
    """But for what the command says (the folders) and what is filled in: these cannot be set there."""
    for name, field in model.model_fields.items():
        there = section.model_fields[name]
        if name in {"out", "data_dir"} | FILLED_IN:
            assert get_args(there.annotation) == ("",) or there.annotation is type(None)
        else:
            assert (there.annotation, there.metadata) == (field.annotation, field.metadata)
            assert there.is_required() or there.default == field.default


@pytest.mark.parametrize("method", ["sft", "dpo", "pretrain"])
def test_the_learning_rate_is_the_same_from_the_command_line_a_recipe_and_python(method: Any, tmp_path: Path) -> None:
    """None names it; the table of published rates fills it in, by the method."""
    recipe = read(RECIPE.format(finetune=f", method: {method}", evaluate="", measure=""), tmp_path)
    (step,) = [step for step in plan_steps(recipe, tmp_path / "out") if isinstance(step, FinetuneStep)]
    base = open_checkpoint("demo")
    here = FinetuneJob(data=("a.jsonl",), out="o", method=method)
    assert parameters("finetune")["learning_rate"].default is None
    assert set_default_rate(step.job, base).learning_rate == set_default_rate(here, base).learning_rate
    assert set_default_rate(here, base).learning_rate == (1e-4 if method == "dpo" else 1e-3)


OUT_OF_RANGE = [
    ("finetune", "learning_rate", "--lr", 0),
    ("finetune", "epochs", "--epochs", 0),
    ("finetune", "float_learning_rate", "--float-lr", 0),
    ("finetune", "neftune_alpha", "--neftune-alpha", 0),
    ("finetune", "temperature", "--temperature", 0),
    ("finetune", "beta", "--beta", 0),
    ("finetune", "lora_alpha", "--lora-alpha", 0),
    ("finetune", "max_steps", "--max-steps", 0),
    ("finetune", "lora_rank", "--lora-rank", 0),
    ("finetune", "limit", "--limit", 0),
    ("finetune", "batch_size", "--batch-size", 0),
    ("finetune", "seeds", "--seeds", 0),
    ("finetune", "hold_out", "--hold-out", 1),
    ("evaluate", "limit", "--limit", 0),
    ("evaluate", "shots", "--shots", -1),
    ("measure", "rounds", "--rounds", 0),
    ("measure", "prompt_tokens", "--prompt-tokens", 0),
    ("measure", "new_tokens", "--new-tokens", 1),
    ("measure", "threads", "--threads", -1),
    ("measure", "budget", "--budget", "0s"),
]
REQUIRED = {
    "finetune": ["--data", ROWS, "--out", "o"],
    "evaluate": ["--suite", "sample"],
    "measure": [],
}


@pytest.mark.parametrize(("command", "field", "option", "value"), OUT_OF_RANGE)
def test_a_number_out_of_range_is_refused_and_never_replaced(
    command: str, field: str, option: str, value: Any, tmp_path: Path
) -> None:
    """From the command line, from a recipe and from Python, each in one sentence with its name there."""
    done = CliRunner().invoke(app, [command, *REQUIRED[command], option, str(value)])
    said = str(done.exception) if isinstance(done.exception, BenchError) else done.output
    assert isinstance(done.exception, UsageError) or done.exit_code == 2
    assert option in said
    wrong = {
        name: f"{', ' if name != 'measure' else ''}{field}: {value}" if name == command else "" for name in REQUIRED
    }
    with pytest.raises(BenchError, match=rf"Line \d of .*{command}\.{field}"):
        read(RECIPE.format(**wrong), tmp_path)
    kind = next(model for model in (*FROM_MODELS[command], Scenario) if field in {*model.model_fields, "budget"})
    given = {"data": ("a",), "out": "o"} if kind is FinetuneJob else {}
    name = "budget_s" if field == "budget" else field
    with pytest.raises(InvalidSettingsError, match=f"^`{name}`.*[.]$") as raised:
        kind(**given, **{name: value})
    assert "\n" not in str(raised.value)


def test_a_rate_of_zero_is_said_to_be_too_small(tmp_path: Path) -> None:
    """It was once taken for none, and became the default."""
    done = CliRunner().invoke(app, ["finetune", "--data", ROWS, "--out", "o", "--lr", "0"])
    assert str(done.exception) == "--lr must be greater than 0, not 0.0."
    with pytest.raises(BenchError, match=r"finetune\.learning_rate must be greater than 0, not 0\."):
        read(RECIPE.format(finetune=", learning_rate: 0", evaluate="", measure=""), tmp_path)
    with pytest.raises(ValueError, match=r"^`learning_rate` must be greater than 0, not 0\.$"):
        FinetuneJob(data=("a",), out="o", learning_rate=0)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Lower `learning_rate`.", "Lower --lr."),
        ("Use `method=pretrain`.", "Use --method pretrain."),
        ("Leave `cache=False` out.", "Leave --no-cache out."),
        ("`bitnet-bench backends` lists `hf`.", "`bitnet-bench backends` lists `hf`."),
        ("`loss_reduction` is `sum`", "`loss_reduction` is `sum`"),
    ],
)
def test_a_field_in_backticks_is_shown_as_the_option_of_the_command(text: str, shown: str) -> None:
    """With its value; what is no option of the command stays."""
    names = {
        "learning_rate": OptionName("--lr"),
        "method": OptionName("--method"),
        "cache": OptionName("--cache", "--no-cache"),
    }
    assert name_options(text, names) == shown


def test_fields_that_contradict_each_other_are_named_as_options(tmp_path: Path) -> None:
    """The model says it once, in its own names."""
    done = CliRunner().invoke(app, ["finetune", "--data", ROWS, "--out", "o", "--method", "distill"])
    assert str(done.exception) == "--method distill needs a --teacher, and no other method has one."


def test_a_choice_is_the_models_literal() -> None:
    """An option offers what the field takes, and `convert --to` every format of ternary weights and type of GGUF."""
    offered = {name: choices("finetune", name) for name in ("method", "schedule", "track")}
    fields = FinetuneJob.model_fields
    assert offered["method"] == get_args(fields["method"].annotation)
    assert offered["schedule"] == get_args(fields["schedule"].annotation)
    assert offered["track"] == get_args(get_args(fields["track"].annotation)[0])
    targets = set(choices("convert", "to"))
    assert targets == {*get_args(TernaryFormat), "float", *(f"gguf-{kind}" for kind in get_args(GgufType))}
    assert set(SCENARIO_PRESETS) == set(get_args(ScenarioName))


def test_repeated_choices_reach_the_command_as_text() -> None:
    """Typer takes a list of an enum and none of literals; the command sees neither."""
    seen: dict[str, Any] = {}

    def take(*, job: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:FinetuneJob")]) -> None:
        seen.update(job)

    small = typer.Typer()
    small.command()(expand_fields(take))
    done = CliRunner().invoke(small, ["--data", "a", "--out", "o", "--freeze", "head", "--freeze", "norms"])
    assert done.exit_code == 0, done.output
    assert seen["freeze"] == ("head", "norms")
    assert {type(one) for one in seen["freeze"]} == {str}
    assert FinetuneJob(**seen) == FinetuneJob(data=("a",), out="o", freeze=("head", "norms"))


@pytest.mark.parametrize(
    ("command", "reached"),
    [
        ("evaluate", "bitnet_bench.evaluation.evaluate.evaluate_several"),
        ("measure", "bitnet_bench.measurement.measure.measure"),
    ],
)
@pytest.mark.parametrize("spelling", ["--allow-mismatch", "--despite-parity"])
def test_the_former_spelling_of_allow_mismatch_works_and_is_not_listed(
    command: str, reached: str, spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For one release, with a warning that names the present one."""
    seen: list[Any] = []

    def stop(*arguments: Any, **options: Any) -> None:
        seen.append(arguments[2].allow_mismatch if command == "evaluate" else options["options"].allow_mismatch)
        raise BenchError("caught")

    monkeypatch.setattr(reached, stop)
    listed = CliRunner().invoke(app, [command, "--help"]).output
    assert "--allow-mismatch" in listed
    assert "--despite-parity" not in listed
    done = CliRunner().invoke(app, [command, *REQUIRED[command], spelling])
    assert seen == [True]
    assert ("--despite-parity is now --allow-mismatch" in done.output) == (spelling == "--despite-parity")
