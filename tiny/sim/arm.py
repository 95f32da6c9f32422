"""The Panda's inverse kinematics: damped least squares on the bare skeleton."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiny.sim.world import arm_xml

REST = np.array([0.0, -0.35, 0.0, -2.45, 0.0, 2.1, 0.785])
# The gripper points down; its fingers open along the world's x axis.
_DOWN = np.array([[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])


class Arm:
    """IK for the point between the fingers, the hand pointing down."""

    def __init__(self) -> None:
        import mujoco

        xml = f'<mujoco><compiler angle="radian"/><worldbody>{arm_xml(None)}</worldbody></mujoco>'
        self._mj: Any = mujoco
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.data = mujoco.MjData(self.model)
        self._site = self.model.site("grip").id
        self._low, self._high = self.model.jnt_range[:, 0] + 0.02, self.model.jnt_range[:, 1] - 0.02

    def solve(
        self, xyz: NDArray[np.float64], start: NDArray[np.float64] | None = None, steps: int = 60
    ) -> tuple[NDArray[np.float64], float]:
        """Joint angles [7] that bring the grip point to `xyz`, and the distance left in metres."""
        mj, m, d = self._mj, self.model, self.data
        q = np.array(REST if start is None else start)
        if start is None:
            q[0] = np.clip(np.arctan2(xyz[0], 0.6 - xyz[1]), -1.2, 1.2)
        jp, jr = np.zeros((3, 7)), np.zeros((3, 7))
        error = np.inf
        for _ in range(steps):
            d.qpos[:] = q
            mj.mj_kinematics(m, d)
            mj.mj_comPos(m, d)
            mj.mj_jacSite(m, d, jp, jr, self._site)
            dp = xyz - d.site_xpos[self._site]
            rot = d.site_xmat[self._site].reshape(3, 3)
            dr = 0.5 * sum(np.cross(rot[:, i], _DOWN[:, i]) for i in range(3))
            error = float(np.linalg.norm(dp))
            if error < 0.002 and float(np.linalg.norm(dr)) < 0.05:
                break
            jac = np.concatenate([jp, 0.3 * jr])
            gap = np.concatenate([dp, 0.3 * dr])
            pull = 0.02 * (REST - q)
            pull[0] = 0.0
            inv = jac.T @ np.linalg.inv(jac @ jac.T + 1e-3 * np.eye(6))
            step = inv @ gap + pull - inv @ (jac @ pull)
            q = np.clip(q + np.clip(step, -0.3, 0.3), self._low, self._high)
        return q, error
