"""Load a checkpoint folder as a model that trains or runs, and refuse what does not fit."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bitnet_bench.checkpoints.building import build_model, build_outline, list_tied_tensors, name_config
from bitnet_bench.checkpoints.config import AGAIN_HINT, list_float_patterns, read_config, read_generation_config
from bitnet_bench.checkpoints.detect import find_dropped_norms
from bitnet_bench.checkpoints.weights import Weights
from bitnet_bench.errors import BenchError
from bitnet_bench.files import read_text
from bitnet_bench.json_files import check_json_depth, read_json_object
from bitnet_bench.runs.choices import Precision
from bitnet_bench.runs.records import Checkpoint
from bitnet_bench.ternary.packing import CODES_PER_BYTE

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

Purpose = Literal["train", "run"]
TORCH_PRECISIONS: tuple[Precision, ...] = ("ternary", "fp32", "bf16", "fp16")
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""Files beside tokenizer.json, which the Rust library reads itself: parsing it here would take hundreds of MiB."""
TOKENIZER_FILE, MAX_TOKENIZER_DEPTH = "tokenizer.json", 16
"""That file and its depth, which is 8 in published ones: the library tries every kind of a step at each level, and 30
levels take it minutes."""
TRIAL_TEXT = "안녕 a1."
PANIC = "PanicException"
"""Name of what a Rust library raises for its own bugs; it is no `Exception`."""
MAX_SIZE_RATIO = 2
"""Ratio of parameters of a config to those in its files above which the two are not one model, whatever is tied."""
MAX_BUFFER_BYTES = 4 << 30
"""Memory that a model may take for what is in no file, such as GPT-2's masks of all pairs of positions."""
_log = logging.getLogger(__name__)


def load_model(
    checkpoint: Checkpoint,
    purpose: Purpose,
    precision: Precision,
    *,
    dense: bool = False,
    rest: Literal["fp32", "bf16", "fp16"] = "fp32",
) -> PreTrainedModel:
    """Return the causal LM of *checkpoint* on the CPU.

    Ternary to train: `BitLinear` layers with float32 masters. Ternary to run: `CodesLinear` layers, others in *rest*.
    Any other precision: plain layers, in float32 to train and in that dtype to run; *dense* allows it for a checkpoint
    of packed codes too, at the cost of a float model of its shape and without its int8 activations. A model with a
    scale per group and float activations runs as plain layers of its weights t * s at every precision.
    """
    import torch

    from bitnet_bench.ternary.group_linear import make_trainable_groups
    from bitnet_bench.ternary.groups import scale_groups
    from bitnet_bench.ternary.linear import make_trainable_ternary

    check_loadable(checkpoint, purpose, precision, dense)
    run_dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    held = rest if precision == "ternary" else precision
    dtype = run_dtypes.get(held, torch.float32) if purpose == "run" else torch.float32
    weights = Weights(checkpoint)
    with name_config(Path(checkpoint.path)):
        _check_size(weights)
        model = build_model(weights.config, dtype)
    _check_layers_fit(model, weights)
    if precision == "ternary" and purpose == "run" and checkpoint.quantizes_activations:
        _install_codes(model, weights)
        tables = ((f"{name}.weight", scale_groups(*weights.codes(name))) for name in checkpoint.ternary_tables)
        state: Iterator[tuple[str, Tensor]] = chain(((name, weights.tensor(name)) for name in weights.floats), tables)
    else:
        state = _iterate_plain_state(weights, as_masters=precision == "ternary" and purpose == "train")
    _load_floats(model, state, checkpoint)
    if precision == "ternary" and purpose == "train":
        kept = list_float_patterns(weights.config)
        if checkpoint.group_size:
            make_trainable_groups(
                model,
                checkpoint.group_size,
                checkpoint.ternary_tables,
                rounds_inputs=checkpoint.quantizes_activations,
                kept=kept,
            )
        else:
            make_trainable_ternary(model, kept)
    return model.train() if purpose == "train" else model.eval().requires_grad_(False)


def check_config_fits(weights: Weights) -> None:
    """Raise BenchError if config.json describes another model than *weights*, by names and shapes.

    `load_model` finds the same; this is for what runs a model without building it in transformers.
    """
    with name_config(Path(weights.checkpoint.path)):
        outline = _check_size(weights)
    _check_layers_fit(outline, weights)
    _check_floats_fit(outline, weights)
    heads, kv_heads = (getattr(outline.config, f"num_{kind}_heads", 1) for kind in ("attention", "key_value"))
    if kv_heads and heads % kv_heads:
        raise _misfit_error(
            weights.checkpoint, f"{heads} heads of attention cannot share {kv_heads} of keys and values"
        )


