"""Make the options of a command from the fields of job models, so that a default is defined in one place.

A command names a model at the position of its options, and gets their values as a dict:

    @with_fields
    def finetune(*, job: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:FinetuneJob")], twin: ...) -> None:

The model is imported when the command is used, so `bitnet-bench --help` stays fast.
"""

from __future__ import annotations

import functools
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from bitnet_bench.cli.completion import COMPLETERS
from bitnet_bench.cli.help_panels import PanelCommand
from bitnet_bench.cli.option_names import name_options, read_names
from bitnet_bench.cli.sentences import print_warning

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from bitnet_bench.runs.settings import Option

FORMER_OPTIONS = {"--despite-parity": "--allow-mismatch"}
"""Spellings of options until 0.1.0, which work for one more release."""
MAX_CHOICES_CHARACTERS = 60
"""Length of the choices of an option from which on --help lists them in its text: a placeholder does not wrap."""
SCALARS = (str, int, float, bool)


@dataclass(frozen=True)
class Fields:
    """Placeholder in a command's signature for an option of each field of a model, or of the fields in *only*."""

    model: str
    """Model as MODULE:CLASS, a subclass of `bitnet_bench.runs.settings.Settings`."""
    only: tuple[str, ...] = ()
    """Names of fields; if given, the model's panels are left out."""


def with_fields(function: Callable[..., None]) -> Callable[..., None]:
    """Hide the parameters of *function* from Typer until its command, a `JobCommand`, is used."""

    @functools.wraps(function)
    def unread() -> None:
        raise AssertionError("JobCommand calls the function itself")

    unread.__signature__ = inspect.Signature()  # type: ignore[attr-defined]
    unread.__annotations__ = {}
    return unread


class JobCommand(PanelCommand):
    """Command of a function with `with_fields`; its options are made when they are needed."""

    _is_read = False

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the command's own parameters and those of the models."""
        if not self._is_read:
            app = typer.Typer(add_completion=False)
            app.command()(expand_fields(inspect.unwrap(self.callback)))  # type: ignore[arg-type]
            read = typer.main.get_command(app)
            names = read_names(read.params)
            for parameter in read.params:
                parameter.help = name_options(parameter.help or "", names)  # type: ignore[attr-defined]
            self.params, self.callback, self._is_read = read.params, read.callback, True
        return super().get_params(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; former spellings are accepted with a warning."""
        own = {spelling for parameter in self.get_params(ctx) for spelling in parameter.opts}
        former = {argument: now for argument, now in FORMER_OPTIONS.items() if now in own}
        for argument in former.keys() & set(args):
            print_warning(f"{argument} is now {former[argument]}; the next release does not know it.")
        return super().parse_args(ctx, [former.get(argument, argument) for argument in args])


def expand_fields(function: Callable[..., None]) -> Callable[..., None]:
    """Return *function* with an option of each field in place of each `Fields`, for Typer to read."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, list[str]] = {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        fields = next((one for one in get_args(parameter.annotation) if isinstance(one, Fields)), None)
        made = [parameter] if fields is None else list(make_parameters(fields))
        if fields:
            groups[parameter.name] = [one.name for one in made]
        parameters += [
            one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=_read_by_typer(one.annotation)) for one in made
        ]
    sequences = {one.name for one in parameters if _is_list(one)}

    def call(**values: Any) -> None:
        plain = {name: _plain(value, name in sequences) for name, value in values.items()}
        for group, names in groups.items():
            taken = {name: plain.pop(name) for name in names}
            plain[group] = {name: str(one) if isinstance(one, Path) else one for name, one in taken.items()}
        function(**plain)

    call.__name__, call.__doc__ = function.__name__, function.__doc__
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {}
    return call


def make_parameters(fields: Fields) -> Iterator[inspect.Parameter]:
    """Yield an option for each field, with the field's type, default, least value, help, panel and name."""
    model = pkgutil.resolve_name(fields.model)
    for name, field, option in model.options():
        if fields.only and name not in fields.only:
            continue
        kind, default = _type_of(field, option), _default_of(field, option)
        if default is None:
            kind = kind | None
        choices = _list_choices(kind)
        is_long = len("|".join(choices)) > MAX_CHOICES_CHARACTERS
        info = typer.Option(
            *([f"--{option.name}"] if option.name else []),
            help=" ".join((field.description or "").partition("\n\n")[0].split())
            + (f" One of {', '.join(choices)}." if is_long else ""),
            rich_help_panel=None if fields.only else option.panel,
            metavar=(option.name or name).upper() if is_long else option.metavar,
            min=_least(field, kind),
            autocompletion=COMPLETERS.get(name),
        )
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _list_choices(kind: Any) -> list[str]:
    """Return the values of a Literal, or of a list or an option of one; [] for other types."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [value for inner in get_args(kind) for value in _list_choices(inner)]


def _type_of(field: FieldInfo, option: Option) -> Any:
    """Return the type of an option: the field's without None, list for tuple and dict, str if the field parses text."""
    kinds = [one for one in get_args(field.annotation) if one is not NoneType]
    kind: Any = kinds[0] if NoneType in get_args(field.annotation) and len(kinds) == 1 else field.annotation
    if get_origin(kind) is dict:
        return list[str]
    if get_origin(kind) is tuple:
        return list[get_args(kind)[0]]  # type: ignore[misc]
    if option.is_repeatable:
        return list[kind]
    if option.is_path:
        return Path
    is_plain = kind in SCALARS or get_origin(kind) is Literal
    return kind if is_plain and option.written is None else str


def _default_of(field: FieldInfo, option: Option) -> Any:
    """Return the default of an option as written on the command line."""
    if field.is_required():
        return inspect.Parameter.empty
    default = option.written or field.default
    if isinstance(default, tuple | dict):
        return list(default) or None
    if option.is_repeatable:
        return [default]
    return str(default) if _type_of(field, option) is str and default is not None else default


def _least(field: FieldInfo, kind: Any) -> Any:
    """Return the least value of an option; None if only the model can check it, such as above 0.0."""
    kinds = {kind, *get_args(kind)}
    for bound in field.metadata if kinds & {int, float} else ():
        if hasattr(bound, "ge"):
            return bound.ge
        if hasattr(bound, "gt") and int in kinds:
            return bound.gt + 1
    return None


def _read_by_typer(annotation: Any) -> Any:
    """Return a type that Typer supports: it takes a Literal, but a list only of enums."""
    if get_origin(annotation) is Annotated:
        kind, *rest = get_args(annotation)
        return Annotated[(_read_by_typer(kind), *rest)]
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    if NoneType in get_args(annotation) and len(kinds) == 1:
        return _read_by_typer(kinds[0]) | None
    if get_origin(annotation) is list and get_origin(kinds[0]) is Literal:
        return list[StrEnum("Choice", {value: value for value in get_args(kinds[0])})]  # type: ignore[misc]
    return annotation


def _is_list(parameter: inspect.Parameter) -> bool:
    kinds = get_args(parameter.annotation)[:1]
    return any(get_origin(kind) is list for kind in (*kinds, *(inner for one in kinds for inner in get_args(one))))


def _plain(value: Any, is_sequence: bool) -> Any:
    """Return a value as a job stores it: a list as a tuple, an enum as text."""
    if is_sequence:
        return tuple(str(one) if isinstance(one, StrEnum) else one for one in value or ())
    return value
