"""One compiled MuJoCo world: table, tray, Panda, and a pool of objects that are moved into place.

World axes: x right and y away in the picture, z up, the origin on the table's centre; metres.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiny.sim import meshes
from tiny.sim.meshes import Mesh

KINDS = ("cube", "ball", "can", "bottle", "bowl", "mug")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
RGB = {
    "red": (0.85, 0.08, 0.08),
    "green": (0.10, 0.62, 0.15),
    "blue": (0.10, 0.25, 0.90),
    "yellow": (0.97, 0.88, 0.08),
    "purple": (0.50, 0.12, 0.68),
    "orange": (1.00, 0.47, 0.03),
    "white": (0.97, 0.97, 0.97),
    "black": (0.06, 0.06, 0.07),
}
NOBODY, TABLE, TRAY, ROBOT = -1, -2, -3, -4  # owners of what is no object
COPIES = 3
HALF_HEIGHT = {
    "cube": 0.034, "ball": 0.041, "can": 0.048, "bottle": 0.065, "bowl": 0.025, "mug": 0.042,
}  # fmt: skip
COLUMNS = (-0.198, -0.066, 0.066, 0.198)
ROWS = (-0.145, 0.0, 0.145)
TRAY_HALF = (0.068, 0.215)
TRAY_FLOOR = 0.006
TABLES = (
    "light-wood", "dark-wood", "wood-varnished-panels", "gray-woodgrain", "gray-felt",
    "light-gray-plaster", "cream-plaster", "ceramic", "wood-tiles", "steel-brushed",
)  # fmt: skip
CLUTTER = 6
BASE = (0.0, 0.60, -0.02)

_CHAIN = (  # body, position, quaternion, joint range (None: fixed); from robosuite's robot.xml
    ("link0", "0 0 0", "1 0 0 0", None),
    ("link1", "0 0 0.333", "1 0 0 0", "-2.8973 2.8973"),
    ("link2", "0 0 0", "0.707107 -0.707107 0 0", "-1.7628 1.7628"),
    ("link3", "0 -0.316 0", "0.707107 0.707107 0 0", "-2.8973 2.8973"),
    ("link4", "0.0825 0 0", "0.707107 0.707107 0 0", "-3.0718 -0.0698"),
    ("link5", "-0.0825 0.384 0", "0.707107 -0.707107 0 0", "-2.8973 2.8973"),
    ("link6", "0 0 0", "0.707107 0.707107 0 0", "-0.0175 3.7525"),
    ("link7", "0.088 0 0", "0.707107 0.707107 0 0", "-2.8973 2.8973"),
)
_TONE = {"light": "0.93 0.94 0.95 1", "dark": "0.27 0.27 0.29 1"}
_PARKED = 5  # a geom group that is never drawn


def arm_xml(parts: dict[str, Mesh] | None) -> str:
    """The arm as nested bodies; without `parts` the bare skeleton that IK needs."""

    def geoms(name: str) -> str:
        tones = [t for t in ("light", "dark") if parts and f"{name}.{t}" in parts]
        return "".join(
            f'<geom type="mesh" mesh="{name}.{t}" rgba="{_TONE[t]}" class="visual"/>' for t in tones
        )

    text = f'<body name="base" pos="{BASE[0]} {BASE[1]} {BASE[2]}" quat="0.707107 0 0 -0.707107">'
    mass = '<inertial pos="0 0 0" mass="1" diaginertia="0.1 0.1 0.1"/>'
    for name, pos, quat, limits in _CHAIN:
        text += f'<body name="{name}" pos="{pos}" quat="{quat}" gravcomp="1">{mass}'
        if limits:
            text += (
                f'<joint name="joint{name[-1]}" type="hinge" axis="0 0 1" limited="true"'
                f' range="{limits}" damping="50" armature="1"/>'
            )
        text += geoms(name)
    text += f'<body name="hand" pos="0 0 0.1065" quat="0.92388 0 0 -0.38268" gravcomp="1">{mass}'
    text += geoms("hand")
    text += '<site name="grip" pos="0 0 0.100" size="0.004" rgba="0 0 0 0"/>'
    if parts:
        text += (
            '<geom name="pusher" type="box" size="0.012 0.05 0.02" pos="0 0 0.095" group="3"'
            ' contype="0" conaffinity="0" mass="0"/>'
        )
        for i, quat in ((1, "1 0 0 0"), (2, "0 0 0 1")):
            text += f'<body name="finger{i}" pos="0 0 0.0584" quat="{quat}" gravcomp="1">{mass}'
            text += (
                f'<joint name="finger{i}" type="slide" axis="0 1 0" damping="50" armature="1"/>'
                f"{geoms('finger')}</body>"
            )
    return text + "</body>" * (len(_CHAIN) + 2)


def _mesh_xml(name: str, mesh: Mesh) -> str:
    vertices = " ".join(f"{x:.5f}" for x in mesh.vertices.ravel())
    faces = " ".join(map(str, mesh.faces.ravel()))
    return f'<mesh name="{name}" inertia="shell" vertex="{vertices}" face="{faces}"/>'


def _object_xml(kind: str, copy: int) -> str:
    solid = 'class="solid"'
    shape = {
        "cube": f'<geom type="box" size="0.034 0.034 0.034" {solid} group="1"/>',
        "ball": f'<geom type="sphere" size="0.041" {solid} group="1"/>',
        "can": f'<geom type="cylinder" size="0.036 0.048" {solid} group="1"/>',
        "bottle": '<geom type="mesh" mesh="bottle" class="visual"/>'
        f'<geom type="cylinder" size="0.036 0.036" pos="0 0 -0.029" {solid} group="3"/>'
        f'<geom type="cylinder" size="0.017 0.028" pos="0 0 0.037" {solid} group="3"/>',
        "bowl": '<geom type="mesh" mesh="bowl" class="visual"/>'
        f'<geom type="cylinder" size="0.048 0.024" {solid} group="3"/>',
        "mug": '<geom type="mesh" mesh="mug" class="visual"/>'
        f'<geom type="cylinder" size="0.038 0.042" {solid} group="3"/>',
    }[kind]
    return f'<body name="{kind}{copy}" pos="0 0 -2"><freejoint/>{shape}</body>'


def _tray_xml() -> str:
    w, h = TRAY_HALF
    rim = 'type="box" class="fixed"'
    return (
        '<body name="tray" mocap="true" pos="0 0 -3">'
        f'<geom name="tray" {rim} size="{w} {h} 0.003" pos="0 0 0.003"/>'
        f'<geom {rim} size="0.004 {h} 0.009" pos="{w} 0 0.009"/>'
        f'<geom {rim} size="0.004 {h} 0.009" pos="{-w} 0 0.009"/>'
        f'<geom {rim} size="{w} 0.004 0.009" pos="0 {h} 0.009"/>'
        f'<geom {rim} size="{w} 0.004 0.009" pos="0 {-h} 0.009"/></body>'
    )


def _clutter_xml() -> str:
    shapes = (
        '<geom type="capsule" size="0.004 0.014" euler="0 1.5708 0"',
        '<geom type="cylinder" size="0.010 0.003"',
        '<geom type="box" size="0.016 0.010 0.002"',
    )
    return "".join(
        f'<body name="clutter{i}" mocap="true" pos="0 0 -3">{shapes[i % 3]} class="visual"'
        ' rgba="0.5 0.5 0.52 1"/></body>'
        for i in range(CLUTTER)
    )


def world_xml() -> tuple[str, dict[str, bytes]]:
    """The MJCF text and its texture files by name."""
    from PIL import Image

    parts, ware = meshes.panda(), meshes.household()
    files: dict[str, bytes] = {}
    for name in TABLES:
        image = Image.open(meshes.assets() / "textures" / f"{name}.png").convert("RGB")
        buffer = io.BytesIO()
        pixels = np.asarray(image.resize((256, 256), Image.Resampling.BOX), np.float64) / 255
        grey = pixels.mean(2, keepdims=True)
        pixels = 0.5 * grey + 0.5 * pixels  # less colour than any object has
        pixels = pixels * (0.52 / pixels.mean()) if pixels.mean() > 0.52 else pixels
        pixels = pixels + max(0.0, 0.42 - float(pixels.mean()))
        Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8)).save(buffer, "PNG")
        files[f"{name}.png"] = buffer.getvalue()
    asset = "".join(_mesh_xml(k, m) for k, m in (parts | ware).items())
    for name in TABLES:
        asset += f'<texture type="2d" name="{name}" file="{name}.png"/>'
        asset += f'<material name="{name}" texture="{name}" texrepeat="1 1" specular="0.1"/>'
    pool = "".join(_object_xml(k, i) for k in KINDS for i in range(COPIES))
    xml = f"""<mujoco model="pelican">
