"""Reports over runs: records in, one self-contained file out; found through the entry points `bitnet_bench.reports`."""
