"""Write a GGUF file of a few kilobytes: a Llama of one layer whose tokens 0 to 255 are the bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

VOCABULARY = 300
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
"""Types of tokens in GGUF."""
HIDDEN, HEADS, CONTEXT = 128, 2, 128


def write_tiny_gguf(out: Path) -> None:
    """Write the file *out*, the same bytes each time."""
    from gguf import GGUFWriter

    writer = GGUFWriter(str(out), "llama")
    writer.add_block_count(1)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(VOCABULARY)
    _add_tokens(writer)
    for name, shape in _list_tensors().items():
        values = np.random.default_rng(len(name)).normal(0, 0.1, shape).astype(np.float32)
        writer.add_tensor(f"{name}.weight", values + 1 if "norm" in name else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokens(writer: object) -> None:
    special = {256: ("<unk>", UNKNOWN), 257: ("<s>", CONTROL), 258: ("</s>", CONTROL)}
    byte_tokens = {i: (f"<0x{i:02X}>", BYTE) for i in range(256)}
    found = [(byte_tokens | special).get(i, (f"<normal {i}>", NORMAL)) for i in range(VOCABULARY)]
    writer.add_tokenizer_model("llama")  # type: ignore[attr-defined]
    writer.add_token_list([text for text, _ in found])  # type: ignore[attr-defined]
    writer.add_token_scores([0.0] * VOCABULARY)  # type: ignore[attr-defined]
    writer.add_token_types([kind for _, kind in found])  # type: ignore[attr-defined]
    writer.add_unk_token_id(256)  # type: ignore[attr-defined]
    writer.add_bos_token_id(257)  # type: ignore[attr-defined]
    writer.add_eos_token_id(258)  # type: ignore[attr-defined]
    writer.add_add_bos_token(False)  # type: ignore[attr-defined]
    writer.add_add_space_prefix(False)  # type: ignore[attr-defined]


def _list_tensors() -> dict[str, tuple[int, ...]]:
    square, table = (HIDDEN, HIDDEN), (VOCABULARY, HIDDEN)
    blocks = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    norms = {"output_norm": (HIDDEN,), "blk.0.attn_norm": (HIDDEN,), "blk.0.ffn_norm": (HIDDEN,)}
    return {"token_embd": table, "output": table, **norms, **{f"blk.0.{name}": square for name in blocks}}