<compiler angle="radian" autolimits="true" balanceinertia="true" boundmass="0.001"/>
<option timestep="0.005" integrator="implicitfast" cone="pyramidal" iterations="20"/>
<statistic extent="1" center="0 0 0"/>
<visual><quality shadowsize="512" offsamples="4"/><map znear="0.05" zfar="10" shadowclip="0.5"/>
<global offwidth="224" offheight="224"/>
<headlight ambient="0.35 0.35 0.35" diffuse="0.25 0.25 0.25" specular="0 0 0"/></visual>
<default>
<default class="visual"><geom contype="0" conaffinity="0" group="1" mass="0.001"/></default>
<default class="solid"><geom condim="6" friction="0.9 0.02 0.006" mass="0.12"
 solref="0.01 1"/></default>
<default class="fixed"><geom friction="0.9 0.02 0.006" group="1"/></default>
</default>
<asset>{asset}</asset>
<worldbody>
<light name="lamp" directional="true" pos="0 0 2" dir="0.2 0.3 -1" diffuse="0.6 0.6 0.6"
 specular="0.2 0.2 0.2" castshadow="true"/>
<geom name="table" type="box" size="0.42 0.40 0.02" pos="0 0.05 -0.02" class="fixed"/>
<geom name="floor" type="box" size="3 3 0.01" pos="0 0 -0.75" class="visual"
 rgba="0.45 0.45 0.47 1"/>
{_tray_xml()}{_clutter_xml()}{arm_xml(parts)}{pool}
</worldbody></mujoco>"""
    return xml, files


@dataclass
class World:
    """The compiled model with the addresses that the rest of the simulator uses."""

    model: Any
    data: Any
    names: list[str]  # pool bodies, kind by kind
    kinds: NDArray[np.int64]  # [pool] kind of each
    qpos: NDArray[np.int64]  # [pool] address of the free joint's 7 numbers
    qvel: NDArray[np.int64]  # [pool] address of its 6 velocities
    geoms: list[list[int]]  # drawn and colliding geoms of each
    drawn: list[list[int]]
    owner: NDArray[np.int64]  # [ngeom] pool index, NOBODY, TABLE, TRAY or ROBOT
    arm: NDArray[np.int64]  # [7] addresses in qpos
    fingers: NDArray[np.int64]  # [2]

    @classmethod
    def build(cls) -> "World":
        import mujoco

        xml, files = world_xml()
        model = mujoco.MjModel.from_xml_string(xml, files)
        data = mujoco.MjData(model)
        names = [f"{k}{i}" for k in KINDS for i in range(COPIES)]
        bodies = [model.body(n).id for n in names]
        owner = np.full(model.ngeom, NOBODY, np.int64)
        robot = set(range(model.body("base").id, model.body("finger2").id + 1))
        for g in range(model.ngeom):
            body = int(model.geom_bodyid[g])
            if body in bodies:
                owner[g] = bodies.index(body)
            elif body in robot:
                owner[g] = ROBOT
        owner[model.geom("table").id] = TABLE
        owner[np.flatnonzero(model.geom_bodyid == model.body("tray").id)] = TRAY
        geoms = [[int(g) for g in np.flatnonzero(owner == i)] for i in range(len(names))]
        joints = [int(model.body_jntadr[b]) for b in bodies]
        return cls(
            model,
            data,
            names,
            np.repeat(np.arange(len(KINDS)), COPIES),
            np.array([model.jnt_qposadr[j] for j in joints]),
            np.array([model.jnt_dofadr[j] for j in joints]),
            geoms,
            [[g for g in own if model.geom_group[g] == 1] for own in geoms],
            owner,
            np.array([model.joint(f"joint{i}").qposadr[0] for i in range(1, 8)]),
            np.array([model.joint(f"finger{i}").qposadr[0] for i in (1, 2)]),
        )

    def show(self, index: int, colour: str) -> None:
        """Takes a pool object into the scene, painted."""
        for g in self.geoms[index]:
            drawn = g in self.drawn[index]
            collides = not (drawn and len(self.geoms[index]) > 1)
            self.model.geom_group[g] = 1 if drawn else 3
            self.model.geom_contype[g] = self.model.geom_conaffinity[g] = int(collides)
            self.model.geom_rgba[g] = (*RGB[colour], 1.0)

    def park(self, index: int) -> None:
        """Takes a pool object out of the scene."""
        for g in self.geoms[index]:
            self.model.geom_group[g] = _PARKED
            self.model.geom_contype[g] = self.model.geom_conaffinity[g] = 0
        self.place(index, (0.0, 0.3 * index, -2.0), 0.0)

    def place(self, index: int, xyz: tuple[float, float, float], yaw: float) -> None:
        """Puts a pool object upright at its centre `xyz`, at rest."""
        a, v = self.qpos[index], self.qvel[index]
        quat = (np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))
        self.data.qpos[a : a + 7] = (*xyz, *quat)
        self.data.qvel[v : v + 6] = 0.0
