"""Let a model judge the written answers of runs: prompts, verdicts, and what they say together."""
