"""All commands, in the order in which --help lists them."""

from __future__ import annotations

import typer

from bitnet_bench.cli import cache, data, rating
from bitnet_bench.cli.chatting import chat
from bitnet_bench.cli.checkpoints import convert, init, inspect, pull, push
from bitnet_bench.cli.evaluating import evaluate, lm_eval, merge, suites_app
from bitnet_bench.cli.finetuning import finetune
from bitnet_bench.cli.help_panels import PanelCommand
from bitnet_bench.cli.job_options import JobCommand
from bitnet_bench.cli.judging import judge
from bitnet_bench.cli.machine import backends, doctor
from bitnet_bench.cli.measuring import measure, plan
from bitnet_bench.cli.ranking import leaderboard
from bitnet_bench.cli.recipes import run, sweep
from bitnet_bench.cli.reporting import compare, quickstart, report

COMMANDS = (
    quickstart,
    run,
    sweep,
    finetune,
    evaluate,
    merge,
    judge,
    chat,
    measure,
    plan,
    inspect,
    convert,
    init,
    push,
    pull,
    report,
    leaderboard,
    compare,
    backends,
    doctor,
)
"""Commands in the order in which --help lists them."""
FROM_MODELS = (finetune, evaluate, chat, judge, measure, report, leaderboard, compare, push, run, sweep)
"""Commands whose options are the fields of job models."""


def add_commands(app: typer.Typer) -> None:
    """Add every command to *app*."""
    for command in COMMANDS:
        app.command(cls=JobCommand if command in FROM_MODELS else PanelCommand)(command)
    app.command(
        "lm-eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False
    )(lm_eval)
    app.add_typer(cache.app, name="cache")
    app.add_typer(data.app, name="data")
    app.add_typer(rating.app, name="rate")
    app.add_typer(suites_app, name="suites")
