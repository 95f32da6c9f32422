"""`pelican benchmark list` and `run`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pelican.cli.output import rows_table
from pelican.config import env
from pelican.config.presets import find_recipe
from pelican.errors import UserInputError

if TYPE_CHECKING:
    from pelican.config.recipe import Recipe
    from pelican.engines.base import Engine
    from pelican.evaluation.published.base import Ask, Benchmark
    from pelican.evaluation.published.run import Scores


def print_benchmarks() -> None:
    """Every benchmark with its metric, layout and source."""
    from pelican.evaluation.published import BENCHMARKS

    rows = [[b.name, b.title, b.suite, b.metric, b.layout] for b in BENCHMARKS.values()]
    rows_table(["name", "benchmark", "suite", "metric", "layout of --data"], rows)
    print("\nsources")
    rows_table(["", ""], [[b.name, b.source] for b in BENCHMARKS.values()])


def run(
    name: str,
    data: Path,
    model: str,
    recipe_name: str,
    overrides: Sequence[str],
    *,
    output: Path | None,
    limit: int | None,
    frames: int | None,
    served_model: str | None,
    concurrency: int,
    judge: str | None,
    judge_model: str | None,
) -> None:
    """Run a checkpoint or an endpoint on a benchmark and print its scores."""
    from pelican.evaluation.published import find_benchmark
    from pelican.evaluation.published.base import Context
    from pelican.evaluation.published.run import Settings, run_benchmark, write_lmms_results

    benchmark = find_benchmark(name)
    if not data.is_dir():
        raise UserInputError(f"--data {str(data)!r} is not a folder; give the benchmark's folder")
    recipe = find_recipe(recipe_name, overrides)
    started = datetime.now().astimezone()
    recorded = Path(model).is_file()
    if recorded:
        model_name, identity, engine = _open_recorded(benchmark, data, Path(model))
    else:
        model_name, identity, engine = open_model(
            recipe, "--model", model, served_model=served_model, concurrency=concurrency
        )
    where = output or env.home() / ".pelican" / "benchmarks" / name / _slug(model_name)
    ask = _judge(recipe, judge, judge_model, where)
    if benchmark.needs_judge and ask is None:
        raise UserInputError(
            f"{benchmark.title} is marked by a judge model; give --judge URL --judge-model NAME"
        )
    result = run_benchmark(
        benchmark,
        data,
        engine,
        Settings(
            benchmark=name,
            data=str(data.resolve()),
            model=identity,
            sampling=recipe.eval.sampling,
            frames=frames or benchmark.frames,
            max_pixels=recipe.data.max_pixels,
            system_prompt=recipe.model.system_prompt,
            seed=recipe.seed,
        ),
        where,
        context=Context(data, ask),
        limit=limit,
        workers=8 if ask is not None else 1,  # they wait for the judge
        progress=_progress,
    )
    lmms = write_lmms_results(result, model_name, where, started)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    _print_scores(benchmark.title, result.scores, recorded)
    print(f"results    {where / 'results.parquet'}")
    print(f"scores     {where / 'scores.json'}")
    print(f"lmms-eval  {lmms}")


def _open_recorded(
    benchmark: Benchmark, data: Path, path: Path
) -> tuple[str, str, Callable[[], Engine]]:
    """The name, identity and engine of a file of recorded replies; see `open_model`."""
    from pelican.evaluation.published.lmms_samples import is_lmms_samples, read_lmms_samples
    from pelican.evaluation.published.run import RecordedEngine, check_replies, read_replies
    from pelican.storage.digests import file_digest

    if is_lmms_samples(path):
        replies = read_lmms_samples(path, benchmark, data)
    else:
        replies = read_replies(path, benchmark.name)
    questions, answered = check_replies(benchmark, data, replies, path)
    print(f"{path}: replies to {answered} of {questions} questions")
    if len(replies) > answered:
        print(f"{len(replies) - answered} replies are to no question in {data}")
    return path.stem, f"{path.name}@{file_digest(path)[:16]}", lambda: RecordedEngine(replies)


def open_model(
    recipe: Recipe,
    option: str,
    model: str,
    *,
    served_model: str | None = None,
    concurrency: int = 16,
    instead: str = ", an endpoint's URL to /v1, or a file of replies",
) -> tuple[str, str, Callable[[], Engine]]:
    """The model's name, what tells its completions from another's, and how to open it.

    Args:
        recipe: Its engine and system prompt are used.
        option: Where the model was named, for the error.
        model: A checkpoint's folder, or an endpoint's URL to /v1.
        served_model: Its name at the endpoint; None: the first that is listed.
        concurrency: Requests to the endpoint at a time.
        instead: What else could be given, for the error.

    Raises:
        UserInputError: There is no such checkpoint or endpoint.
    """
    if "://" in model:
        from pelican.base.endpoint import ChatClient, served_models
        from pelican.engines.openai import KEY_VARIABLE, EndpointEngine

        name = served_model or served_models(model, option, KEY_VARIABLE)[0]
        client = ChatClient(
            model,
            name,
            who="model",
            setting=option,
            key_variable=KEY_VARIABLE,
            concurrency=concurrency,
        )
        return name, name, lambda: EndpointEngine(client, recipe.model.system_prompt)
    from pelican.engines.opening import open_engine
    from pelican.evaluation.published.run import checkpoint_stamp
    from pelican.storage.checkpoints import check_checkpoint

    folder = Path(env.resolve(model))
    if not folder.is_dir():
        raise UserInputError(
            f"{option} {model}: there is no checkpoint at {folder}; give its folder{instead}"
        )
    check_checkpoint(option, str(folder))
    identity = f"{folder.name}@{checkpoint_stamp(folder)}"
    return folder.name, identity, lambda: open_engine(recipe.rollout, recipe.model, folder)


def _judge(recipe: Recipe, endpoint: str | None, model: str | None, output: Path) -> Ask | None:
    """One reply of the judge that the command line or the recipe names, kept below `output`."""
    from pelican.config.recipe import JudgeConfig
    from pelican.rewards.judge import Votes
    from pelican.storage.store import FolderStore

    config = recipe.reward.judge
    if endpoint:
        if not model:
            raise UserInputError("--judge needs --judge-model, the name that the judge serves")
        config = JudgeConfig(endpoint=endpoint, model=model, temperature=0.0)
    if config is None:
        return None
    votes = Votes(config.model_copy(update={"temperature": 0.0}), FolderStore(output))

    def ask(prompt: str, max_tokens: int) -> str:
        replies, _ = votes.replies(prompt, lambda found: len(found) >= 1, max_tokens)
        return replies[0]

    return ask


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "model"


def _progress(done: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} answered", end="", file=sys.stderr, flush=True)


def _print_scores(title: str, scores: Scores, recorded: bool) -> None:
    of = f" (the first {scores.limit})" if scores.limit else ""
    print(f"{title}: {scores.scores['overall']:.1f} over {scores.questions} questions{of}")
    rows = [
        [name, f"{value:.1f}", str(_count(name, scores))] for name, value in scores.scores.items()
    ]
    rows_table(["", "score", "questions"], rows)
    if scores.chance:
        print(f"chance     {scores.chance:.1f}")
    if scores.not_public:
        print(f"not scored {scores.not_public} questions whose answer is not public")
    for code, count in scores.quarantined.items():
        print(f"left out   {count} x {code}")
    if scores.quarantine:
        first = scores.quarantine[0]
        print(f"           first: {first['shard']}, row {first['row']}: {first['reason']}")
    if scores.refused:
        what = "questions, not in the file" if recorded else "requests by the endpoint"
        print(f"{'no reply' if recorded else 'refused':10} {scores.refused} {what}; each counts 0")


def _count(name: str, scores: Scores) -> int:
    """Questions behind one score; VSI-Bench's direction is of several groups."""
    if name == "overall":
        return scores.questions
    groups = scores.groups.items()
    return sum(n for group, n in groups if group == name or group.startswith(f"{name}_"))
