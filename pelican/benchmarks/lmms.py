"""Results in the files that lmms-eval writes: `<date>_results.json` and `<date>_samples_<task>.jsonl`.

Follows lmms_eval/loggers/evaluation_tracker.py of EvolvingLMMs-Lab/lmms-eval at 75571cf.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from pelican.benchmarks.run import Result, write_json


def write_lmms_results(result: Result, model: str, output: Path, started: datetime) -> Path:
    """Write both files below `output/lmms-eval/<model>/`; scores are shares of 1, as is usual there.

    Gives the path of the results.
    """
    settings = result.scores.settings
    task = f"pelican_{settings.benchmark}"
    name = re.sub(r"[\"<>:/|\\?*\[\]]+", "__", model)
    folder = output / "lmms-eval" / name
    date = f"{started:%Y%m%d_%H%M%S}"
    finished = datetime.now(started.tzinfo)
    samples = [_sample(i, result) for i in range(len(result.rows))]
    hashes = "".join(f"sample_{i}{sample['doc_hash']}" for i, sample in enumerate(samples))
    scores = {f"{key},none": value / 100 for key, value in result.scores.scores.items()}
    tree: dict[str, Any] = {
        "results": {task: {"alias": task, **scores}},
        "group_subtasks": {task: []},
        "configs": {
            task: {
                "task": task,
                "dataset_path": settings.data,
                "output_type": "generate_until",
                "generation_kwargs": settings.sampling.model_dump(),
                "metadata": {"source": result.scores.source, "metric": result.scores.metric},
            }
        },
        "versions": {task: "pelican"},
        "n-shot": {task: 0},
        "higher_is_better": {task: dict.fromkeys(result.scores.scores, True)},
        "n-samples": {
            task: {
                "original": result.scores.questions + sum(result.scores.quarantined.values()),
                "effective": result.scores.questions,
            }
        },
        "config": {
            "model": "pelican",
            "model_args": model,
            "limit": result.scores.limit,
            "gen_kwargs": settings.sampling.model_dump(),
            "random_seed": settings.seed,
        },
        "date": date,
        "task_hashes": {task: hashlib.sha256(hashes.encode()).hexdigest()},
        "model_source": "pelican",
        "model_name": model,
        "model_name_sanitized": name,
        "start_time": started.timestamp(),
        "end_time": finished.timestamp(),
        "total_evaluation_time_seconds": str((finished - started).total_seconds()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(sample, ensure_ascii=False) for sample in samples)
    (folder / f"{date}_samples_{task}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = folder / f"{date}_results.json"
    write_json(path, tree)
    return path


def _sample(number: int, result: Result) -> dict[str, Any]:
    row, question = result.rows[number], result.questions[number]
    doc = json.dumps([question.id, question.prompt, question.truth], ensure_ascii=False)
    return {
        "doc_id": number,
        "target": question.truth,
        "filtered_resps": [row["completion"]],
        "doc_hash": hashlib.sha256(doc.encode()).hexdigest(),
        "input": question.prompt,
        "overall": {
            "id": question.id,
            "sub_task": question.group,
            "pred_parsed": row["answer"],
            "score": row["task"],
        },
    }
