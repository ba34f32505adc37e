"""The commands about the answer store of evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitnet_bench.cli.help_panels import PanelCommand
from bitnet_bench.cli.options import Json
from bitnet_bench.cli.output import print_json
from bitnet_bench.cli.sentences import print_text
from bitnet_bench.cli.tables import DASH, format_mebibytes, make_table, show

if TYPE_CHECKING:
    from rich.table import Table

    from bitnet_bench.evaluation.answer_cache import StoredModel


app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The answers that evaluations keep, by model and request."
)


@app.command("ls", cls=PanelCommand)
def cache_list(as_json: Json = False) -> None:
    """List the models whose answers are kept."""
    from bitnet_bench.evaluation.answer_log import list_stored_answers

    file, models = list_stored_answers()
    if as_json:
        print_json({"file": str(file), "models": [_dump_model(model) for model in models]})
        return
    show(answers_table(models))
    print_text(f"Cache: {file}")


@app.command("prune", cls=PanelCommand)
def cache_prune(
    days: Annotated[float, typer.Option(min=0, help="Forget models that were not used for so many days.")] = 30.0,
    everything: Annotated[bool, typer.Option("--all", help="Forget every model.")] = False,
    as_json: Json = False,
) -> None:
    """Forget answers of models that were not used lately."""
    from bitnet_bench.evaluation.answer_log import prune_answers

    forgotten, freed = prune_answers(0.0 if everything else days)
    if as_json:
        print_json({"forgotten": [_dump_model(model) for model in forgotten], "freed_bytes": freed})
        return
    answers = sum(model.answers for model in forgotten)
    print_text(f"Forgot {answers:,} answers of {len(forgotten)} models; {format_mebibytes(freed)} are free again.")


def _dump_model(model: Any) -> dict[str, Any]:
    return {**model.about, "answers": model.answers, "bytes": model.size, "used": model.used}


def answers_table(models: Sequence[StoredModel]) -> Table:
    """Return the models whose answers are stored, one row per model."""
    rows = [
        [
            model.about.get("model", DASH),
            model.about.get("precision", DASH),
            model.about.get("backend", DASH),
            model.about.get("software", DASH),
            model.used[:16].replace("T", " "),
            f"{model.answers:,}",
            format_mebibytes(model.size),
        ]
        for model in models
    ]
    columns = ["model", "precision", "backend", "software", "last used (UTC)", "answers", "size"]
    optional = ("software", "size", "last used (UTC)", "backend")
    return make_table("Answers kept", columns, rows, numbers_from=5, keys=2, optional=optional, unbroken=columns[4:5])
