"""Energy: meters that read a counter, models that work it out, and what becomes of their joules."""
