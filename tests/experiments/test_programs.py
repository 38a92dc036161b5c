import jax
import numpy as np
import pytest

import agents
from experiments.run import limits
from experiments.run.programs import programs_of
from experiments.run.spec import initial_keys
from tests.experiments import stub


@pytest.fixture(autouse=True)
def _stub(monkeypatch):
    monkeypatch.setitem(agents.ALGORITHMS, "stub", stub.Stub)


def outcome(programs, spec, n=3):
    states, metrics = programs.advance(programs.start(initial_keys(spec)), n)
    return states.params, {name: x[:n] for name, x in metrics.items()}


def test_programs_compiled_ahead_compute_what_others_do(monkeypatch):
    spec = stub.spec(total_steps=400, seed=3)
    algo = spec.build()
    step, traced = algo.step, []
    monkeypatch.setattr(algo, "step", lambda *given: traced.append(1) or step(*given))
    ahead = limits.traced_programs(spec, algo)
    tracing = ahead.compile_s
    ahead.compile_ahead(from_start=True)
    found = outcome(ahead, spec)
    assert len(traced) == 1
    assert not ahead.is_compiling
    assert ahead.compile_s > tracing > 0
    jax.tree.map(
        np.testing.assert_array_equal, found, outcome(programs_of(spec, spec.build()), spec)
    )


def test_a_program_that_cannot_be_compiled_raises_where_it_is_called(monkeypatch):
    class Broken:
        def lower(self):
            raise RuntimeError("no such kernel")

    spec = stub.spec(total_steps=400)
    made = limits.traced_programs(spec, spec.build())
    states = made.init.shapes(initial_keys(spec))
    monkeypatch.setattr(made.chunk, "_traced", Broken())
    made.compile_ahead(from_start=False)
    with pytest.raises(RuntimeError, match="no such kernel"):
        made.advance(states, 1)