def _check_floats_fit(outline: PreTrainedModel, weights: Weights) -> None:
    """Raise BenchError if a float tensor is missing, is not part of the model, or has another shape."""
    checkpoint = weights.checkpoint
    gone = find_dropped_norms(weights.shards.headers) if checkpoint.inner_norm else ()
    expected = {
        name: tuple(tensor.shape)
        for name, tensor in outline.state_dict().items()
        if name.rpartition(".")[0] not in weights.ternary and name.split(".")[-2] not in gone
    }
    for name in weights.floats:
        if name not in expected:
            raise _misfit_error(checkpoint, f"{name} is not part of the model")
        stored = tuple(weights.shards.headers[name].shape)
        if stored != expected[name]:
            raise _misfit_error(checkpoint, f"{name} is {stored} and must be {expected[name]}")
    missing = expected.keys() - set(weights.floats) - list_tied_tensors(outline)
    if missing:
        raise _misfit_error(checkpoint, f"{min(missing)} is missing")


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """Return the fast tokenizer of *checkpoint*; BenchError if it is missing or does not fit the model."""
    path = Path(checkpoint.path)
    tokenizer = _open_tokenizer(path)
    if not tokenizer.is_fast:
        raise BenchError(f"{path} has a slow tokenizer, which gives no offsets.", "Save it with a tokenizer.json.")
    if tokenizer.eos_token_id is None:
        raise BenchError(f"The tokenizer of {path} has no EOS token.", "Name one in its tokenizer_config.json.")
    config = read_config(path)
    largest = max(tokenizer.get_vocab().values()) + 1  # special tokens may have ids far above the others
    if largest > config.get("vocab_size", largest):
        raise BenchError(
            f"The tokenizer of {path} has tokens up to {largest} and its model only {config['vocab_size']}.",
            "Tokenizer and weights belong to different models.",
        )
    begins = config.get("bos_token_id")
    if None not in (begins, tokenizer.bos_token_id) and begins != tokenizer.bos_token_id:
        # often an uncorrected default, and harmless then
        _log.warning("%s: texts begin with token %s, and config.json says %s.", path, tokenizer.bos_token_id, begins)
    return tokenizer


def _open_tokenizer(path: Path) -> Any:
    """Return the tokenizer in the folder *path*, which has read and written a text; BenchError for whatever it raises.

    Its files are programs of a kind: the Rust library raises bare exceptions for them, and panics.
    """
    tokenizer_class = _choose_tokenizer_class(path)
    for name in TOKENIZER_SETTINGS:
        if (path / name).is_file():
            read_json_object(path / name, AGAIN_HINT)
    if (path / TOKENIZER_FILE).is_file():
        check_json_depth(path / TOKENIZER_FILE, AGAIN_HINT, MAX_TOKENIZER_DEPTH)
    try:
        tokenizer = tokenizer_class.from_pretrained(path, trust_remote_code=False)
        tokenizer.decode(tokenizer(TRIAL_TEXT).input_ids)
        max(tokenizer.get_vocab().values())
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        _check_tokenizer_files(path)
        said = next(iter(str(error).strip().splitlines()), "")
        hint = said if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {said}"
        raise BenchError(f"{path} has no usable tokenizer.", hint or type(error).__name__) from error
    return tokenizer


def _check_tokenizer_files(path: Path) -> None:
    """Raise BenchError that names the file in *path* that made its tokenizer unusable, if reading it shows that."""
    if (path / TOKENIZER_FILE).is_file():
        read_json_object(path / TOKENIZER_FILE, AGAIN_HINT)
    for file in (path / "chat_template.jinja", *sorted(path.glob("additional_chat_templates/*.jinja"))):
        if file.is_file():
            read_text(file, AGAIN_HINT)


