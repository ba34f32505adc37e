"""Run a graph of steps on any executor: each step once, failures apart, and resumed by the same call.

Nothing here knows what a step does: `bitnet_bench.pipeline` makes the graph and the function that runs a step.
"""
