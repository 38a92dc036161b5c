"""Small models, each with a feature of MuJoCo's; together they go over its lists of flags, solvers, integrators,
actuators, sensors, joints, shapes, equalities and wrappings."""

import string


class _Parts(dict):
    def __missing__(self, name):
        return ""


_ARM = """<mujoco><option timestep="0.005" {option}><flag {flag}/></option>{assets}<worldbody>{world}
<body name="upper" pos="0 0 1" {body}><joint name="shoulder" axis="0 1 0" {joint}/>
 <geom name="upper" type="capsule" fromto="0 0 0 .3 0 0" size=".04" {geom}/><site name="elbow" pos=".3 0 0"/>
 <body name="lower" pos=".3 0 0"><joint name="elbow" axis="0 1 0" damping=".1"/>
  <geom name="lower" type="capsule" fromto="0 0 0 .2 0 0" size=".03"/>
  <site name="hand" pos=".2 0 0" size=".05"/></body></body>
</worldbody><actuator>{actuator}</actuator><sensor>{sensor}</sensor>{more}</mujoco>"""

_MOTOR = '<motor name="motor" joint="shoulder" ctrlrange="-1 1"/>'
FLOOR = '<geom name="floor" type="plane" size="5 5 1" pos="0 0 .7" {}/>'
_FLOOR = FLOOR.format("")
_PASSIVE = {
    "world": _FLOOR,
    "option": 'density="100" viscosity="1" wind="1 0 .3"',
    "body": 'gravcomp=".5"',
    "sensor": '<jointactuatorfrc joint="shoulder"/><touch site="hand"/><accelerometer site="hand"/>',
}
_SPRUNG = {
    "joint": 'stiffness="2" damping=".1" springref="10" frictionloss=".05" limited="true" range="-60 60"'
}
_RIGID = {"joint": 'damping=".1"'}


def arm(**parts: str) -> str:
    return string.Formatter().vformat(_ARM, (), _Parts({"actuator": _MOTOR} | parts))


def scene(content: str, more: str = "", option: str = "") -> str:
    return (
        f'<mujoco><option timestep=".002" {option}/><worldbody><geom type="plane" size="2 2 1"/>{content}'
        f"</worldbody>{more}</mujoco>"
    )


def _free(content: str, height: float = 0.3, name: str = "free") -> str:
    return f'<body name="{name}" pos="0 0 {height}"><freejoint/>{content}</body>'


def _flex(inside: str, count="4 4 1", dim=2, more: str = "") -> str:
    return (
        f'<flexcomp name="flex" type="grid" dim="{dim}" count="{count}" spacing=".1 .1 .1" pos="0 0 .1" mass="1" '
        f'radius=".01" {more}>{inside}</flexcomp>'
    )


_DISABLED = (
    "constraint",
    "equality",
    "frictionloss",
    "limit",
    "contact",
    "spring",
    "damper",
    "gravity",
    "clampctrl",
    "warmstart",
    "filterparent",
    "actuation",
    "refsafe",
    "sensor",
    "midphase",
    "eulerdamp",
    "autoreset",
    "nativeccd",
    "island",
    "multiccd",
)
FLAGS = {
    f"{name} disabled": arm(**_PASSIVE, **_SPRUNG, flag=f'{name}="disable"') for name in _DISABLED
}
FLAGS |= {
    f"{name} disabled, no springs": arm(**_PASSIVE, **_RIGID, flag=f'{name}="disable"')
    for name in ("damper", "gravity", "eulerdamp")
}
FLAGS["springs and dampers disabled"] = arm(
    **_PASSIVE, **_SPRUNG, flag='spring="disable" damper="disable"'
)
FLAGS |= {
    f"{name} enabled": arm(**_PASSIVE, **_SPRUNG, flag=f'{name}="enable"')
    for name in ("override", "energy", "fwdinv", "invdiscrete", "diagexact")
}

PASSIVE = {  # of a file that disables dampers and has no springs
    name: arm(**_RIGID, **parts, flag='damper="disable"')
    for name, parts in {
        "weight compensated": {"body": 'gravcomp="1"'},
        "weight compensated by the actuator": {
            "body": 'gravcomp="1"',
            "joint": 'actuatorgravcomp="true"',
        },
        "density": {"option": 'density="1000"'},
        "viscosity": {"option": 'viscosity="3"'},
        "ellipsoids in a fluid": {"option": 'density="1000"', "geom": 'fluidshape="ellipsoid"'},
        "adhesion of a geom": {"world": _FLOOR, "geom": 'adhesion="1"'},
    }.items()
    if "joint" not in parts
} | {
    "weight compensated by the actuator": arm(body='gravcomp="1"', joint='actuatorgravcomp="true"'),
    "polynomial springs": arm(joint='stiffness="0 1 2" damping="0 1"'),
    "a conveyor": arm(world=FLOOR.format('surfacevel="1 0 0"')),
}

