"""Run `bitnet-bench` as `python -m bitnet_bench`."""

from bitnet_bench.cli import main

main()
