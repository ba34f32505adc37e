"""Read checkpoints whose configuration and tensors have other names than transformers gives them today.

1bitLLM/bitnet_b1_58-large and -3B come with a modeling file of their own (microsoft/BitNet's first reproduction): a
Llama configuration of the architecture BitnetForCausalLM, whose SubLN norms are called `self_attn.inner_attn_ln` and
`mlp.ffn_layernorm` (gguf-py/gguf/tensor_mapping.py of llama.cpp lists the names). What it computes is transformers'
`bitnet` with the activation that its config names; its own code is never run. A bare decoder, such as an embedding
model (microsoft/BitNet, utils/convert-bitnet-embedding-to-gguf.py), leaves out the prefix `model.`.
"""

from __future__ import annotations

import re
from typing import Any

FORMER_ARCHITECTURE = "BitnetForCausalLM"
FORMER_NORMS = {
    ".self_attn.inner_attn_ln.": ".self_attn.attn_sub_norm.",
    ".mlp.ffn_layernorm.": ".mlp.ffn_sub_norm.",
}
"""Names of the norms of SubLN in 1bitLLM's code, and in transformers."""
BARE_NAME = re.compile(r"(layers\.\d+|embed_tokens|norm)\.")
"""Start of a tensor's name in a decoder that was saved without its language model."""


def translate_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return *config* as transformers' `bitnet` if it is 1bitLLM's, without the code that it names; else *config*."""
    if config.get("model_type") != "llama" or config.get("architectures") != [FORMER_ARCHITECTURE]:
        return config
    kept = {name: value for name, value in config.items() if name != "auto_map"}
    return kept | {"model_type": "bitnet", "architectures": ["BitNetForCausalLM"]}


def translate_name(name: str) -> str:
    """Return the name of a tensor as transformers gives it to a causal language model today."""
    for former, today in FORMER_NORMS.items():
        name = name.replace(former, today)
    return f"model.{name}" if BARE_NAME.match(name) else name
