import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import mlir

from envs.callback import HostError, host_call, host_failure, one_line

RESULT = {
    "sum": jax.ShapeDtypeStruct((), jnp.float32),
    "twice": jax.ShapeDtypeStruct((3,), jnp.int32),
}


@pytest.fixture(params=["ours", "JAX's"])
def call(request, monkeypatch):
    """(function under test, shapes that the host was called with); also where JAX has withdrawn what ours needs."""
    if request.param == "JAX's":
        monkeypatch.delattr(mlir, "emit_python_callback")
    seen = []

    def host(x, pair):
        seen.append(np.shape(x))
        a, b = map(np.asarray, pair)
        total = np.asarray(x).sum(-1) + a
        return {"sum": total.astype(np.float32), "twice": np.asarray(2 * b, np.int32)}

    return (lambda x, a, b: host_call(host, RESULT, x, (a, b))), seen


X, A, B = jnp.arange(8.0).reshape(2, 4), jnp.array([10.0, 20.0]), jnp.arange(3)


def test_in_and_out_of_jit(call):
    function, seen = call
    for f in (function, jax.jit(function)):
        out = f(X[1], A[0], B)
        assert float(out["sum"]) == 22 + 10
        np.testing.assert_array_equal(out["twice"], [0, 2, 4])
    assert seen == [(4,), (4,)]


def test_a_batch_of_batches_is_one_call(call):
    function, seen = call
    batched = jax.vmap(jax.vmap(function, (0, None, None)), (None, 0, None))
    out = jax.jit(batched)(X, A, B)
    np.testing.assert_array_equal(out["sum"], A[:, None] + X.sum(-1))
    np.testing.assert_array_equal(out["twice"], np.broadcast_to(2 * B, (2, 2, 3)))
    assert seen == [(2, 2, 4)]


def test_any_axis_may_be_mapped_and_steps_follow_one_another(call):
    function, seen = call

    @jax.jit
    def steps(x):
        def body(total, _):
            out = jax.vmap(function, (1, 0, None))(x, total, B)
            return out["sum"], None

        return jax.lax.scan(body, A, length=3)[0]

    np.testing.assert_array_equal(steps(X.T), A + 3 * X.sum(-1))
    assert seen == [(2, 4)] * 3


def test_an_error_on_the_host_names_itself(call):
    def fail(x):
        raise ValueError("the host says no")

    with pytest.raises(Exception, match="the host says no"):
        jax.jit(lambda x: host_call(fail, jax.ShapeDtypeStruct((), jnp.float32), x))(A)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\n  two\nthree"), "ValueError: one two three"),
        (HostError("Robot-v0 failed: no power"), "Robot-v0 failed: no power"),
    ],
)
def test_a_failure_on_the_host_is_one_line(call, error, line, late):
    """In a program's first call and in a later one, which JAX reports differently."""
    calls = []

    def fail(x):
        calls.append(x)
        if len(calls) > late:
            raise error
        return np.float32(0)

    program = jax.jit(lambda x: host_call(fail, jax.ShapeDtypeStruct((), jnp.float32), x))
    if late:
        program(A)
    with pytest.raises(Exception, match=r"Traceback") as raised:
        program(A)
    assert host_failure(raised.value) == line


def test_other_failures_are_none_of_the_hosts():
    assert host_failure(ValueError("bad input")) is None
    assert host_failure(KeyError("Traceback (most recent call last):\n x")) is None
    assert host_failure(HostError("no power")) == "no power"


def test_errors_that_say_nothing():
    assert one_line(AssertionError()) == "AssertionError: no more is said"
