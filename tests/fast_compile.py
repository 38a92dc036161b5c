"""Tests compile much and compute little: with LLVM's optimisation off, and XLA's CPU fusions written by its older and
plainer emitter, they take less than half of the time.

The older emitter multiplies and adds in one rounding where the processor can, in some programs and not in others that
compute the same. Tests compare such programs bit for bit, so the processor's instructions that can are left out.

To be imported before JAX starts. What is set already stays.
"""

import os
import platform
from importlib.metadata import version

_FLAGS = {"--xla_backend_optimization_level": "0"}
# Where the flag is known to exist: an unknown one ends the process.
if version("jax").startswith("0.10."):
    _FLAGS["--xla_cpu_use_fusion_emitters"] = "false"
    _FLAGS["--xla_cpu_parallel_codegen_split_count"] = "1"  # the cores are busy with other tests
    if platform.machine() in ("x86_64", "AMD64"):
        _FLAGS["--xla_cpu_max_isa"] = "AVX"

for _name, _value in _FLAGS.items():
    if _name not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_name}={_value}".strip()
