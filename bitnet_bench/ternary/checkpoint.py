"""Checkpoint folders: say what one is by looking inside, load it as a model, and write it whole.

Formats that are read: plain float weights; float masters with an online `quantization_config`, or of
`model_type: bitnet`; 2-bit packed weights of transformers' `bitlinear` (scale divides) and `autobitlinear` (scale
multiplies). Anything else is refused by name. Only safetensors are opened, and no code of a checkpoint is run.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bitnet_bench.errors import BenchError
from bitnet_bench.files import folder_written_whole
from bitnet_bench.records import Checkpoint, Precision

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Direction = Literal["multiply", "divide"]
LABEL = "bitnet_bench_precision"
"""Our mark in config.json: an FP16 model of `model_type: bitnet` looks like masters without it."""
FLOAT_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}


def inspect(path: Path, source: str | None = None, revision: str | None = None) -> Checkpoint:
    """Say what the checkpoint folder *path* holds, from its config and its tensors' headers and codes."""
    config = read_config(path)
    files = weight_files(path)
    tensors = dict(_headers(files))
    packed = sorted(name for name, (dtype, _, _) in tensors.items() if dtype == "U8" and name.endswith(".weight"))
    form, direction = _format(path, config, packed)
    sizes, parameters, ternary = _sizes(tensors, packed, form)
    dtypes = {dtype for dtype, _, _ in tensors.values() if dtype in FLOAT_DTYPES}
    embedding = next((d for n, (d, _, _) in tensors.items() if "embed_tokens" in n), None)
    return Checkpoint(
        source=source or str(path),
        path=str(path),
        revision=revision,
        architecture=(config.get("architectures") or ["unknown"])[0],
        format=form,
        scale_direction=direction,
        dtype=FLOAT_DTYPES.get(embedding or next(iter(sorted(dtypes)), ""), "unknown"),
        sha256=_sha256(files),
        weight_bytes=sizes,
        parameters=parameters,
        ternary_parameters=ternary,
        zero_density=_zero_density(files, packed) if packed else None,
    )


