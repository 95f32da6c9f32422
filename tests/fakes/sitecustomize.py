"""Made stages, for processes that tests start with this folder on PYTHONPATH.

Everything around a stage is real (pipeline, components, launcher, manifests); only what the stage
computes is made up. PELICAN_FAKE says what shall go wrong: {"train-rl": {"do": "crash"}}, by stage
or by `loop-1/train-rl-rl`; with "once": a file, only if that file is not there yet.
"""

import dataclasses
import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time
from pathlib import Path

COUNTS = {
    "rollout": {"rollouts": 80, "tokens": 800},
    "filter": {"samples": 10, "buffer": 6, "mastered": 2, "weak": 2},
    "distill": {"rows": 6},
    "train-rl": {"steps": 4},
    "train-sft": {"steps": 4},
}


def run(inputs, config, job):
    """The stage: some progress, a file or a checkpoint, counts; a score that rises by phase."""
    from pelican.config import env
    from pelican.config.stages import STAGES, Uses
    from pelican.stages.stage import StageResult

    result = StageResult()
    for name in inputs:
        assert inputs[name]
    for done in range(3):
        job.progress(done, 3, "things")
    _go_wrong(job)
    if STAGES[job.stage].uses is Uses.GENERATION:
        result.notes["batch_size"] = env.batch_size(config.rollout.batch_size)
    if job.stage.startswith("train-"):
        job.output("checkpoint/model.safetensors").write_text(f"{job.loop} {job.phase}")
    elif job.rank == 0:
        job.output("rows.txt").write_text(f"{job.stage} {job.loop} {job.phase}")
    if sentence := _wish(job).get("tell"):
        result.tell(sentence)
    result.counts.update(COUNTS.get(job.stage, {"rows": 1}))
    result.counts["ranks"] += 1
    if job.stage == "eval" and _wish(job).get("do") == "answer":
        _answer(inputs, config, job, result)
    elif job.stage == "eval" and job.rank == 0:
        _evaluate(job, result)
    return result


def _answer(inputs, config, job, result):
    """Answers that are scored, summarised and judged by the real stage: only they are made up.

    `{"do": "answer", "loop-2": {"wrong": 40, "think": 0}}`: of the questions of a loop's policy that
    many are wrong, and its thoughts have that many characters; `base` is what is not named.
    """
    import importlib.util

    import polars as pl

    from pelican.evaluation.metrics import RESULTS

    spec = importlib.util.find_spec("pelican.stages")
    path = Path(spec.submodule_search_locations[0]) / "eval.py"
    spec = importlib.util.spec_from_file_location("real_eval", path)
    real = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = real
    spec.loader.exec_module(real)

    wish, policy = _wish(job), inputs.place("policy")
    trained = policy.partition("/loop-")[2].partition("/")[0]
    skill = {"wrong": 30, "think": 40, **wish["base"], **wish.get(f"loop-{trained}", {})}
    pool = Path(inputs.place("evaluation")).name
    rows = [
        {
            **dict.fromkeys(RESULTS.names, ""),
            "sample_id": f"{pool}-{suite}-{i}",
            "suite": suite,
            "family": ("counting", "planning")[i % 2] if suite == "embodied" else "general",
            "dimension": "spatial_geometric",
            "benchmark": "made",
            "horizon": "image",
            "scene": f"{pool}-{suite}-{i}",
            "task": float(i >= skill["wrong"]),
            "success": i >= skill["wrong"],
            "format": 1.0,
            "tokens": 10,
            "think_chars": skill["think"],
            "chance": 0.25,
        }
        for suite in ("embodied", "general")
        for i in range(60)
    ]
    job.output("rows.txt").write_text(f"{pool} {trained or 'base'}")
    frame = pl.DataFrame(rows, schema=pl.Schema(pl.from_arrow(RESULTS.empty_table()).schema))
    real._conclude(inputs, config, job, result, frame)


def _evaluate(job, result):
    loop, phase = job.loop, job.phase.value
    score = 40.0 + 4 * max(0, 2 * loop - 1) + (4 if phase == "sft" else 0) if loop else 40.0

    def estimate(value):
        return {"score": value, "low": value - 2, "high": value + 2, "n": 60, "chance": 20.0}

    summary = {"embodied": estimate(score), "general": estimate(60.0)}
    summary["families"] = {"counting": estimate(score)}
    summary["dimensions"] = {"spatial_geometric": estimate(score)}
    summary["mean_think_chars"] = 90.0 if loop else 120.0
    if loop:
        change = {"delta": score - 40, "low": score - 42, "high": score - 38}
        same = {"delta": 0.0, "low": -1.0, "high": 1.0}
        summary["comparisons"] = {"base": {"embodied": change, "general": same}}
    job.output("summary.json").write_text(json.dumps(summary))
    stop = _wish(job).get("do") == "stop"
    for name, value in (("embodied", score), ("general", 60.0), ("go_on", float(not stop))):
        result.add_metric(name, value)


def _wish(job):
    wishes = json.loads(os.environ.get("PELICAN_FAKE", "{}"))
    output = job.prefix.partition("/loop-")[2]
    wish = wishes.get(job.stage) or wishes.get(f"loop-{output}") or {}
    if wish.get("rank", job.rank) != job.rank:
        return {}
    once = wish.get("once")
    if once and Path(once).exists():
        return {}
    return wish


def _go_wrong(job):
    from pelican.errors import InfrastructureError, ResourceError, UserInputError

    wish = _wish(job)
    if wish.get("once"):
        Path(wish["once"]).touch()
    match wish.get("do"):
        case "user":
            raise UserInputError("the made input is wrong")
        case "infrastructure":
            raise InfrastructureError("the made store is away")
        case "resource":
            raise ResourceError("the made memory is full")
        case "memory":
            raise MemoryError("made")
        case "crash":
            raise KeyError("a made bug")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "apart":  # rank 1 has a bug, of which rank 0 sees a connection that broke
            if job.rank == 0:
                raise RuntimeError("Connection closed by peer [127.0.0.1]:1")
            time.sleep(wish["seconds"])
            raise KeyError("a made bug")
        case "sleep":
            job.output("work/pid").write_text(str(os.getpid()))
            time.sleep(wish["seconds"])


def _row(module):
    """The row of the stage that a module runs, or None."""
    from pelican.config.stages import STAGES

    return next((row for row in STAGES.values() if row.module == module), None)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name.startswith("pelican.stages.") and _row(name) is not None:
            return importlib.machinery.ModuleSpec(name, self)
        return None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        from pelican.config.stages import STAGES

        module.run = run
        row = _row(module.__name__)  # made stages share no items, so none is of replicas here
        STAGES[row.name] = dataclasses.replace(row, replicas=False)


sys.meta_path.insert(0, _Finder())
