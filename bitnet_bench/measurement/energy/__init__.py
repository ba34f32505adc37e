"""Energy: meters that read a counter, models that compute it, and the metrics made of their joules."""
