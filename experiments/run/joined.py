"""One run of several processes, on one machine or more: the same command in each, with a number of its own.

    python -m experiments.train ... --devices 2 --coordinator HOST:PORT --num-processes 2 --process-id 0
    python -m experiments.train ... --devices 2 --coordinator HOST:PORT --num-processes 2 --process-id 1

JAX joins their devices (`jax.distributed`), and `experiments.run.devices` deals the environments out. A program for
devices of several processes runs only if all of them call it. Clocks, signals and files are process 0's: it alone has a
training loop, and before each such call it says which one comes; the others follow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from experiments.console.flags import split_words
from experiments.console.signals import Stop
from experiments.run import roll_call
from experiments.run.devices import Spread
from experiments.run.programs import Programs

# Orders of process 0; a positive number: so many iterations.
_END, _PLACE, _GATHER = 0, -1, -2
_LOOPBACK = ("127.", "localhost", "[::1]")
_FAREWELL_SECONDS = 30  # until a process that is done no longer waits for the others


class Place(NamedTuple):
    """A process's place among those of a run."""

    address: str  # HOST:PORT of process 0
    process: int
    of: int


def place(coordinator: str | None, process: int | None, of: int | None) -> Place | None:
    """Returns the place that three flags give; None without them. Raises ValueError, in one line, for impossible
    values."""
    given = {"coordinator": coordinator, "process-id": process, "num-processes": of}
    if coordinator is None or process is None or of is None:
        missing = [name for name, value in given.items() if value is None]
        if len(missing) == len(given):
            return None
        raise ValueError(
            f"--coordinator, --process-id and --num-processes go together: --{missing[0]} is missing"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(
            f"--coordinator {coordinator} is none: HOST:PORT of process 0 is wanted, with a free port"
        )
    if of < 2:
        raise ValueError(f"--num-processes must be at least 2, got {of}")
    if not 0 <= process < of:
        raise ValueError(
            f"--process-id must be between 0 and {of - 1} (--num-processes {of}), got {process}"
        )
    return Place(coordinator, process, of)


def join(here: Place, argv: Sequence[str]) -> None:
    """Joins this process to the others, before JAX is used. Raises ValueError, in one line, where they do not come, or
    have other flags."""
    roll_call.meet(*here, shared_words(argv), roll_call.PATIENCE)
    # Its handler of SIGTERM would take the place of ours.
    jax.config.update("jax_enable_preemption_service", False)
    local = here.address.startswith(_LOOPBACK)
    jax.distributed.initialize(
        here.address,
        num_processes=here.of,
        process_id=here.process,
        cluster_detection_method="deactivate",
        coordinator_bind_address=here.address if local else None,
        shutdown_timeout_seconds=_FAREWELL_SECONDS,
    )
    # Connects the devices while all wait for it: whoever comes 30 s later, from compiling, say, would be too late.
    multihost_utils.sync_global_devices("joined")


def shared_words(argv: Sequence[str]) -> list[str]:
    """Returns a command line without the number of the process, as all have it."""
    return [w for w, value in split_words(argv, ["--process-id"]) if value is None]


def require_all_devices(here: Place, devices: int) -> None:
    """Raises ValueError, in one line, where a process would have no part in the program."""
    there = jax.device_count()
    if devices != there:
        raise ValueError(
            f"--devices {devices}: {here.of} processes have {there} devices together, and all take part: give "
            f"--devices {there}"
        )


class Leader(Spread):
    """The devices of all processes, as process 0 uses them: it says what comes before it does it."""

    def __init__(self, programs: Programs):
        self.mesh = _spread(programs).mesh
        self._at_work = False  # on a program that all run; still, after an error in it
        programs.spread, programs.together = self, self.together

    @contextlib.contextmanager
    def together(self, order: int) -> Iterator[None]:
        """Tells the others to do within what this process does."""
        self._at_work = True
        _say(order)
        yield
        self._at_work = False

    def place(self, states: Any) -> Any:
        """See `Spread.place`."""
        if _is_placed(states):
            return states
        with self.together(_PLACE):
            return super().place(_broadcast(states))

    def gather(self, states: Any) -> Any:
        """See `Spread.gather`."""
        if not _is_placed(states):
            return states
        with self.together(_GATHER):
            return super().gather(states)

    def dismiss(self) -> None:
        """Tells the others that the run has ended; where they cannot hear it, JAX ends them when this process ends."""
        if not self._at_work:
            _say(_END)


def follow(programs: Programs, keys: Any) -> None:
    """Runs what process 0 is about to run, until it has done. For the others.

    Args:
      keys: of `programs.init`.
    """
    spread, states = _spread(programs), None  # whoever follows places first
    shapes = programs.init.shapes(keys)
    with Stop():  # process 0 decides; a second signal ends this one at once
        while (order := _say(_END)) != _END:
            if order == _PLACE:
                states = spread.place(_broadcast(jax.tree.map(_zeros, shapes)))
            elif order == _GATHER:
                spread.gather(states)
            else:
                states, _ = programs.advance(states, order)


def _say(order: int) -> int:
    """Returns process 0's order, in all processes at the same time."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(order)))


def _broadcast(states: Any) -> Any:
    """Returns process 0's states, as this process's own arrays."""
    leaves, tree = jax.tree.flatten(states)
    keys = [jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) for x in leaves]
    plain = [jax.random.key_data(x) if k else x for x, k in zip(leaves, keys, strict=True)]
    same = multihost_utils.broadcast_one_to_all([np.asarray(x) for x in plain])
    back = [
        jax.random.wrap_key_data(jnp.asarray(x)) if k else jnp.asarray(x)
        for x, k in zip(same, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, back)


def _zeros(shape: jax.ShapeDtypeStruct) -> Any:
    if jax.dtypes.issubdtype(shape.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), shape.shape)
    return np.zeros(shape.shape, shape.dtype)


def _is_placed(states: Any) -> bool:
    return not all(x.is_fully_addressable for x in jax.tree.leaves(states))


def _spread(programs: Programs) -> Spread:
    assert programs.spread is not None
    return programs.spread