def read_config(path: Path) -> dict[str, Any]:
    """Return config.json of a checkpoint folder as a dict; BenchError if *path* is not a checkpoint."""
    file = path / "config.json"
    if not file.is_file():
        raise BenchError(
            f"{path} is not a checkpoint: it has no config.json.",
            "Give a folder with config.json, *.safetensors and a tokenizer; a hub id; or `demo` / `demo-fp16`.",
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BenchError(f"{file} is not valid JSON: {error}.", "Download or save the checkpoint again.") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise BenchError(f"{file} names no model_type.", "It must be the config.json of a transformers causal LM.")
    return config


def weight_files(path: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint, in name order; BenchError if there are none or one is missing."""
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BenchError(f"{index} is no index of weight files.", "Get the checkpoint again.") from error
        if any(Path(name).name != name for name in names):
            raise BenchError(f"{index} names a file outside its folder.", "Do not use this checkpoint.")
        files = [path / name for name in names]
    else:
        files = sorted(path.glob("*.safetensors"))
    missing = [f.name for f in files if not f.is_file()]
    if missing:
        raise BenchError(f"{path} lacks {missing[0]}, which its index names.", "Download the checkpoint again.")
    if files:
        return files
    if any(path.glob("*.bin")):
        raise BenchError(
            f"{path} has only pickled weights (*.bin), which can run code when opened.",
            "Convert it: AutoModelForCausalLM.from_pretrained(...).save_pretrained(OUT) writes safetensors.",
        )
    raise BenchError(f"{path} has no *.safetensors file.", "Give the folder that holds the weights.")


def _headers(files: list[Path]) -> Iterator[tuple[str, tuple[str, tuple[int, ...], int]]]:
    """Yield (name, (dtype, shape, bytes)) of every tensor, without reading one."""
    with _readable(files) as handles:
        for handle in handles:
            for name in handle.keys():  # noqa: SIM118 - a safetensors handle is no dict
                part = handle.get_slice(name)
                shape = tuple(part.get_shape())
                yield name, (part.get_dtype(), shape, _bytes(part.get_dtype(), shape))


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    size = int("".join(c for c in dtype if c.isdigit()) or 8) // 8
    for n in shape:
        size *= n
    return size


@contextmanager
def _readable(files: list[Path]) -> Iterator[list[Any]]:
    """Open safetensors files; a damaged one becomes a sentence that names it."""
    from safetensors import SafetensorError, safe_open

    handles = []
    for file in files:
        try:
            handles.append(safe_open(file, framework="pt"))
        except (SafetensorError, OSError) as error:
            raise BenchError(
                f"{file} cannot be read as safetensors: {error}.", "The file is damaged or cut off; get it again."
            ) from error
    yield handles


def _format(
    path: Path, config: dict[str, Any], packed: list[str]
) -> tuple[Literal["float", "masters", "packed"], Direction | None]:
    quant = config.get("quantization_config") or {}
    method = quant.get("quant_method")
    if method not in (None, "bitnet"):
        raise BenchError(
            f"{path} is quantized with quant_method {method!r}, which bitnet-bench does not read.",
            "It reads float checkpoints and quant_method 'bitnet'.",
        )
    if quant.get("use_rms_norm"):
        raise BenchError(
            f"{path} normalizes inside BitLinear (use_rms_norm), which is not read yet.",
            "Run it through transformers; its scores there are its own.",
        )
    if packed:
        if method is None:
            raise BenchError(
                f"{path} has 8-bit weights such as {packed[0]} but no quantization_config.",
                "Which way its scales work cannot be known; restore the quantization_config of its config.json.",
            )
        return "packed", "multiply" if quant.get("linear_class") == "autobitlinear" else "divide"
    if method == "bitnet" and quant.get("quantization_mode", "offline") != "online":
        raise BenchError(
            f"{path} says that its weights are packed, but no tensor of it is 8-bit.",
            'If these are masters, set "quantization_mode": "online" and "linear_class": "autobitlinear".',
        )
    if method == "bitnet" or (config["model_type"] == "bitnet" and config.get(LABEL) != "fp16"):
        return "masters", None
    return "float", None


def _sizes(
    tensors: dict[str, tuple[str, tuple[int, ...], int]], packed: list[str], form: str
) -> tuple[dict[str, int], int, int]:
    """Return bytes by kind, the count of parameters, and the count of those that are ternary."""
    sizes = dict.fromkeys(("ternary", "linear", "embedding", "head", "norm"), 0)
    parameters = ternary = 0
    for name, (_, shape, size) in tensors.items():
        if name.endswith(".weight_scale"):
            sizes["ternary"] += size
            continue
        count = 4 * size if name in packed else _bytes("U8", shape)
        matrix = len(shape) == 2 and "embed" not in name and "lm_head" not in name
        kind = (
            "embedding" if "embed" in name
            else "head" if "lm_head" in name
            else "ternary" if name in packed
            else "linear" if matrix or name.endswith(".bias")
            else "norm"
        )  # fmt: skip
        sizes[kind] += size
        parameters += count
        ternary += count if name in packed or (form == "masters" and matrix) else 0
    return {kind: size for kind, size in sizes.items() if size}, parameters, ternary


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _zero_density(files: list[Path], packed: list[str]) -> float:
    zeros = total = 0
    with _readable(files) as handles:
        for handle in handles:
            for name in set(packed) & set(handle.keys()):
                codes = _codes(name, handle.get_tensor(name))
                zeros += int((codes == 0).sum())
                total += codes.numel()
    return zeros / total


def _codes(name: str, stored: Tensor) -> Tensor:
    from bitnet_bench.ternary.packing import unpack

    try:
        return unpack(stored)
    except ValueError as error:
        raise BenchError(f"{name} is damaged: {error}.", "Get the checkpoint again.") from error


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


def refuse_unpackable(model: PreTrainedModel) -> None:
    """BenchError if *model* has no ternary layer, or one with a row count that the packed layout cannot hold."""
    from bitnet_bench.ternary.linear import bit_linears
    from bitnet_bench.ternary.packing import CODES_PER_BYTE

    layers = bit_linears(model)
    if not layers:
        raise BenchError(
            f"{type(model).__name__} has no linear layer to make ternary.",
            "Ternary training takes architectures of nn.Linear layers, such as BitNet, Llama and Qwen.",
        )
    for name, layer in layers.items():
        if layer.out_features % CODES_PER_BYTE:
            raise BenchError(
                f"{name} has {layer.out_features} rows, no multiple of {CODES_PER_BYTE}: it cannot be packed.",
                "This architecture cannot be written as a packed ternary checkpoint.",
            )


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
    with _readable(weight_files(Path(checkpoint.path))) as handles:
        for handle in handles:
            for name in handle.keys():  # noqa: SIM118 - a safetensors handle is no dict
                tensor = handle.get_tensor(name)
                (stored if tensor.dtype == torch.uint8 else floats)[name] = tensor
    packed = {}
    for name, tensor in stored.items():
        module = name.removesuffix(".weight")
        gamma = _gamma(module, floats.pop(f"{module}.weight_scale", None), checkpoint.scale_direction)
        packed[module] = (_codes(name, tensor), gamma)
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
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()
    missing = [name for name in outcome.missing_keys if name not in tied]
    if missing or outcome.unexpected_keys:
        name, what = (missing[0], "missing") if missing else (outcome.unexpected_keys[0], "not part of the model")
        raise _misfit(checkpoint, f"{name} is {what}")
    model.tie_weights()


def save(model: PreTrainedModel, out: Path, form: Literal["float", "masters", "packed"], dtype: str) -> None:
    """Write a trained *model* (float32) to the folder *out*, whole.

    packed: 2-bit codes with float32 scales that multiply, in the layout of `microsoft/bitnet-b1.58-2B-4T`, which
    transformers opens as well. masters: float32 weights with an online quantization_config. float: all in *dtype*.
    In each, what is not ternary is stored in *dtype*.
    """
    import torch
    from safetensors.torch import save_file

    from bitnet_bench.ternary.linear import bit_linears
    from bitnet_bench.ternary.packing import pack
    from bitnet_bench.ternary.quantizer import ternarize

    ternary = {} if form == "float" else bit_linears(model)
    state: dict[str, Tensor] = {}
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if model.config.tie_word_embeddings else set()
    for name, tensor in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        if name in tied:
            continue
        if module not in ternary or kind == "bias":
            if form == "packed" and module in ternary:  # AutoBitLinear multiplies W x + b by the scale
                tensor = tensor / ternarize(ternary[module].weight)[1]
            state[name] = _narrow(name, tensor, torch.float32 if module in ternary else getattr(torch, dtype))
        elif form == "masters":
            state[name] = tensor.float()
        else:
            codes, gamma = ternarize(tensor)
            state[name] = pack(codes)
            state[f"{module}.weight_scale"] = gamma.reshape(1)
    with folder_written_whole(out, last="config.json") as folder:
        save_file({name: t.contiguous() for name, t in state.items()}, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(
            json.dumps(_saved_config(model, form, dtype), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        # safetensors gives its file to the owner alone; a checkpoint is as readable as what stands beside it
        shutil.copymode(folder / "config.json", folder / "model.safetensors")
        if model.generation_config is not None:
            model.generation_config.save_pretrained(folder)


def _narrow(name: str, tensor: Tensor, dtype: Any) -> Tensor:
    narrow = tensor.to(dtype)
    if not bool(narrow.isfinite().all()):
        raise BenchError(
            f"{name} holds values that {dtype} cannot: up to {float(tensor.abs().max()):.3g}.",
            "The run may have diverged; lower --lr, or start from a checkpoint stored in bfloat16 or float32.",
        )
    return narrow


def _saved_config(model: PreTrainedModel, form: str, dtype: str) -> dict[str, Any]:
    config: dict[str, Any] = model.config.to_dict()
    config["dtype"] = dtype
    config["use_cache"] = True  # Trainer turns it off
    config["architectures"] = [type(model).__name__]
    config.pop("quantization_config", None)
    config.pop("_name_or_path", None)
    config[LABEL] = "fp16" if form == "float" else "ternary"
    if form != "float":
        config["quantization_config"] = {
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": "offline" if form == "packed" else "online",
        }
    return config