SOLVERS = {
    f"{solver}, {cone}, {jacobian}": arm(
        **{
            **_PASSIVE,
            **_SPRUNG,
            "option": f'solver="{solver}" cone="{cone}" jacobian="{jacobian}" iterations="5" noslip_iterations="2"',
        }
    )
    for solver in ("PGS", "CG", "Newton")
    for cone in ("pyramidal", "elliptic")
    for jacobian in ("dense", "sparse", "auto")
}
INTEGRATORS = {
    f"{name}{', no springs' * (joint is _RIGID)}": arm(
        **{**_PASSIVE, **joint, "option": f'{_PASSIVE["option"]} integrator="{name}"'}
    )
    for name in ("Euler", "RK4", "implicit", "implicitfast", "discrete")
    for joint in (_SPRUNG, _RIGID)
}

_BALL = """<mujoco><worldbody><body pos="0 0 1"><joint name="ball" type="ball"/>
<geom type="capsule" fromto="0 0 0 .3 0 0" size=".04"/></body></worldbody>
<actuator><orientation joint="ball" kp="1"/></actuator></mujoco>"""
_TENDON = """<tendon><spatial name="rope" stiffness="5" damping="1" frictionloss=".1" limited="true" range="0 .4">
<site site="hook"/><geom geom="wheel"/><site site="elbow"/><pulley divisor="2"/><site site="elbow"/><geom geom="drum"/>
<site site="hand"/>
</spatial><fixed name="gears" stiffness="1"><joint joint="shoulder" coef="1"/><joint joint="elbow" coef="-1"/></fixed>
<spatial name="heavy" armature=".1"><site site="hook"/><site site="hand"/></spatial></tendon>"""
_WHEELS = """<site name="hook" pos="0 0 1.3"/>
<geom name="wheel" type="sphere" contype="0" conaffinity="0" size=".03" pos=".1 0 1.2"/>
<geom name="drum" type="cylinder" contype="0" conaffinity="0" size=".03 .1" pos=".4 0 1.2"/>"""

ACTUATORS = {
    name: arm(world=_FLOOR, actuator=actuator, **_RIGID)
    for name, actuator in {
        "position": '<position joint="shoulder" kp="3" dampratio="1"/>',
        "position with a filter": '<position joint="shoulder" kp="3" timeconst=".1"/>',
        "velocity": '<velocity joint="shoulder" kv="1"/>',
        "integrated velocity": '<intvelocity joint="shoulder" kp="5" actrange="-1 1"/>',
        "damper": '<damper joint="shoulder" kv="1" ctrlrange="0 1"/>',
        "cylinder": '<cylinder joint="shoulder" timeconst=".1" area=".5"/>',
        "muscle": '<muscle joint="shoulder" lengthrange="-1 1"/>',
        "filter": '<general joint="shoulder" dyntype="filter" dynprm=".1"/>',
        "exact filter, early": '<general joint="shoulder" dyntype="filterexact" dynprm=".1" actearly="true"/>',
        "integrator in bounds": '<general joint="shoulder" dyntype="integrator" actlimited="true" actrange="-.1 .1"/>',
        "of a user": '<general joint="shoulder" dyntype="user" gaintype="user" biastype="user" actdim="3"/>',
        "adhesion": '<adhesion body="lower" ctrlrange="0 1" gain="5"/>',
        "at a site": '<general site="hand" gear="0 0 1 0 .1 0"/>',
        "at a site beside another": '<position site="hand" refsite="elbow" gear="0 0 1 0 .1 0" kp="2"/>',
        "in the parent's frame": '<general jointinparent="shoulder"/>',
        "crank": '<general cranksite="hand" slidersite="elbow" cranklength=".2"/>',
        "pid": '<pid joint="shoulder" kp="3" kv="1" ki="9" imax="1"/>',
        "pid that slews": '<pid joint="shoulder" kp="3" slewmax="1"/>',
        "dc motor": '<dcmotor joint="shoulder" motorconst=".05" resistance="1" inductance=".01"/>',
        "dc motor that warms": '<dcmotor joint="shoulder" motorconst=".05" resistance="1" thermal="10 .1 20"/>',
        "in a range of forces": '<motor joint="shoulder" forcerange="-.1 .1"/>',
        "damped, with armature": '<position joint="shoulder" kp="3" damping=".2" armature=".1"/>',
    }.items()
} | {
    "group disabled": arm(
        option='actuatorgroupdisable="2"',
        actuator='<motor joint="shoulder" group="2"/><motor joint="elbow"/>',
    ),
    "orientation": _BALL,
    "tendons": arm(
        world=_WHEELS,
        more=_TENDON,
        actuator='<motor name="motor" tendon="gears"/>',
        sensor='<tendonpos tendon="rope"/><tendonvel tendon="rope"/><tendonactuatorfrc tendon="gears"/>'
        '<tendonlimitpos tendon="rope"/><tendonlimitvel tendon="rope"/><tendonlimitfrc tendon="rope"/>',
    ),
}

