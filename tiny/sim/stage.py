"""A stage: one world with its renderer; sets a scene, moves the arm, lets things settle, looks."""

import atexit
import math
import os

os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("LP_NUM_THREADS", "0")  # the software renderer in this thread

import mujoco
import numpy as np
from numpy.typing import NDArray

from tiny.sim import rle
from tiny.sim.arm import Arm
from tiny.sim.picture import Look, outline
from tiny.sim.records import SIZE, Thing
from tiny.sim.world import (
    CLUTTER,
    COLUMNS,
    HALF_HEIGHT,
    KINDS,
    NOBODY,
    ROWS,
    TABLES,
    TRAY_HALF,
    World,
)

Vector = NDArray[np.float64]
TRAYS = ((0.30, 0.20, 0.13), (0.36, 0.40, 0.44), (0.55, 0.58, 0.60), (0.20, 0.34, 0.36))


class Stage:
    """One per process: an MjModel and an EGL context are costly to make, cheap to reuse."""

    def __init__(self) -> None:
        self.world = World.build()
        self.arm = Arm()
        self.renderer = mujoco.Renderer(self.world.model, SIZE, SIZE)
        atexit.register(self.renderer.close)  # later, EGL is gone and MuJoCo complains
        self.renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self.renderer.scene.flags[mujoco.mjtRndFlag.mjRND_HAZE] = 0
        self.renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = 0
        self.option = mujoco.MjvOption()
        self.option.geomgroup[:] = [0, 1, 0, 0, 0, 0]
        self.option.sitegroup[:] = 0
        self.camera = mujoco.MjvCamera()
        self.names: dict[int, tuple[str, str]] = {}  # pool index: colour, kind
        self.held: int | None = None
        self.tray_x: float | None = None
        self._pose: Vector = np.zeros(7)
        self._pusher = self.world.model.geom("pusher").id

    def clear(self, rng: np.random.Generator, shadows: bool, clutter: int) -> None:
        """Empties the table; draws camera, light, table and clutter."""
        w, m = self.world, self.world.model
        mujoco.mj_resetData(m, w.data)
        for i in range(len(w.names)):
            w.park(i)
        self.names, self.held, self.tray_x = {}, None, None
        self._pose = np.zeros(7)  # nothing of the scene before may reach this one
        self.renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = int(shadows)
        self.camera.lookat[:] = (rng.uniform(-0.015, 0.015), rng.uniform(0.03, 0.06), 0.03)
        self.camera.distance = rng.uniform(0.97, 1.06)
        self.camera.azimuth = 90 + rng.uniform(-6, 6)
        self.camera.elevation = -rng.uniform(50, 59)
        m.vis.global_.fovy = 33.0
        ambient, diffuse = rng.uniform(0.30, 0.45), rng.uniform(0.45, 0.70)
        m.vis.headlight.ambient[:] = ambient
        lamp = m.light("lamp").id
        m.light_diffuse[lamp] = diffuse
        direction = np.array([rng.uniform(-0.5, 0.5), rng.uniform(-0.2, 0.5), -1.0])
        m.light_dir[lamp] = direction / np.linalg.norm(direction)
        m.light_pos[lamp] = -1.5 * direction
        table = m.geom("table").id
        m.geom_matid[table] = m.mat(TABLES[int(rng.integers(len(TABLES)))]).id
        m.geom_rgba[table] = (*(rng.uniform(0.8, 1.15) * rng.uniform(0.94, 1.0, 3)), 1.0)
        m.geom_rgba[m.geom("floor").id] = (*(rng.uniform(0.2, 0.7) * np.ones(3)), 1.0)
        w.data.mocap_pos[:] = (0, 0, -3)
        for i in range(int(rng.integers(0, clutter + 1))):
            k = m.body_mocapid[m.body(f"clutter{i % CLUTTER}").id]
            x, y = rng.uniform(-0.26, 0.26), rng.choice([-0.215, -0.072, 0.072, 0.22])
            w.data.mocap_pos[k] = (x, y + rng.uniform(-0.01, 0.01), 0.004)
            yaw = rng.uniform(0, math.pi)
            w.data.mocap_quat[k] = (math.cos(yaw / 2), 0, 0, math.sin(yaw / 2))

    def set_tray(self, x: float, rng: np.random.Generator) -> None:
        """Puts the tray on the column at `x`."""
        w, m = self.world, self.world.model
        body = m.body("tray").id
        w.data.mocap_pos[m.body_mocapid[body]] = (x, 0.0, 0.0)
        colour = np.array(TRAYS[int(rng.integers(len(TRAYS)))])
        for g in np.flatnonzero(m.geom_bodyid == body):
            floor = g == m.geom("tray").id
            m.geom_rgba[g] = (*np.clip(colour if floor else colour * 1.35, 0, 1), 1.0)
        self.tray_x = x

    def add(self, colour: str, kind: str, xy: tuple[float, float], z: float, yaw: float) -> int:
        """Brings an object in, standing at height `z` of its bottom; returns its pool index."""
        w = self.world
        index = next(
            i for i in range(len(w.names)) if KINDS[w.kinds[i]] == kind and i not in self.names
        )
        w.show(index, colour)
        w.place(index, (xy[0], xy[1], z + HALF_HEIGHT[kind] + 0.0005), yaw)
        self.names[index] = (colour, kind)
        return index

    def pose(self, xyz: Vector, grip: float, carry: bool = True) -> float:
        """Brings the grip point to `xyz`, fingers `grip` metres from the middle; metres left."""
        w = self.world
        self._pose, error = self.arm.solve(xyz)
        w.data.qpos[w.arm] = self._pose
        w.data.qpos[w.fingers] = grip
        mujoco.mj_kinematics(w.model, w.data)
        if self.held is not None and carry:
            kind = self.names[self.held][1]
            p = self.grip_point - np.array([0, 0, self.grip_height(kind) - HALF_HEIGHT[kind]])
            w.place(self.held, (float(p[0]), float(p[1]), float(p[2])), 0.0)
        return error

    @property
    def grip_point(self) -> Vector:
        """World position between the fingers."""
        return np.array(self.world.data.site_xpos[self.world.model.site("grip").id])

    @staticmethod
    def grip_height(kind: str) -> float:
        """How far above an object's bottom the fingers take it."""
        return max(HALF_HEIGHT[kind] + 0.005, 2 * HALF_HEIGHT[kind] - 0.012)

    def xyz(self, index: int) -> Vector:
        """World position of an object's centre."""
        a = self.world.qpos[index]
        return np.array(self.world.data.qpos[a : a + 3])

    def settle(self, steps: int) -> None:
        """Lets the physics run with the arm standing still."""
        w = self.world
        for _ in range(steps):
            mujoco.mj_step(w.model, w.data)
            w.data.qpos[w.arm] = self._pose
            w.data.qvel[:7] = 0.0

    def sweep(self, start: Vector, end: Vector, steps: int) -> None:
        """Moves the closed gripper in a line while the physics runs: a push."""
        w, m = self.world, self.world.model
        self._touch(True)
        q0, _ = self.arm.solve(start)
        q1, _ = self.arm.solve(end, q0)
        rate = (q1 - q0) / (steps * m.opt.timestep)
        for i in range(steps):
            w.data.qpos[w.arm] = q0 + (q1 - q0) * (i / steps)
            w.data.qvel[:7] = rate
            mujoco.mj_step(m, w.data)
        self._pose = q1
        w.data.qvel[:7] = 0.0
        self._touch(False)

    def _touch(self, on: bool) -> None:
        """Lets the gripper collide; MuJoCo filters by body before it looks at geoms."""
        m, body = self.world.model, self.world.model.body("hand").id
        m.geom_contype[self._pusher] = m.geom_conaffinity[self._pusher] = int(on)
        m.body_contype[body] = m.body_conaffinity[body] = int(on)

    def look(self) -> Look:
        """Renders the colours and the owner of every pixel."""
        w, r = self.world, self.renderer
        mujoco.mj_kinematics(w.model, w.data)
        mujoco.mj_comPos(w.model, w.data)
        mujoco.mj_camlight(w.model, w.data)
        r.update_scene(w.data, self.camera, self.option)
        rgb = r.render()
        shadow = r.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW]
        r.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        r.enable_segmentation_rendering()
        seg = r.render()
        r.disable_segmentation_rendering()
        r.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadow
        geom = seg[..., 1] == int(mujoco.mjtObj.mjOBJ_GEOM)
        return Look(rgb, np.where(geom, w.owner[np.maximum(seg[..., 0], 0)], NOBODY))

    def project(self, xyz: Vector) -> tuple[int, int]:
        """Where a world point lies in the picture, on the grid of 0..99."""
        az, el = math.radians(self.camera.azimuth), math.radians(self.camera.elevation)
        ahead = np.array([math.cos(el) * math.cos(az), math.cos(el) * math.sin(az), math.sin(el)])
        right = np.array([math.sin(az), -math.cos(az), 0.0])
        up = np.cross(right, ahead)
        d = xyz - (np.array(self.camera.lookat) - self.camera.distance * ahead)
        f = 0.5 / math.tan(math.radians(self.world.model.vis.global_.fovy) / 2)
        x, y = 0.5 + f * (d @ right) / (d @ ahead), 0.5 - f * (d @ up) / (d @ ahead)
        return int(np.clip(x * 100, 0, 99)), int(np.clip(y * 100, 0, 99))

    def things(self, look: Look | None, masks: bool) -> list[Thing]:
        """The objects of the scene as physics and, if given, the picture have them now."""
        on = self.supports()
        return [self._thing(i, look, on.get(i), masks) for i in self.names]

    def _thing(self, index: int, look: Look | None, on: int | None, masks: bool) -> Thing:
        colour, kind = self.names[index]
        p = self.xyz(index)
        a = self.world.qpos[index]
        _, qx, qy, _ = self.world.data.qpos[a + 3 : a + 7]
        upright = 1 - 2 * (qx * qx + qy * qy)
        mask = np.zeros((1, 1), bool) if look is None else look.owner == index
        pixels, centre, box = outline(mask)
        held = index == self.held
        return Thing(
            kind,
            colour,
            f"{colour} {kind}",
            tuple(round(float(v) * 100, 1) for v in p),  # type: ignore[arg-type]
            pixels,
            centre,
            box,
            rle.encode(mask) if masks and pixels else None,
            None if held or on is not None else self.slot(p),
            bool(self.in_tray(p)) and not held,
            kind in ("can", "bottle", "mug") and bool(upright < 0.7),
            None if on is None or held else " ".join(self.names[on]),
            held,
        )

    def in_tray(self, p: Vector) -> bool:
        """Whether a point is over the tray."""
        x = self.tray_x
        return x is not None and bool(abs(p[0] - x) < TRAY_HALF[0] and abs(p[1]) < TRAY_HALF[1])

    @staticmethod
    def slot(p: Vector) -> tuple[int, int] | None:
        """(column from the left, row from the front) within 5 cm, or None."""
        c = int(np.argmin(np.abs(np.array(COLUMNS) - p[0])))
        r = int(np.argmin(np.abs(np.array(ROWS) - p[1])))
        near = math.hypot(COLUMNS[c] - p[0], ROWS[r] - p[1]) < 0.05
        return (c, r) if near else None

    def supports(self) -> dict[int, int]:
        """Object: the object that it stands on, from the contacts."""
        w = self.world
        mujoco.mj_fwdPosition(w.model, w.data)
        out: dict[int, int] = {}
        for contact in w.data.contact:
            a, b = (int(w.owner[g]) for g in contact.geom)
            if a < 0 or b < 0 or a == b:
                continue
            if self.xyz(a)[2] < self.xyz(b)[2]:
                a, b = b, a
            if self.xyz(a)[2] - self.xyz(b)[2] > 0.03 and abs(contact.frame[2]) > 0.7:
                out[a] = b
        return out
