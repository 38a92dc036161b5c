"""One program for several devices: environments, or responses, are dealt out, parameters are everywhere the same.

    --devices 4

Each device holds a quarter of the environments and runs the learner's own `step` on them, within `jax.shard_map` over
the mesh axis `agents.core.across.AXIS`, as a learner with a quarter of the environments would; what follows from all of
the batch (means, statistics, gradients) is added up over the devices (`agents.core.across`). The learner on one device
differs in its random numbers, which each device draws for its own part, and in minibatches, which are shuffled
within a device's part.

Devices may be of several processes, which `jax.distributed.initialize` has joined before: each process runs the same
calls on the same states, and its own devices' part of them (`experiments.run.joined` does so for commands).

Evaluation runs on one device. An environment on the host, or C MuJoCo, is called once by each device for its part;
a plain `jit` of sharded arrays would call it on each device for the whole batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agents.core.across import AXIS
from experiments.evaluation.evaluator import Domain

# Learners whose update adds up over devices, and the setting that is dealt out.
CONTROL = ("ppo", "a2c", "impala")
TOKENS = ("ppo", "grpo", "dr-grpo", "gspo", "cispo", "rloo", "reinforce")
_DEALT = {"control": "num_envs", "tokens": "num_responses"}


def require_devices(devices: int, algo: str, domain: Domain, config: Any) -> None:
    """Raises ValueError, in one line, where a run cannot be spread over so many devices."""
    if devices < 1:
        raise ValueError(f"--devices must be at least 1, got {devices}")
    if devices == 1:
        return
    known = TOKENS if domain == "tokens" else CONTROL
    if algo not in known:
        raise ValueError(f"--devices {devices} goes with {', '.join(known)}, not with {algo}")
    there = jax.device_count()
    if there < devices:
        cpu = jax.default_backend() == "cpu"
        hint = f"; on a CPU, XLA_FLAGS=--xla_force_host_platform_device_count={devices} makes more"
        s = "" if there == 1 else "s"
        raise ValueError(
            f"--devices {devices}: JAX finds {there} device{s} here{hint if cpu else ''}"
        )
    share_of(config, devices, domain)


def share_of(config: Any, devices: int, domain: Domain) -> Any:
    """Returns the config of one device's part. Raises ValueError where the parts cannot be equal, or fit no update."""
    name = _DEALT[domain]
    whole = getattr(config, name)
    if whole % devices:
        raise ValueError(
            f"--devices {devices} do not divide --{name.replace('_', '-')} {whole} into equal parts"
        )
    try:
        return dataclasses.replace(config, **{name: whole // devices})
    except ValueError as error:
        raise ValueError(
            f"each of {devices} devices has {name} = {whole // devices}: {error}"
        ) from None


class Spread:
    """Puts programs over states [seeds, ...] on a mesh of devices."""

    def __init__(self, devices: int):
        self.mesh = Mesh(np.asarray(jax.devices()[:devices]), (AXIS,))

    def over(self, function: Callable, metrics: bool) -> Callable:
        """Returns a function of (states, *others), which returns states, for all devices at once.

        Args:
          metrics: it returns (states, metrics).
        """

        def on_all(states: Any, *others: Any) -> Any:
            dealt = specs(states)
            return jax.shard_map(
                function,
                mesh=self.mesh,
                in_specs=(dealt, *(PartitionSpec() for _ in others)),
                out_specs=(dealt, PartitionSpec()) if metrics else dealt,
                check_vma=False,  # which calls to the host inside of a loop need
            )(states, *others)

        return on_all

    def place(self, states: Any) -> Any:
        """Returns the states with their parts on the devices that they belong to."""
        shardings = jax.tree.map(
            lambda spec: NamedSharding(self.mesh, spec),
            specs(states),
            is_leaf=lambda x: isinstance(x, PartitionSpec),
        )
        if jax.process_count() == 1:
            return jax.device_put(states, shardings)
        return jax.tree.map(_over_processes, states, shardings)

    def gather(self, states: Any) -> Any:
        """Returns the states on one device; in several processes, on one of each, and all of them must ask."""
        if jax.process_count() == 1:
            return jax.device_put(states, self.mesh.devices.flat[0])
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        whole = jax.jit(lambda x: x, out_shardings=everywhere)(states)
        return jax.tree.map(lambda x: x.addressable_data(0), whole)


def _over_processes(x: Any, sharding: NamedSharding) -> Any:
    """Returns an array that every process has whole, with a sharding over the devices of all."""
    if not x.is_fully_addressable:
        return x  # it has been placed before
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_over_processes(jax.random.key_data(x), sharding))
    whole = np.asarray(x)
    return jax.make_array_from_callback(whole.shape, sharding, lambda part: whole[part])


def specs(states: Any) -> Any:
    """Returns the partition spec of each leaf [seeds, ...]: a stream of environments is dealt out by its second axis,
    all else is everywhere the same."""
    everywhere = jax.tree.map(lambda _: PartitionSpec(), states)
    if getattr(states, "stream", None) is None:
        return everywhere
    stream = jax.tree.map(lambda _: PartitionSpec(None, AXIS), states.stream)
    return dataclasses.replace(everywhere, stream=stream)
