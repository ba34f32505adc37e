"""What a fork does: it becomes `python -m bitnet_bench WORDS`, as `start_command` of conftest.py asks."""

import os
import runpy
import sys
from typing import Any

asked: dict[str, Any] = globals()["ASKED"]
os.chdir(asked["cwd"])
os.environ.clear()
os.environ.update(asked["environment"])
sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
for descriptor, (stream, file) in enumerate(zip(("stdout", "stderr"), asked["output"], strict=True), start=1):
    setattr(sys, stream, open(file, "a", encoding="utf-8"))  # noqa: SIM115 - it stays open until the process ends
    os.dup2(getattr(sys, stream).fileno(), descriptor)
sys.argv = ["bitnet-bench", *asked["words"]]
runpy.run_module("bitnet_bench", run_name="__main__")
