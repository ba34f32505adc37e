"""How OpenMP's threads wait for each other."""

from __future__ import annotations

OPENMP_ENVIRONMENT = {"GOMP_SPINCOUNT": "10000"}
"""Environment of a process whose threads look for 0.2 ms whether the others are done before they sleep.

GNU's OpenMP lets them spin for several milliseconds otherwise. Where cores are shared, the thread that is waited for
cannot run while another one spins: with one other busy process a token of a small model took 1.6 s, and so it takes
0.2 s. Set before torch is imported; what the user has set stays.
"""
