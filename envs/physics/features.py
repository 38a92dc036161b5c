"""The features of MuJoCo that each engine supports.

Between two control steps a `PhysicsState` holds positions, velocities and activations only. A model that needs more
(the time, past controls, the state of a plugin), or has a feature that MJX ignores, is refused in one line. The native
engine skips work that cannot change a result; the functions `may_...` decide when. docs/physics.md has the same table.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Literal

import mujoco
import numpy as np

_Disable, _Enable, _Sensor = mujoco.mjtDisableBit, mujoco.mjtEnableBit, mujoco.mjtSensor

_CALLBACKS = {
    "mjcb_passive": mujoco.get_mjcb_passive,
    "mjcb_control": mujoco.get_mjcb_control,
    "mjcb_contactfilter": mujoco.get_mjcb_contactfilter,
    "mjcb_sensor": mujoco.get_mjcb_sensor,
    "mjcb_act_dyn": mujoco.get_mjcb_act_dyn,
    "mjcb_act_gain": mujoco.get_mjcb_act_gain,
    "mjcb_act_bias": mujoco.get_mjcb_act_bias,
}


@dataclasses.dataclass(frozen=True)
class Refused:
    """A feature that not every engine computes as MuJoCo does."""

    feature: str  # as docs/physics.md and the message name it
    used: Callable[[mujoco.MjModel], bool]
    reason: str
    backends: tuple[str, ...] = ("native", "mjx")  # those that refuse it


def _disables(model: mujoco.MjModel, *bits: mujoco.mjtDisableBit) -> bool:
    return any(model.opt.disableflags & bit for bit in bits)


def _enables(model: mujoco.MjModel, *bits: mujoco.mjtEnableBit) -> bool:
    return any(model.opt.enableflags & bit for bit in bits)


def _any(*names: str) -> Callable[[mujoco.MjModel], bool]:
    """A test for a non-zero entry in one of these fields of a model."""
    return lambda model: any(np.any(getattr(model, name)) for name in names)


def _forces_without_constraints(model: mujoco.MjModel) -> bool:
    if not (model.sensor_needstage == mujoco.mjtStage.mjSTAGE_ACC).any():
        return False
    from mujoco import mjx

    return mjx.make_data(model)._impl.efc_J.size == 0


_NO_STATE = "the state has no history, only positions, velocities and activations"

REFUSED = (
    Refused(
        "delayed actuators or sensors, or a history of them (delay, nsample, interval)",
        lambda m: bool(m.nhistory) or _any("actuator_delay", "sensor_delay", "sensor_interval")(m),
        _NO_STATE,
    ),
    Refused(
        "a clock sensor",
        lambda m: _Sensor.mjSENS_CLOCK in m.sensor_type,
        "the state has no time: every control step begins at 0",
    ),
    Refused(
        "plugins", lambda m: bool(m.nplugin), "the state does not include the state of a plugin"
    ),
    Refused("sleeping bodies", lambda m: _enables(m, _Enable.mjENBL_SLEEP), _NO_STATE),
    Refused(
        "IPC contacts of flexes",
        lambda m: _enables(m, _Enable.mjENBL_IPC),
        _NO_STATE,
    ),
    Refused(
        "a flag that disables springs or dampers",
        lambda m: _disables(m, _Disable.mjDSBL_SPRING, _Disable.mjDSBL_DAMPER),
        "MJX then omits all passive forces, including gravity compensation",
        ("mjx",),
    ),
    Refused(
        "polynomial stiffness or damping",
        _any(
            "jnt_stiffnesspoly",
            "dof_dampingpoly",
            "tendon_stiffnesspoly",
            "tendon_dampingpoly",
            "actuator_dampingpoly",
        ),
        "MJX computes the linear term only",
        ("mjx",),
    ),
    Refused(
        "damping or armature of an actuator",
        _any("actuator_damping", "actuator_armature"),
        "MJX ignores it",
        ("mjx",),
    ),
    Refused(
        "actuators with actearly",
        _any("actuator_actearly"),
        "MJX ignores it",
        ("mjx",),
    ),
    Refused(
        "disabled groups of actuators",
        lambda m: bool(m.opt.disableactuator),
        "MJX ignores it",
        ("mjx",),
    ),
    Refused(
        "noslip iterations",
        lambda m: m.opt.noslip_iterations > 0,
        "MJX has no such solver",
        ("mjx",),
    ),
    Refused(
        "fluid forces on ellipsoids (fluidshape)",
        _any("geom_fluid"),
        "MJX ignores it",
        ("mjx",),
    ),
    Refused(
        "adhesion of geoms",
        lambda m: bool(m.flg_adhesion) or _any("geom_adhesion", "pair_adhesion")(m),
        "MJX ignores it",
        ("mjx",),
    ),
    Refused(
        "surface velocity of geoms",
        lambda m: bool(m.flg_surfacevel) or _any("geom_surfacevel")(m),
        "MJX ignores it",
        ("mjx",),
    ),
    Refused(
        "the discrete integrator",
        lambda m: m.opt.integrator == mujoco.mjtIntegrator.mjINT_DISCRETE,
        "MJX does not have it",
        ("mjx",),
    ),
    Refused(
        "sensors of forces or accelerations where nothing can constrain the motion",
        _forces_without_constraints,
        "MJX leaves them at zero",
        ("mjx",),
    ),
)


def require_supported(model: mujoco.MjModel, backend: Literal["native", "mjx"]) -> None:
    """Raises ValueError, in one line, for a model with a feature that the engine does not compute as MuJoCo does, or
    while one of MuJoCo's callbacks is set."""
    require_no_callbacks()
    for refused in REFUSED:
        if backend in refused.backends and refused.used(model):
            advice = "" if "native" in refused.backends else "; the native backend computes it"
            raise ValueError(
                f"the {backend} backend does not step a model with {refused.feature}: "
                f"{refused.reason}{advice}"
            )


