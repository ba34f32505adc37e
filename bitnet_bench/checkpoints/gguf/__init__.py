"""Checkpoints as GGUF files, the form that llama.cpp and bitnet.cpp run."""