def _choose_tokenizer_class(path: Path) -> Any:
    """Return the class that opens the tokenizer in *path*; BenchError for a GGUF file whose own could not be built.

    That of a GGUF file is whole: a class of its model's family would put its own rules in place of the file's.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    from bitnet_bench.checkpoints.gguf.gguf_shards import read_index

    index = read_index(path)
    if index and index.tokenizer_problem:
        raise BenchError(*index.tokenizer_problem)
    return PreTrainedTokenizerFast if index and not index.tokenizer_given else AutoTokenizer


def find_end_ids(checkpoint: Checkpoint, tokenizer: Any) -> frozenset[int]:
    """Return every id that ends an answer: EOS, and those in generation_config.json and config.json of *checkpoint*.

    A chat model ends its turn with another token than a text (Gemma, Llama 3, ChatML on a base model).
    """
    path = Path(checkpoint.path)
    found = [tokenizer.eos_token_id, read_config(path).get("eos_token_id")]
    found.append(read_generation_config(path).get("eos_token_id"))
    named = [i for ids in found for i in (ids if isinstance(ids, list) else [ids])]
    return frozenset(i for i in named if isinstance(i, int))


def why_untrainable(checkpoint: Checkpoint) -> str | None:
    """Return why ternary training cannot continue from *checkpoint*, or None if it can."""
    if checkpoint.inner_norm:
        return "it normalizes inside its ternary layers, which training does not do"
    return None


def check_loadable(checkpoint: Checkpoint, purpose: Purpose, precision: Precision, dense: bool = False) -> None:
    """Raise BenchError if `load_model` would refuse *checkpoint*, whatever its weights are."""
    if precision not in TORCH_PRECISIONS:
        raise BenchError(
            f"torch runs no {precision} weights.",
            f"Use the backend llamacpp or bitnetcpp, or {', '.join(TORCH_PRECISIONS)}.",
        )
    if precision != "ternary" and (
        (checkpoint.has_codes_only and not dense and not checkpoint.group_size) or checkpoint.inner_norm
    ):
        kind = "packed ternary" if checkpoint.has_codes_only else f"ternary ({checkpoint.format}, with inner norms)"
        raise BenchError(
            f"{checkpoint.source} is {kind}; it has no {precision} weights.",
            "Use `precision=ternary`, or name an FP16 checkpoint (for `twin`: `twin_model`).",
        )
    if precision == "ternary" and not checkpoint.is_ternary and {"TQ1_0", "TQ2_0"} & checkpoint.gguf_types.keys():
        raise BenchError(
            f"{checkpoint.source} holds ternary codes with a scale for every block of 256, not one for each layer.",
            "Run it dense, with the backend `hf` and `precision=fp32`.",
        )
    if precision == "ternary" and purpose == "run" and not checkpoint.is_ternary:
        raise BenchError(
            f"{checkpoint.source} holds plain float weights, which were not trained to be ternary.",
            "Fine-tune it with `bitnet-bench finetune --precision ternary` first, run it with `precision=fp32`, or, if "
            "it holds the masters of a ternary model, say so: `read_as=masters`.",
        )
    reason = why_untrainable(checkpoint)
    if purpose == "train" and reason:
        raise BenchError(
            f"{checkpoint.source} cannot be trained: {reason}.",
            "Run it, or train from a checkpoint without inner norms.",
        )


def _iterate_plain_state(weights: Weights, *, as_masters: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors by name, codes as masters; one is read when it is asked for, since a decoded one is large.

    Codes with a scale per group are masters only to be trained as ternary (*as_masters*), and else the weights t * s.
    """
    from bitnet_bench.ternary.groups import masters_from_groups, scale_groups
    from bitnet_bench.ternary.quantizer import masters_from_codes

    for name in weights.floats:
        yield name, weights.tensor(name)
    for module in weights.ternary:
        rebuilt = weights.checkpoint.has_codes_only or weights.checkpoint.format == "baked"
        name = f"{module}.weight"
        if weights.group_size and not (as_masters and weights.checkpoint.format == "masters"):
            rebuild = masters_from_groups if as_masters else scale_groups
            yield name, rebuild(*weights.codes(module))
        elif rebuilt:
            yield name, masters_from_codes(*weights.codes(module))
        elif weights.has_tensor(name):
            yield name, weights.tensor(name)
        bias = weights.bias(module)
        if bias is not None:
            yield f"{module}.bias", bias


def _install_codes(model: PreTrainedModel, weights: Weights) -> None:
    """Replace the ternary layers of *model* by `CodesLinear`; norms that moved into them become identities."""
    from torch import nn

    from bitnet_bench.ternary.group_linear import GroupCodesLinear
    from bitnet_bench.ternary.linear import CodesLinear, InnerNorm, replace_layer

    checkpoint = weights.checkpoint
    for module in weights.ternary:
        if not weights.has_tensor(f"{module}.weight"):
            continue  # reported as missing when the other tensors are loaded
        if weights.group_size:
            if module not in checkpoint.ternary_tables:
                replace_layer(model, module, GroupCodesLinear(*weights.codes(module), weights.bias(module)))
            continue
        norm = None
        if checkpoint.inner_norm:
            learned = weights.inner_norm(module)
            norm = InnerNorm(None if learned is None else learned.float(), checkpoint.inner_norm_eps or 0.0)
        replace_layer(model, module, CodesLinear(*weights.codes(module), weights.bias(module), norm))
    gone = find_dropped_norms(weights.shards.headers) if checkpoint.inner_norm else ()
    for name, _ in list(model.named_modules()):
        if name.rpartition(".")[2] in gone:
            model.set_submodule(name, nn.Identity())


