"""Published benchmarks for embodied models: their layouts, prompts, answer extraction and metrics.

Each module names the code or paper that it follows; docs/published-benchmarks.md says where it departs.
"""

from __future__ import annotations

from pelican.config.overrides import nearest
from pelican.errors import UserInputError
from pelican.evaluation.published import (
    egoschema,
    erqa,
    leading,
    mmstar,
    mvbench,
    omnispatial,
    openeqa,
    phyx,
    pointing,
    robospatial,
    vsibench,
)
from pelican.evaluation.published.base import Benchmark

# All benchmarks by name. A new one is one module and one line here.

# The twelve of arXiv 2511.00108, then what Pelican adds.
TWELVE: tuple[Benchmark, ...] = (
    mvbench.BENCHMARK,
    egoschema.BENCHMARK,
    pointing.WHERE2PLACE,
    phyx.BENCHMARK,
    vsibench.BENCHMARK,
    omnispatial.BENCHMARK,
    leading.BLINK,
    pointing.REFSPATIAL,
    robospatial.BENCHMARK,
    leading.EMBSPATIAL,
    leading.COSMOS,
    erqa.BENCHMARK,
)
BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark for benchmark in (*TWELVE, mmstar.BENCHMARK, openeqa.BENCHMARK)
}


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of this name. Raises UserInputError that names the nearest one."""
    if name not in BENCHMARKS:
        raise UserInputError(f"there is no benchmark {name!r}{nearest(name, BENCHMARKS)}")
    return BENCHMARKS[name]
