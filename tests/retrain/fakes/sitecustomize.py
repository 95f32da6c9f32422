"""The made stages of `tests/fakes`, which here also write what a retraining reads.

PELICAN_MADE_DATA says what the new data is to the model: `hard` (learned with a teacher's help),
`mastered`, or `poisoned` (the teacher denies its labels, and learning them costs old abilities).
"""

import hashlib
import importlib.util
import os
from pathlib import Path

_base = Path(__file__).parents[2] / "fakes" / "sitecustomize.py"
_spec = importlib.util.spec_from_file_location("made_stages", _base)
_made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_made)
_plain = _made.run


def run(inputs, config, job):
    """A made stage, and the tables behind it; chance is a digest, so the same every time."""
    result = _plain(inputs, config, job)
    kind = os.environ.get("PELICAN_MADE_DATA", "hard")
    if job.rank == 0 and job.stage in _TABLES:
        _TABLES[job.stage](inputs, job, kind)
    return result


def _draw(name):
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32


def _ledger(inputs, job, kind):
    import polars as pl

    from pelican.data.pool import read_index

    entries = read_index(inputs["pool"]).entries
    rate = [1.0 if kind == "mastered" else round(_draw(e.id)) * 0.5 for e in entries]
    outcome = {1.0: "mastered", 0.5: "practice", 0.0: "intractable"}
    frame = pl.DataFrame(
        {
            "sample_id": [e.id for e in entries],
            "success_rate": rate,
            "outcome": [outcome[r] for r in rate],
            "family": [e.family.value for e in entries],
        }
    )
    frame.write_parquet(job.output("ledger.parquet"))


def _results(inputs, job, kind):
    from pelican.data.pool import read_index
    from pelican.evaluation.metrics import write_results

    trained = "/train-" in inputs.place("policy")
    rows = []
    for suite, name in (("embodied", "evaluation"), ("general", "general")):
        for entry in read_index(inputs[name]).entries:
            new = "/" in entry.id
            rate = 0.5
            if trained and new:
                rate = 0.95
            if trained and kind == "poisoned" and not new:
                rate = 0.0
            if not trained and new:
                rate = 0.1
            task = float(_draw(entry.id) < rate)
            rows.append(
                {
                    "sample_id": entry.id,
                    "suite": suite,
                    "family": entry.family.value,
                    "dimension": entry.dimension.value,
                    "benchmark": entry.id.partition("/")[0] if new else "default",
                    "horizon": "image",
                    "scene": entry.scene,
                    "task": task,
                    "success": task > 0.5,
                    "format": 1.0,
                    "tokens": 10,
                    "think_chars": 40,
                    "chance": 0.2,
                    "completion": "",
                    "answer": "",
                    "reason": "",
                }
            )
    write_results(job.output("results.parquet"), rows)


def _teacher(inputs, job, kind):
    import polars as pl

    from pelican.data.pool import read_index

    entries = read_index(inputs["pool"]).entries
    rate = {True: 0.1 if kind == "poisoned" else 0.8, False: 0.7}
    frame = pl.DataFrame(
        {
            "sample_id": [e.id for e in entries],
            "pool": ["pool"] * len(entries),
            "accepted": [_draw(f"t{e.id}") < rate["/" in e.id] for e in entries],
        }
    )
    frame.write_parquet(job.output("teacher.parquet"))


_TABLES = {"filter": _ledger, "eval": _results, "distill": _teacher}
_made.run = run
