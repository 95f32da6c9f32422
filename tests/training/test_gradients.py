"""The gradients of the first step over several processes are those of one, parameter by parameter.

Heads, strategies, checkpointing, towers and adapters in every combination that the recipe allows: a sum
that some rank does not take part in shows in one parameter, and hardly in a loss. A few cells are in
every run of the tests, all of them are marked long; the cells of ZeRO-3 need DeepSpeed.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.engines.twin import write_twin
from tests.training.curves import (
    assert_same_curve,
    assert_same_gradients,
    result,
    run_cases,
    run_program,
)

BACKENDS = {"ddp": "MULTI_CPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}
EXACT, ROUNDED = 1e-3, 0.1  # shares of a parameter's largest gradient, in float32 and in bfloat16


@dataclass(frozen=True)
class Cell:
    """A training, and the one process that it is compared with."""

    kind: str
    head: str
    checkpointing: bool
    part: str  # what is trained: everything but the tower, everything, or adapters
    strategy: str
    world: int
    dtype: str = "float32"

    @property
    def name(self) -> str:
        how = "checkpointing" if self.checkpointing else "plain"
        spread = f"{self.strategy}-{self.world}"
        return "-".join([self.kind, self.head, self.part, self.dtype, how, spread])

    @property
    def alone(self) -> Cell:
        return Cell(self.kind, self.head, False, self.part, "ddp", 1, self.dtype)

    def case(self) -> dict[str, Any]:
        """As `tests.training.scaled` takes it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "untied": self.head == "untied",
            "checkpointing": self.checkpointing,
            "freeze": self.part != "tower",
            "lora": self.part == "adapters",
            "strategy": self.strategy,
            "world": self.world,
            "dtype": self.dtype,
            "steps": 2,
        }


def every_cell() -> Iterator[Cell]:
    spreads = product(BACKENDS, (2, 4))
    wholes = product(("grpo", "sft"), ("tied", "untied"), (False, True))
    parts = ("text", "tower", "adapters")
    for (kind, head, checkpointing), part, spread in product(wholes, parts, spreads):
        yield Cell(kind, head, checkpointing, part, *spread)
    for kind, strategy in product(("grpo", "sft"), BACKENDS):
        # What `pelican_7b` is but for its size.
        yield Cell(kind, "untied", True, "tower", strategy, 2, "bfloat16")


def is_always_run(cell: Cell) -> bool:
    """Both heads with and without checkpointing over two processes of FSDP2, and a 7B's own cell."""
    if cell.strategy != "fsdp2" or cell.world != 2:
        return False
    return cell.part == "tower" if cell.dtype == "float32" else True


CELLS = list(every_cell())
FEW = [cell for cell in CELLS if is_always_run(cell)]
REST = [cell for cell in CELLS if not is_always_run(cell)]


def runs_of(cells: list[Cell], root: Path) -> Path:
    run_cases(root, [cell.case() for cell in dict.fromkeys([c.alone for c in cells] + cells)])
    return root


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs_of(FEW, tmp_path_factory.mktemp("few"))


@pytest.fixture(scope="module")
def rest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    has_deepspeed = importlib.util.find_spec("deepspeed") is not None
    cells = [cell for cell in REST if cell.strategy != "zero3" or has_deepspeed]
    return runs_of(cells, tmp_path_factory.mktemp("rest"))


def assert_as_one_process(runs: Path, cell: Cell) -> None:
    one, other = result(runs, cell.alone.name), result(runs, cell.name)
    assert BACKENDS[cell.strategy] in other["backend"]  # accelerate may fall back without a word
    rounded = cell.dtype == "bfloat16"
    assert_same_gradients(runs, cell.alone.name, cell.name, ROUNDED if rounded else EXACT)
    if rounded:
        assert other["norms"] == pytest.approx(one["norms"], rel=0.02)
    else:
        assert_same_curve(one, other)


@pytest.mark.parametrize("cell", FEW, ids=lambda cell: cell.name)
def test_the_gradients_are_those_of_one_process(few: Path, cell: Cell) -> None:
    assert_as_one_process(few, cell)


@pytest.mark.long
@pytest.mark.parametrize("cell", REST, ids=lambda cell: cell.name)
def test_every_gradient_is_that_of_one_process(rest: Path, cell: Cell) -> None:
    if cell.strategy == "zero3":
        pytest.importorskip("deepspeed", reason="deepspeed, of the extra 'gpu', is not installed")
    assert_as_one_process(rest, cell)


@pytest.mark.parametrize("tied", [False, pytest.param(True, marks=pytest.mark.long)])
def test_on_a_mesh_of_two_dimensions_the_gradients_are_those_of_one_process(
    tmp_path: Path, tied: bool
) -> None:
    twin = write_twin(tmp_path / "twin", tied=tied)
    run_program("tests.training.meshed", str(twin), str(tmp_path / "errors.json"))
    errors = json.loads((tmp_path / "errors.json").read_text())
    assert set(errors) == {"False", "True"} and max(errors.values()) < 1e-5, errors
