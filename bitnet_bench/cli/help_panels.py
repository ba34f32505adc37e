"""A command whose --help lists options in panels of plain text, and whose errors name its options."""

from __future__ import annotations

import re
from typing import Any

import typer
from typer.core import TyperCommand

from bitnet_bench.cli.option_names import OPTION_NAMES, name_options, read_names
from bitnet_bench.errors import BenchError, UsageError, did_you_mean

NO_CHOICE = re.compile(r"'(?P<given>.*)' is not one of (?P<choices>.*)\.", re.DOTALL)
QUOTED = re.compile(r"'([^']*)'")
OPTIONS = "Options"
"""Panel of the options without a panel, listed last."""


class PanelCommand(TyperCommand):
    """Command that groups options by their `rich_help_panel`, in the order of the parameters.

    Typer itself shows panels only in its rich mode, whose table leaves 18 of 80 columns for the text.
    """

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each panel."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            described: Any = parameter.get_help_record(ctx)
            if described is not None:
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or OPTIONS, []).append(described)
        for name in sorted(panels, key=lambda name: name == OPTIONS):
            with formatter.section(name):
                formatter.write_dl(panels[name])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; a value that is none of an option's choices gets the nearest one."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            found = NO_CHOICE.search(error.message)
            if found is None or error.param is None:
                raise
            choices = QUOTED.findall(found["choices"])
            hint = f"{did_you_mean(found['given'], choices)} There are: {', '.join(choices)}."
            raise UsageError(f"{error.param.opts[0]}: there is no {found['given']!r}.", hint.lstrip()) from None

    def invoke(self, ctx: Any) -> Any:
        """Run the command; the message of a BenchError names options instead of fields."""
        names = OPTION_NAMES.set(read_names(self.get_params(ctx)))
        try:
            return super().invoke(ctx)
        except BenchError as error:
            error.problem, error.hint = name_options(error.problem), name_options(error.hint)
            raise
        finally:
            OPTION_NAMES.reset(names)