def _check_size(weights: Weights) -> PreTrainedModel:
    """Return the model's outline; BenchError before memory is taken if it is far larger than what the files hold."""
    outline = build_outline(weights.config)
    described = sum(tensor.numel() for tensor in outline.parameters())
    held = sum(
        header.elements * (CODES_PER_BYTE if header.dtype == "U8" else 1) for header in weights.shards.headers.values()
    )
    if described > MAX_SIZE_RATIO * held:
        raise _misfit_error(weights.checkpoint, f"it describes {described:.3g} parameters, and there are {held:.3g}")
    unsaved = sum(tensor.nbytes for tensor in outline.buffers())
    if unsaved > MAX_BUFFER_BYTES:
        raise _misfit_error(weights.checkpoint, f"its tables of positions would take {unsaved >> 30} GiB")
    return outline


def _check_layers_fit(model: PreTrainedModel, weights: Weights) -> None:
    """Raise BenchError if a ternary layer is not in the model or has another shape, or if one is unexpectedly float."""
    from bitnet_bench.ternary.linear import find_ternary_targets

    checkpoint = weights.checkpoint
    targets: dict[str, Any] = dict(find_ternary_targets(model, list_float_patterns(weights.config)))
    known = dict(model.named_modules())
    targets |= {name: known[name] for name in checkpoint.ternary_tables if name in known}
    for module, shape in weights.ternary.items():
        if module not in targets:
            raise _misfit_error(checkpoint, f"{module} is not a linear layer of the model")
        if weights.has_tensor(f"{module}.weight"):
            stored = shape if checkpoint.has_codes_only else weights.shards.headers[f"{module}.weight"].shape
            _check_layer_shape(checkpoint, module, stored, tuple(targets[module].weight.shape))
    for module in targets.keys() - weights.ternary.keys() if checkpoint.is_ternary else ():
        if weights.has_tensor(f"{module}.weight"):
            raise _misfit_error(checkpoint, f"{module} is not ternary and modules_to_not_convert does not name it")


def _check_layer_shape(checkpoint: Checkpoint, module: str, stored: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if stored == expected:
        return
    if checkpoint.has_codes_only and stored[1:] == expected[1:] and 0 < stored[0] - expected[0] < CODES_PER_BYTE:
        raise BenchError(
            f"{module} of {checkpoint.source} has {expected[0]} rows, no multiple of {CODES_PER_BYTE}, in a layout "
            "that cannot say where its rows end.",
            "Convert the masters that it was made from with `bitnet-bench convert --to packed`.",
        )
    raise _misfit_error(checkpoint, f"{module} is {stored} and must be {expected}")


def _check_range(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Raise BenchError if a value of *tensor* is out of the range of *dtype*."""
    import torch

    if not (tensor.is_floating_point() and torch.finfo(dtype).max < torch.finfo(tensor.dtype).max and tensor.numel()):
        return
    ends = torch.stack(torch.aminmax(tensor))  # rounding keeps the order, so the extremes decide
    if ends.to(dtype).isinf().any():
        raise BenchError(
            f"{name} holds values that {dtype} cannot: up to {float(ends.abs().max()):.3g}.",
            "Run it with `precision=bf16` or `precision=fp32`.",
        )


def _misfit_error(checkpoint: Checkpoint, what: str) -> BenchError:
    return BenchError(
        f"The weights of {checkpoint.source} do not fit its config: {what}.",
        "config.json and the weights belong to different models, or the download is incomplete.",
    )


def _load_floats(model: PreTrainedModel, state: Iterable[tuple[str, Tensor]], checkpoint: Checkpoint) -> None:
    """Copy the tensors of *state* into *model*, one at a time; BenchError if names, shapes or values do not fit."""
    import torch

    places: dict[str, Tensor] = model.state_dict()
    missing = places.keys() - list_tied_tensors(model)
    unexpected = ""
    with torch.no_grad():
        for name, tensor in state:
            place = places.get(name)
            if place is None:
                unexpected = unexpected or name
                continue
            if place.shape != tensor.shape:
                what = f"{name} is {tuple(tensor.shape)} and must be {tuple(place.shape)}"
                raise _misfit_error(checkpoint, what)
            _check_range(name, tensor, place.dtype)
            place.copy_(tensor)
            missing.discard(name)
    if missing or unexpected:
        first = next((name for name in places if name in missing), "")
        name, what = (first, "missing") if missing else (unexpected, "not part of the model")
        raise _misfit_error(checkpoint, f"{name} is {what}")
    model.tie_weights()
