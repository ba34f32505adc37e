"""Define the choices that jobs and records share: how weights are run, trained and stored, and default names."""

from __future__ import annotations

from typing import Literal

AUTO = "auto"
"""Name that lets bitnet-bench choose a backend or a meter."""
TRAINING_BACKEND = "hf"
"""Backend that trains unless another one is named."""
DEFAULT_MODEL = "demo"
"""Checkpoint that is used if none is named."""
DEFAULT_PROMPTS = "default"
"""Prompts of a suite that are used unless others are named."""
MARGIN = 1.0
"""Default difference in points of a score that is too small to matter: about what another batch size changes."""
Answer = Literal["likelihood", "generate"]
"""How a question with choices is answered: by the most likely choice, or by a text that a choice is read out of."""
Precision = Literal[
    "ternary", "fp32", "bf16", "fp16", "q8_0", "q4_0", "tq1_0", "tq2_0", "q2_0", "i2_s", "tl1", "tl2",
    "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs",
]  # fmt: skip
"""How weights are run. From q8_0 on these are the tensor types of llama.cpp and of bitnet.cpp (i2_s, tl1, tl2); those
after tl2 are not written here: a GGUF file that is a model itself has them in most of its layers."""
RecordedPrecision = Literal[Precision, "served"]
"""Precision of a run. served: that of a server, which does not say it."""
TERNARY_PRECISIONS: tuple[Precision, ...] = ("ternary", "tq1_0", "tq2_0", "q2_0", "i2_s", "tl1", "tl2")
"""Precisions that hold only ternary codes in the layers."""
Activations = Literal["checkpoint", "int8"]
"""What ternary layers multiply: what the checkpoint was made for, or int8 in any case."""
KvCache = Literal["exact", "bf16"]
"""How keys and values are kept: as they were computed, or rounded to bfloat16."""
TrainingPrecision = Literal["ternary", "fp16"]
TernaryFormat = Literal["packed", "autobitlinear", "bitlinear", "masters", "baked", "tinyllama", "grouped"]
Format = Literal["float", "served", TernaryFormat]
"""How the weights of a checkpoint are stored.

served: a server holds them, and they cannot be seen.
float: plain weights. masters: float weights that a quantizer makes ternary on the fly. bitlinear, autobitlinear: 2-bit
codes in the two layouts of transformers. tinyllama: masters of a Llama that normalizes inside its linear layers.
baked: float weights that hold -s, 0 and +s only. grouped: float weights that hold -s, 0 and +s only in every group of
64 or 128 inputs of a row, with a scale s of its own. packed: 2-bit codes as the CPU kernel reads them, with one scale
or scales of groups.
"""
ReadAs = Literal["masters"]
"""What plain float weights may be read as, where nothing in the files says that they are it."""
GgufType = Literal["f16", "bf16", "q8_0", "q4_0", "tq2_0", "tq1_0", "q2_0", "i2_s"]
"""Types of the tensors that are written as GGUF."""
EmbeddingType = Literal["f16", "bf16", "q8_0", "q6_k"]
"""Types of embedding and head in a file that is written."""
ScenarioName = Literal["chat", "summarize", "classify"]
