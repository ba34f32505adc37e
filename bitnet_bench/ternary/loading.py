"""Turn a checkpoint folder into a model that trains or runs, and refuse what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bitnet_bench.errors import BenchError
from bitnet_bench.records import Checkpoint, Precision
from bitnet_bench.ternary.checkpoint import Direction, open_weights, read_codes, read_config, tied_names, weight_files

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def load_model(checkpoint: Checkpoint, purpose: Literal["train", "run"], precision: Precision) -> PreTrainedModel:
    """Return the causal LM of *checkpoint* on the CPU.

    train + ternary: `BitLinear` layers with float32 masters. run + ternary: `CodesLinear` layers, the rest in
    float32. Any other precision: plain layers, float32 to train and in that dtype to run.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from bitnet_bench.ternary.linear import make_trainable_ternary
    from bitnet_bench.ternary.quantizer import masters_from_codes

    _refuse_mismatch(checkpoint, purpose, precision)
    run_dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = run_dtypes.get(precision, torch.float32) if purpose == "run" else torch.float32
    try:
        config = AutoConfig.from_pretrained(checkpoint.path, trust_remote_code=False)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    except ValueError as error:
        raise BenchError(
            f"transformers cannot build {checkpoint.architecture} of {checkpoint.source}.", str(error).splitlines()[0]
        ) from error
    floats, packed = _read_tensors(checkpoint)
    if precision == "ternary" and purpose == "run":
        _install_codes(model, floats, packed, checkpoint)
    else:
        floats |= {f"{name}.weight": masters_from_codes(*layer) for name, layer in packed.items()}
    _load_floats(model, {name: tensor.to(dtype) for name, tensor in floats.items()}, checkpoint)
    if precision == "ternary" and purpose == "train":
        make_trainable_ternary(model)
    return model.train() if purpose == "train" else model.eval().requires_grad_(False)


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """Return the fast tokenizer of *checkpoint*; BenchError if there is none or it does not fit the model."""
    from transformers import AutoTokenizer

    path = Path(checkpoint.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise BenchError(f"{path} has no usable tokenizer.", str(error).splitlines()[0]) from error
    if not tokenizer.is_fast:
        raise BenchError(f"{path} has a slow tokenizer, which gives no offsets.", "Save it with a tokenizer.json.")
    if tokenizer.eos_token_id is None:
        raise BenchError(f"The tokenizer of {path} has no EOS token.", "Name one in its tokenizer_config.json.")
    vocabulary = read_config(path).get("vocab_size", len(tokenizer))
    if len(tokenizer) > vocabulary:
        raise BenchError(
            f"The tokenizer of {path} has {len(tokenizer)} tokens and its model only {vocabulary}.",
            "Tokenizer and weights belong to different models.",
        )
    return tokenizer


def _refuse_mismatch(checkpoint: Checkpoint, purpose: str, precision: Precision) -> None:
    if precision != "ternary" and checkpoint.format == "packed":
        raise BenchError(
            f"{checkpoint.source} is packed ternary; it has no {precision} weights.",
            "Use --precision ternary, or name an FP16 checkpoint (for --twin: --twin-model).",
        )
    if precision == "ternary" and purpose == "run" and not checkpoint.is_ternary:
        raise BenchError(
            f"{checkpoint.source} holds plain float weights, which were not trained to be ternary.",
            "Fine-tune it with `bitnet-bench finetune --precision ternary` first, or run it with --precision fp32.",
        )


def _read_tensors(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
    """Return the float tensors by name, and (codes int8 [N, K], gamma) of packed layers by module name."""
    import torch

    floats: dict[str, Tensor] = {}
    stored: dict[str, Tensor] = {}
    with open_weights(weight_files(Path(checkpoint.path))) as handles:
        for handle in handles:
            for name in handle.keys():  # noqa: SIM118 - a safetensors handle is no dict
                tensor = handle.get_tensor(name)
                (stored if tensor.dtype == torch.uint8 else floats)[name] = tensor
    packed = {}
    for name, tensor in stored.items():
        module = name.removesuffix(".weight")
        gamma = _gamma(module, floats.pop(f"{module}.weight_scale", None), checkpoint.scale_direction)
        packed[module] = (read_codes(name, tensor), gamma)
        if checkpoint.scale_direction == "multiply" and f"{module}.bias" in floats:
            # AutoBitLinear multiplies (W x + b) by the scale; BitLinear adds the bias after it
            floats[f"{module}.bias"] = floats[f"{module}.bias"].float() * gamma
    return floats, packed


def _gamma(module: str, scale: Tensor | None, direction: Direction | None) -> Tensor:
    """Return the float32 number that the integer product is multiplied by."""
    if scale is None:
        raise BenchError(f"{module} is packed but has no weight_scale.", "The checkpoint is incomplete; get it again.")
    scale = scale.float().reshape(-1)
    if scale.numel() != 1 or not bool(scale.isfinite().all()) or float(scale) <= 0:
        raise BenchError(
            f"{module}.weight_scale is {scale.tolist()}, and must be one positive number.",
            "The checkpoint is damaged; get it again.",
        )
    return scale[0] if direction == "multiply" else 1.0 / scale[0]


def _install_codes(
    model: PreTrainedModel, floats: dict[str, Tensor], packed: dict[str, tuple[Tensor, Tensor]], checkpoint: Checkpoint
) -> None:
    """Replace the ternary layers of *model* by `CodesLinear`, taking their tensors out of *floats*."""
    from bitnet_bench.ternary.linear import CodesLinear, ternary_targets
    from bitnet_bench.ternary.quantizer import ternarize

    targets = ternary_targets(model)
    if unknown := sorted(packed.keys() - targets.keys()):
        raise _misfit(checkpoint, f"{unknown[0]} is not a linear layer of the model")
    for name, layer in targets.items():
        if name in packed:
            codes, gamma = packed[name]
            if codes.shape != layer.weight.shape:
                raise _misfit(checkpoint, f"{name} is {tuple(codes.shape)} and must be {tuple(layer.weight.shape)}")
        elif f"{name}.weight" in floats:
            codes, gamma = ternarize(floats.pop(f"{name}.weight"))
        else:
            continue  # reported as missing when the rest is loaded
        model.set_submodule(name, CodesLinear(codes, gamma, floats.pop(f"{name}.bias", None)))


def _misfit(checkpoint: Checkpoint, what: str) -> BenchError:
    return BenchError(
        f"The weights of {checkpoint.source} do not fit its config: {what}.",
        "config.json and the weights belong to different models, or the download is incomplete.",
    )


def _load_floats(model: PreTrainedModel, state: dict[str, Tensor], checkpoint: Checkpoint) -> None:
    try:
        outcome = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise _misfit(checkpoint, str(error).splitlines()[-1].strip().rstrip(".")) from error
    tied = tied_names(model)
    missing = [name for name in outcome.missing_keys if name not in tied]
    if missing or outcome.unexpected_keys:
        name, what = (missing[0], "missing") if missing else (outcome.unexpected_keys[0], "not part of the model")
        raise _misfit(checkpoint, f"{name} is {what}")
    model.tie_weights()
