"""What a page shows of a sample: its rollouts with their scores, question, answer and pictures."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import polars as pl

from pelican.data.corrections import NONE, Corrections, read_corrections
from pelican.data.tables import sample_from_row, shard_paths
from pelican.errors import UserInputError
from pelican.records import Sample
from pelican.report.history import Attempt, Case, Moment
from pelican.report.run import Run, StageRun
from pelican.stages.inputs import CORRECTIONS, resolve_input

SHOWN_ROLLOUTS = 2  # of each moment


def add_attempts(run: Run, cases: Sequence[Case]) -> None:
    """The teacher's answers, and the first rollouts of each moment with their scores."""
    known = {case.id: case for case in cases}
    for case in cases:
        case.attempts = list(case.verdicts.values())
    for stage in run.finished("rollout"):
        words, order = moment_of(stage)
        for row in _scored(run, stage, known).iter_rows(named=True):
            known[row["sample_id"]].attempts.append(
                Attempt(words, row["completion"], row["success"], row["reason"], order)
            )
    for case in cases:  # the same words twice at one moment say nothing new
        case.attempts = sorted(dict.fromkeys(case.attempts), key=lambda attempt: attempt.order)


def moment_of(stage: StageRun) -> tuple[str, tuple[int, int]]:
    """When a stage's rollouts were made, in words, and where that stands in the training."""
    moment = Moment(stage.loop, stage.phase, 0, 0)
    return moment.words, moment.order


def _scored(run: Run, stage: StageRun, ids: Collection[str]) -> pl.DataFrame:
    """The first rollouts of these samples with success and reason; empty if a table is missing."""
    rollouts = rows_of(run, stage.prefix, "rollouts", ids, most=SHOWN_ROLLOUTS)
    scores = rows_of(run, scores_of(stage), "scores", ids, most=SHOWN_ROLLOUTS)
    if rollouts is None or scores is None:
        return pl.DataFrame()
    both = rollouts.join(
        scores.select("sample_id", "index", "success", "reason"), on=["sample_id", "index"]
    )
    return both.sort("sample_id", "index")


def scores_of(rollout: StageRun) -> str:
    """The prefix of the scores of a rollout stage."""
    return rollout.prefix.replace("/rollout-", "/reward-")


def rows_of(
    run: Run, prefix: str, name: str, ids: Collection[str], most: int | None = None
) -> pl.DataFrame | None:
    """The rows of these samples in a stage's shards, of index below `most`; None without shards."""
    paths = run.files(prefix, f"{name}-*.parquet")
    if not paths:
        return None
    wanted = pl.col("sample_id").is_in(list(ids))
    if most is not None:
        wanted &= pl.col("index") < most
    return pl.concat([pl.scan_parquet(path).filter(wanted) for path in paths]).collect()


def pool_places(run: Run) -> list[str]:
    """Where the training pool lies, by the manifests, else by the recipe."""
    places = {
        stage.manifest.inputs["pool"]
        for stage in run.stages
        if stage.manifest and "pool" in stage.manifest.inputs
    }
    return sorted(places or {str(run.recipe.get("data", {}).get("train", ""))})


def corrections_of(run: Run) -> Corrections:
    """What a person corrected for this run, if the file can be read from here."""
    for stage in run.stages:
        where = stage.manifest.inputs.get(CORRECTIONS) if stage.manifest else None
        if where:
            try:
                return read_corrections(resolve_input(run.store, where))
            except UserInputError:
                return NONE  # the page is made where the file is not
    return NONE


def samples_of(
    run: Run, places: Sequence[str], ids: Collection[str], corrections: Corrections = NONE
) -> Iterator[Sample]:
    """The samples of these ids in the pools that can be read from here, one after another."""
    missing = set(ids)
    for place in places:
        try:
            paths = shard_paths(resolve_input(run.store, place)) if place and missing else []
        except UserInputError:
            continue  # the page is made where the data is not: it shows the rest
        for path in paths:
            wanted = pl.col("id").is_in(list(missing))
            rows = pl.scan_parquet(path).filter(wanted).collect()
            for part in rows.iter_slices(64):
                for row in part.iter_rows(named=True):
                    if row["id"] not in missing:
                        continue
                    try:
                        sample = sample_from_row(corrections.row(row))
                    except (ValueError, TypeError):
                        continue  # quarantined rows have their own table
                    missing.discard(sample.id)
                    yield sample
