"""The model `bitnet-bench` of lm-eval, for users of lm-eval itself.

    bitnet-bench lm-eval run --model bitnet-bench --model_args pretrained=demo,backend=ternary --tasks kobest_copa

lm-eval finds models only by import: in another program, `import bitnet_bench.lm_eval_model` registers it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import lm_eval.models  # noqa: F401 - fills the registry, which otherwise is taken for filled by ours alone
from lm_eval.api.registry import register_model

from bitnet_bench import plugins
from bitnet_bench.checkpoints.locate import open_checkpoint
from bitnet_bench.errors import UsageError
from bitnet_bench.evaluation.lm import SessionLM
from bitnet_bench.machine.runtime_choice import AUTO, choose_backend, default_precision
from bitnet_bench.protocols import InferenceBackend
from bitnet_bench.runs.choices import ReadAs


@register_model("bitnet-bench")
class BitNetBenchLM(SessionLM):
    """A checkpoint on a backend of bitnet-bench, as `--model_args` names them.

    lm-eval's own batch size and device are not used: batches are cut by tokens, and a GPU is used if there is one.
    """

    def __init__(
        self,
        pretrained: str,
        backend: str = AUTO,
        precision: Any = None,
        tokenizer: str | None = None,
        read_as: ReadAs | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise UsageError(
                f"The model bitnet-bench has no argument {', '.join(unknown)}.",
                "--model_args takes pretrained, backend, precision, tokenizer and read_as.",
            )
        self.checkpoint = open_checkpoint(pretrained, tokenizer, read_as)
        precision = precision or default_precision(self.checkpoint, backend)
        self._backend = choose_backend(backend, self.checkpoint, precision).backend
        opener: InferenceBackend = plugins.load_plugin("backends", self._backend)
        self._open = ExitStack()
        session = plugins.open_session(opener, self.checkpoint, precision)
        super().__init__(self._open.enter_context(session))

    def get_model_info(self) -> dict[str, Any]:
        """Return what lm-eval adds to its results about the model."""
        return {
            "model_num_parameters": self.checkpoint.parameters,
            "model_sha256": self.checkpoint.sha256,
            "precision": self._session.precision,
            "backend": self._backend,
        }


def run_lm_eval(arguments: Sequence[str]) -> None:
    """Run lm-eval's own command line with the model `bitnet-bench` registered."""
    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["lm-eval", *arguments]
    cli_evaluate()
