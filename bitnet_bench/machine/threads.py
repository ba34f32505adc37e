"""Control how OpenMP's threads wait for each other."""

from __future__ import annotations

OPENMP_ENVIRONMENT = {"GOMP_SPINCOUNT": "10000"}
"""Environment variables with which threads wait actively for the others for 0.2 ms before they sleep.

By default, GNU's OpenMP lets them spin for several milliseconds. If cores are shared, the thread that is waited for
cannot run while another one spins: with one other busy process, a token of a small model took 1.6 s instead of 0.2 s.
They must be set before torch is imported; values that the user has set are kept.
"""
