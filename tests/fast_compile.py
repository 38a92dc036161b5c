"""Tests compile much and compute little: without optimisation they take two thirds of the time.

To be imported before JAX starts. A level that is set already stays.
"""

import os

_FLAG = "--xla_backend_optimization_level"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=0".strip()
