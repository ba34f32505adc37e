"""Training rows: their shapes on disk, the templates that turn them into text, tokens and loss masks."""
