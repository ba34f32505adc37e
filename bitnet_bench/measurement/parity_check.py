"""Compare a runtime with a checkpoint in a process: `python -m bitnet_bench.measurement.parity_check`.

The process reads a `messages.ParityTask` and answers with a `RuntimeParity`. It is separate because a foreign runtime
may crash, and because the source that it is compared with must be out of memory before anything is measured.
"""

from __future__ import annotations

import sys

from bitnet_bench import plugins
from bitnet_bench.measurement.messages import ParityTask, claim_stdout, parse_request, run_process, send_reply
from bitnet_bench.protocols import CheckedBackend


def main() -> None:
    """Answer one task."""
    replies = claim_stdout()
    task = parse_request(sys.stdin.readline(), ParityTask)
    backend: CheckedBackend = plugins.create_backend(task.backend).configured(task.options)
    send_reply(replies, backend.check(task.checkpoint, task.precision))


if __name__ == "__main__":
    run_process(main)
