"""Run `make test` with every supported Python that this machine has, each in an environment of its own.

The tests are those of what a Python can change, among them a recipe on the embedded pair from training to report, as
the quickstart is one. Formulas, products and whole trainings are computed by libraries that `constraints.txt` holds to
one version: what one Python proved of them is not proved again.

Arguments are versions to leave out, such as 3.11.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

from check_install import ROOT, find_python, supported_pythons

TESTS = (
    "tests/test_*.py",  # the command line and its errors, plugins, packaging, the public API
    "tests/checkpoints",
    "tests/comparison",
    "tests/data",
    "tests/machine",
    "tests/measurement",  # processes of other processes
    "tests/metrics",
    "tests/pipeline",  # recipes on the embedded pair
    "tests/rating",
    "tests/reports",
    "tests/runs",  # pydantic reads the annotations of every record
    "tests/statistics",
    "tests/tasks",
    "tests/backends/test_hf_training.py",  # trains, saves, is killed and resumed
    "tests/backends/test_ternary.py",
    "tests/evaluation/test_several.py",  # two processes, lm-eval's own command line
    "tests/evaluation/test_suites.py",
    "tests/ternary/test_checkpoint.py",
    "tests/ternary/test_kernel.py",  # the C library, and torch.compile
    "tests/training/test_trl.py",
)


def main() -> None:
    """Test every Python in turn; the first failure ends the run with make's exit status."""
    for version in [version for version in supported_pythons() if version not in sys.argv[1:]]:
        python = find_python(version)
        if python is None:
            print(f"Python {version}: not tried, this machine has none", flush=True)
            continue
        print(f"Python {version}: {python}", flush=True)
        environment = f"build/venvs/{version}"
        shutil.rmtree(ROOT / environment, ignore_errors=True)
        settings = (f"PYTHON={python}", f"VENV={environment}", f"TESTS={' '.join(TESTS)}")
        subprocess.run(["make", "test", *settings], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
