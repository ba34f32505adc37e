"""Run `make quickstart test` with every supported Python that this machine has, each in an environment of its own.

Arguments are versions to leave out, such as 3.11.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

from check_install import ROOT, find_python, supported_pythons


def main() -> None:
    """Test every Python in turn; the first failure ends the run with make's exit status."""
    for version in [version for version in supported_pythons() if version not in sys.argv[1:]]:
        python = find_python(version)
        if python is None:
            print(f"Python {version}: not tried, this machine has none", flush=True)
            continue
        print(f"Python {version}: {python}", flush=True)
        environment, out = f"build/venvs/{version}", f"build/quickstart-{version}"
        for folder in (environment, out):
            shutil.rmtree(ROOT / folder, ignore_errors=True)
        settings = (f"PYTHON={python}", f"VENV={environment}", f"QUICKSTART_OUT={out}")
        subprocess.run(["make", "quickstart", "test", *settings], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
