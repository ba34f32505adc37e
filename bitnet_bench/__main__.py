"""`python -m bitnet_bench` is `bitnet-bench`."""

from bitnet_bench.cli import main

main()