_UNSEEN = """<geom name="unseen" contype="0" conaffinity="0" size=".05" pos="1 0 1.2"/><camera name="camera"/>
<body name="other" pos="0 0 2"><geom contype="0" conaffinity="0" size=".05" pos="0 0 -.3"/><geom size=".02"/></body>"""
SENSORS = {
    "of joints": arm(
        **_SPRUNG,
        sensor='<jointpos joint="shoulder" noise="1" cutoff=".1"/><jointvel joint="elbow"/>'
        '<actuatorpos actuator="motor"/><actuatorvel actuator="motor"/><actuatorfrc actuator="motor"/>'
        '<jointactuatorfrc joint="shoulder"/><jointlimitpos joint="shoulder"/><jointlimitvel joint="shoulder"/>'
        '<jointlimitfrc joint="shoulder"/><user dim="3" name="user"/><e_potential/><e_kinetic/>',
    ),
    "of sites": arm(
        world=_FLOOR,
        sensor='<touch site="hand"/><accelerometer site="hand"/><velocimeter site="hand"/><gyro site="hand"/>'
        '<force site="elbow"/><torque site="elbow"/><magnetometer site="hand"/>'
        '<insidesite site="hand" objtype="geom" objname="lower"/>',
    ),
    "of frames": arm(
        world=_UNSEEN,
        sensor="".join(
            f'<frame{what} objtype="geom" objname="lower"/>'
            for what in [
                "pos",
                "quat",
                "xaxis",
                "yaxis",
                "zaxis",
                "linvel",
                "angvel",
                "linacc",
                "angacc",
            ]
        )
        + '<framepos objtype="geom" objname="lower" reftype="geom" refname="unseen"/>'
        '<subtreecom body="upper"/><subtreelinvel body="upper"/><subtreeangmom body="upper"/>',
    ),
    "of balls": _BALL.replace(
        "</mujoco>",
        '<sensor><ballquat joint="ball"/><ballangvel joint="ball"/></sensor></mujoco>',
    ),
    "of cameras": arm(
        world=_UNSEEN,
        sensor='<camprojection site="hand" camera="camera"/><framepos objtype="camera" objname="camera"/>',
    ),
    "rangefinder": arm(world=_UNSEEN + _FLOOR, sensor='<rangefinder site="hand"/>'),
    "distances": arm(
        world=_UNSEEN,
        sensor='<distance body1="lower" body2="other" cutoff="9"/><normal geom1="upper" body2="other" cutoff="9"/>'
        '<fromto body1="upper" geom2="unseen" cutoff="9"/>',
    ),
    "contacts": arm(
        world=_FLOOR,
        sensor='<contact geom1="lower" num="2" data="found force dist pos normal"/>'
        '<contact body1="lower" reduce="mindist" data="found force torque dist pos normal tangent"/>'
        '<contact site="hand" subtree2="upper" data="found force"/>',
    ),
    "tactile": """<mujoco><asset><mesh name="pad" vertex="0 0 0 .2 0 0 0 .2 0 0 0 .2"/></asset><worldbody>
<body pos="0 0 .05"><freejoint/><geom name="ball" size=".1"/></body></worldbody>
<sensor><tactile geom="ball" mesh="pad"/></sensor></mujoco>""",
}

