"""The built-in suites: a folder each, with suite.yaml and lm-eval task YAMLs. Data, no code."""
