"""Build the transformers model of a config, with allocated weights or as an outline of names and shapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitnet_bench.checkpoints.config import SUB_NORMS_KEY, list_float_patterns, read_config
from bitnet_bench.data.bounds import bounded
from bitnet_bench.errors import MEMORY_HINT, BenchError, is_out_of_memory

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

OUTLINE_SECONDS = 4.0
"""Computing that the outline of a model may take; that of the largest published models takes less than a second."""


MAX_CAUSE_CHARACTERS = 300


class UnbuildableError(BenchError):
    """A config describes no model that transformers can build."""


def build_model(config: dict[str, Any], dtype: torch.dtype) -> PreTrainedModel:
    """Return the causal LM of a config.json with plain linear layers, whose weights of *dtype* hold any values.

    Drawing values that a checkpoint overwrites takes seconds for a table of 262,144 rows. UnbuildableError for
    whatever transformers raises for it.
    """
    from transformers.initialization import no_init_weights

    return _build(config, dtype, no_init_weights())


def _build(config: dict[str, Any], dtype: torch.dtype, within: AbstractContextManager[Any]) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    made = make_model_config(config)
    with _explain_errors(config):
        MODEL_FOR_CAUSAL_LM_MAPPING.get(type(made), None)  # imports the family's code, whose time is not the model's
        with within:
            model: PreTrainedModel = AutoModelForCausalLM.from_config(made, dtype=dtype, trust_remote_code=False)
        if config.get(SUB_NORMS_KEY):
            from bitnet_bench.ternary.subln import attach_sub_norms

            return attach_sub_norms(model)
        return model


def make_model_config(config: dict[str, Any]) -> Any:
    """Return transformers' configuration of a config.json, without its quantization; no code of a checkpoint is run."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    plain = {name: value for name, value in config.items() if name != "quantization_config"}
    with _explain_errors(config):
        if config["model_type"] not in CONFIG_MAPPING:
            raise ValueError(f"It knows no model_type {config['model_type']!r}.")
        return CONFIG_MAPPING[config["model_type"]].from_dict(plain)


def load_config_object(folder: str | Path) -> Any:
    """Return the config of a checkpoint folder as an object of transformers; BenchError if it has none for it."""
    with name_config(Path(folder)):
        return make_model_config(read_config(Path(folder)))


@contextmanager
def name_config(folder: Path) -> Iterator[None]:
    """Name the config.json of *folder* in an `UnbuildableError` of the body, which knows its fields only."""
    try:
        yield
    except UnbuildableError as error:
        raise BenchError(f"{folder / 'config.json'}: {error.problem}", error.hint) from error


@contextmanager
def _explain_errors(config: dict[str, Any]) -> Iterator[None]:
    """Raise BenchError for whatever a family's code raises for a config that does not fit it."""
    try:
        yield
    except Exception as error:
        architecture = (config.get("architectures") or [config["model_type"]])[0]
        if is_out_of_memory(error):
            raise UnbuildableError(f"There is not enough memory for {architecture}.", MEMORY_HINT) from error
        said = " ".join(str(error).split())[:MAX_CAUSE_CHARACTERS] or type(error).__name__
        # ours, and those of transformers' own checks, are sentences; others need their kind to be understood
        hint = said if type(error) is ValueError else f"{type(error).__name__}: {said}"
        raise UnbuildableError(f"transformers cannot build {architecture}.", hint) from error


def build_outline(config: dict[str, Any]) -> PreTrainedModel:
    """Return the causal LM of a config.json on the meta device: names and shapes only, in well under a second.

    UnbuildableError also if the numbers of *config* make a model that is not done in `OUTLINE_SECONDS`.
    """
    import torch

    with torch.device("meta"):
        return _build(config, torch.float32, bounded(OUTLINE_SECONDS))


def list_ternary_shapes(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Return {module name: (rows, columns)} of the layers that transformers' `bitnet` makes ternary under this config.

    All linear layers but the head and those of `modules_to_not_convert`. BenchError if that list leaves out the head:
    transformers would then make the head ternary, which no published model does and this project does not support.
    """
    from bitnet_bench.ternary.linear import find_ternary_targets

    model, kept = build_outline(config), list_float_patterns(config)
    if kept and _is_head_converted(model, kept):
        raise BenchError(
            "modules_to_not_convert names layers but not the output head, which would be made ternary as well.",
            'Add "lm_head" to modules_to_not_convert in quantization_config of config.json.',
        )
    layers = find_ternary_targets(model, kept)
    return {name: (layer.out_features, layer.in_features) for name, layer in layers.items()}


def list_table_names(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the module names of embedding and output head of a config.json; only the former if they are tied."""
    model = build_outline(config)
    names = {id(module): name for name, module in model.named_modules()}
    embedding, head = (names[id(table)] for table in (model.get_input_embeddings(), model.get_output_embeddings()))
    return (embedding,) if model.config.tie_word_embeddings else (embedding, head)


def _is_head_converted(model: PreTrainedModel, kept: tuple[str, ...]) -> bool:
    from transformers.quantizers.quantizers_utils import should_convert_module

    head = model.get_output_embeddings()
    return any(module is head and should_convert_module(name, list(kept)) for name, module in model.named_modules())


def list_tied_tensors(model: Any) -> set[str]:
    """Return the tensors of a transformers *model* that are stored under another name only (a tied head)."""
    return set(getattr(model, "_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()
