"""Runtimes that train or run a checkpoint, one module each, found through the entry points `bitnet_bench.backends`."""