def require_read_by_mjx(model: mujoco.MjModel, overrides: Iterable[str]) -> None:
    """Raises ValueError for an override that MJX ignores: it decides from the file's numbers where dry friction is,
    which equalities hold, and where fixed bodies stand."""
    passed_over = {
        "eq_active0": True,
        "dof_frictionloss": not model.dof_frictionloss.all(),
        "tendon_frictionloss": not model.tendon_frictionloss.all(),
        "body_pos": bool(model.nmocap),
        "body_quat": bool(model.nmocap),
    }
    for name in overrides:
        if passed_over.get(name, False) or name not in _mjx_fields():
            raise ValueError(
                f"the mjx backend takes no notice of another {name} in this model; the native "
                "backend does"
            )


@functools.cache
def _mjx_fields() -> frozenset[str]:
    from mujoco import mjx

    return frozenset(field.name for field in dataclasses.fields(mjx.Model))


def require_no_callbacks() -> None:
    """Raises ValueError while one of MuJoCo's callbacks is set: they change the physics of the whole process, and what
    they remember is in no state. MuJoCo's clock, `mjcb_time`, changes no physics."""
    for name, get in _CALLBACKS.items():
        if get() is not None:
            raise ValueError(
                f"MuJoCo's callback {name} is set, which no engine calls: mujoco.set_{name}(None)"
            )


def may_skip_springs(model: mujoco.MjModel) -> bool:
    """True if the model moves the same with springs disabled: it has none, and its dampers are not disabled either, for
    without both MuJoCo computes no passive force at all, gravity compensation and fluids included."""
    names = [name for name in dir(model) if "stiffness" in name]
    return not (_disables(model, _Disable.mjDSBL_DAMPER) or model.nflex or _any(*names)(model))


def may_skip_friction_loss(model: mujoco.MjModel) -> bool:
    """True if no joint and no tendon has dry friction."""
    return not _any("dof_frictionloss", "tendon_frictionloss")(model)


def may_skip_islands(model: mujoco.MjModel) -> bool:
    """True if all moving bodies form one tree, whose constraints are one problem in any case."""
    return model.ntree == 1


def may_rebuild(model: mujoco.MjModel) -> bool:
    """True if geoms matter for contacts alone, so that those which touch nothing can be dropped, with cameras and
    lights."""
    if model.nmesh or model.nflex or model.nplugin or model.geom_fluid.any():
        return False
    if mujoco.mjtObj.mjOBJ_CAMERA in {*model.sensor_objtype, *model.sensor_reftype}:
        return False
    looking = (
        _Sensor.mjSENS_RANGEFINDER,
        # of a body these look at all its geoms
        _Sensor.mjSENS_GEOMDIST,
        _Sensor.mjSENS_GEOMNORMAL,
        _Sensor.mjSENS_GEOMFROMTO,
    )
    return not np.isin(model.sensor_type, looking).any()


def may_list_contacts(model: mujoco.MjModel) -> bool:
    """True if a list of pairs of geoms gives the same contacts as MuJoCo's search: a pair carries no adhesion, and
    beside pairs of the file's own their order would differ."""
    return not (model.npair or model.geom_adhesion.any())