_GEOMS = "".join(
    _free(f'<geom type="{kind}" size=".1 .1 .099" euler="0 0 {20 * i}"/>', 0.1 + 0.2 * i, kind)
    for i, kind in enumerate(("sphere", "cylinder", "ellipsoid", "capsule", "box"))
)
_MESH = '<asset><mesh name="mesh" vertex="0 0 0 .2 0 0 0 .2 0 0 0 .2"/></asset>'
_HILLS = '<asset><hfield name="hills" nrow="3" ncol="3" size="2 2 .3 .1" elevation="0 1 5 3 0 2 4 1 1"/></asset>'
_ELASTIC = '<pin id="0 3"/><elasticity young="1e4" poisson=".2" thickness=".01" elastic2d="both"/>'
BODIES = {
    "shapes": scene(_GEOMS),
    "many shapes": scene(
        _free(
            "".join(f'<geom size=".04" pos="{k % 4 / 10} {k // 4 / 10} 0"/>' for k in range(16)),
            0.1,
        )
    ),
    "a slide": scene(
        '<body pos="0 0 .5"><joint type="slide" axis="0 0 1"/><geom size=".1"/></body>'
    ),
    "a mesh": scene(_free('<geom type="mesh" mesh="mesh"/>', 0.05), _MESH),
    "hills": scene(
        _free('<geom size=".1"/>', 0.4) + '<geom type="hfield" hfield="hills"/>', _HILLS
    ),
    "a body that a program moves": scene(
        _free('<geom size=".1"/>') + '<body name="hook" mocap="true" pos="1 0 1"/>',
        '<equality><weld body1="hook" body2="free"/></equality>',
    ),
    "equalities": scene(
        _free('<geom size=".1"/>', 0.3, "a")
        + _free('<geom size=".1"/>', 0.6, "b")
        + '<body pos="0 1 1"><joint name="x" axis="0 1 0"/><geom size=".1" pos=".1 0 0"/>'
        '<body pos=".3 0 0"><joint name="y" axis="0 1 0"/><geom size=".05" pos=".1 0 0"/></body></body>',
        '<tendon><fixed name="t"><joint joint="x" coef="1"/></fixed></tendon>'
        '<equality><connect body1="a" body2="b" anchor=".1 0 0"/><weld body1="a" active="false"/>'
        '<joint joint1="x" joint2="y"/><tendon tendon1="t"/></equality>',
    ),
    "a keyframe and user data": arm(
        more='<size nuserdata="4"/><keyframe><key qpos="1 1" time="3" ctrl="1"/></keyframe>'
    ),
    "a rope": scene(_flex('<edge stiffness="100" damping="1"/>', "6 1 1", 1)),
    "cloth": scene(_flex('<edge equality="true"/>')),
    "cloth by vertices": scene(_flex('<edge equality="vert"/>')),
    "a body by strain": scene(_flex('<edge equality="strain"/>', "3 3 3", 3, 'dof="trilinear"')),
    "elastic cloth": scene(_flex(_ELASTIC), option='solver="CG"'),
    "elastic cloth, discrete": scene(_flex(_ELASTIC), option='integrator="discrete"'),
    "a soft body": scene(
        _flex('<elasticity young="1e4" poisson=".2" damping=".01"/>', "3 3 3", 3),
        option='integrator="discrete"',
    ),
}

MODELS = {
    f"{group}: {name}": xml
    for group, models in (
        ("flag", FLAGS),
        ("passive", PASSIVE),
        ("solver", SOLVERS),
        ("integrator", INTEGRATORS),
        ("actuator", ACTUATORS),
        ("sensor", SENSORS),
        ("body", BODIES),
    )
    for name, xml in models.items()
}

_PLUGIN = """<mujoco><extension><plugin plugin="mujoco.pid"><instance name="p"><config key="kp" value="4"/>
<config key="ki" value="4"/></instance></plugin></extension><worldbody><body pos="0 0 1"><joint name="j" axis="0 1 0"/>
<geom type="capsule" fromto="0 0 0 .3 0 0" size=".04"/></body></worldbody>
<actuator><plugin joint="j" plugin="mujoco.pid" instance="p" actdim="1"/></actuator>
<sensor><plugin name="s" plugin="mujoco.sensor.touch_grid" objtype="site" objname="t"><config key="size" value="7 7"/>
<config key="fov" value="45 45"/><config key="gamma" value="0"/><config key="nchannel" value="3"/></plugin></sensor>
</mujoco>""".replace("<body pos", '<site name="t"/><body pos').replace(
    "</extension>", '<plugin plugin="mujoco.sensor.touch_grid"/></extension>'
)
REFUSED = {  # by both engines; name: the model and a word of the refusal
    "delayed control": (arm(actuator='<motor joint="elbow" delay=".03" nsample="8"/>'), "delayed"),
    "a history of controls": (arm(actuator='<motor joint="elbow" nsample="8"/>'), "history"),
    "delayed sensor": (arm(sensor='<jointpos joint="elbow" delay=".03" nsample="8"/>'), "delayed"),
    "slow sensor": (arm(sensor='<jointpos joint="elbow" interval=".03 0"/>'), "interval"),
    "a history of a sensor": (arm(sensor='<jointpos joint="elbow" nsample="8"/>'), "history"),
    "clock": (arm(sensor="<clock/>"), "clock"),
    "sleep": (arm(flag='sleep="enable"'), "sleeping"),
    "plugins": (_PLUGIN, "plugins"),
    "ipc": (
        scene(_flex(_ELASTIC), option='integrator="discrete" solver="CG"').replace(
            '"CG"/>', '"CG"><flag ipc="enable"/></option>'
        ),
        "IPC",
    ),
}
