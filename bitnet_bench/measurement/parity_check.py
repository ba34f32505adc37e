"""The process in which a runtime is compared with a checkpoint: `python -m bitnet_bench.measurement.parity_check`.

It reads one JSON line and answers with a `RuntimeParity`. A process of its own, because a foreign runtime may crash,
and because the source that it is compared with must be out of memory before anyone measures.
"""

from __future__ import annotations

import json
import os
import pkgutil
import sys

from bitnet_bench.errors import BenchError
from bitnet_bench.protocols import CheckedBackend, RuntimeOptions, configured
from bitnet_bench.runs.records import Checkpoint


def main() -> None:
    """Answer one question."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not look like an answer
    task = json.loads(sys.stdin.readline())
    backend: CheckedBackend = configured(pkgutil.resolve_name(task["backend"])(), RuntimeOptions(**task["options"]))
    found = backend.check(Checkpoint.model_validate(task["checkpoint"]), task["precision"])
    answers.write(found.model_dump_json() + "\n")
    answers.flush()


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:  # the parent shows the last line
        print(error.problem, error.hint, file=sys.stderr)
        sys.exit(1)
