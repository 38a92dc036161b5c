"""Trains PPO on two devices, for `test_devices.py`: of this process, or of two that are joined.

    python on_two_processes.py FILE [ADDRESS RANK]

The first process writes parameters, normalisation statistics and metrics to FILE.
"""

import os
import sys

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + f" --xla_force_host_platform_device_count={1 if len(sys.argv) > 2 else 2}"
)

from tests import fast_compile  # isort: skip  # noqa: F401  before JAX starts

import jax
import numpy as np

import envs  # noqa: F401  first: it sets XLA's flags
from agents import ALGORITHMS
from experiments.run import spec
from experiments.run.programs import programs_of

SIZES = {"num_envs": 8, "num_steps": 8, "num_minibatches": 2, "hidden_sizes": (8,)}


def main():
    if len(sys.argv) > 2:
        address, rank = sys.argv[2:]
        jax.distributed.initialize(address, num_processes=2, process_id=int(rank))
    assert jax.device_count() == 2
    config = ALGORITHMS["ppo"].Config(total_steps=4096, **SIZES)
    # Its physics is a call to the host, of each process for its own part.
    what = spec.Spec("InvertedPendulum-v5", {}, "ppo", config, 0, 1, devices=2)
    made = programs_of(what, what.build())
    states, rows = made.advance(made.init(spec.initial_keys(what)), 2)
    states, more = made.advance(states, 1)
    states = made.gather(states)
    kept = states.params, states.obs_statistics, states.env_steps, states.stream.running.state
    rows = [{name: x[:n] for name, x in part.items()} for part, n in ((rows, 2), (more, 1))]
    numbers = [np.asarray(x) for x in jax.tree.leaves(jax.device_get((kept, rows)))]
    if jax.process_index() == 0:
        np.savez(sys.argv[1], *numbers)


if __name__ == "__main__":
    main()
