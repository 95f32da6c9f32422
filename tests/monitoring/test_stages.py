"""What real stages push agrees with the manifests that they commit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pelican.evaluation.gate import Gate
from pelican.evaluation.metrics import Summary, read_results
from pelican.monitoring import exporter, record
from pelican.stages.runner import run_stage
from tests.data.factory import sample, write_pool
from tests.dppo.test_reward_and_filter_stages import spec, write_rollouts
from tests.monitoring.servers import get, pushgateway, values
from tests.report.made_run import NAME, MadeRun


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delenv(exporter.PORT, raising=False)
    with pushgateway(tmp_path) as url:
        monkeypatch.setenv(exporter.GATEWAY, url)
        yield url


def total(found: dict[str, float], name: str, *parts: str) -> float:
    """The sum of the series whose labels hold all `parts`."""
    return sum(
        value
        for key, value in found.items()
        if key.startswith(f"{name}{{") and all(part in key for part in parts)
    )


def test_reward_and_filter_push_what_their_manifests_count(tmp_path: Path, gateway: str) -> None:
    samples = [sample(i) for i in range(24)]
    pool = str(write_pool(tmp_path / "pool", samples, per_shard=7))
    rollouts = str(write_rollouts(tmp_path / "rollouts", samples))
    scored = run_stage(spec(tmp_path, "reward", {"rollouts": rollouts, "pool": pool}))
    found = values(get(f"{gateway}/metrics"))
    name = "pelican_rollouts_total"
    assert total(found, name) == scored.counts["rollouts"] == 24 * 4
    assert total(found, name, 'outcome="success"') == scored.counts["successes"] > 0
    unreadable = total(found, name, 'outcome="unreadable"')
    assert unreadable == scored.counts["parse_failures"]
    for part, metric in (("format", "format_rate"), ("total", "mean_reward")):
        sums = total(found, "pelican_reward_ratio_sum", f'component="{part}"')
        assert sums / (24 * 4) == pytest.approx(scored.metrics[metric])
    assert total(found, "pelican_success_ratio_count") == 24
    assert found["pelican_stage_last_success_timestamp_seconds"] == scored.finished.timestamp()

    (tmp_path / "policy").mkdir()
    given = {"scores": "runs/r/loop-1/reward-rl", "pool": pool, "policy": str(tmp_path / "policy")}
    filtered = run_stage(spec(tmp_path, "filter", given))
    found = values(get(f"{gateway}/metrics"))
    for kind in ("samples", "mastered", "practice", "intractable", "buffer", "weak"):
        assert found[f'pelican_buffer_samples{{set="{kind}"}}'] == filtered.counts[kind]
    assert total(found, name) == 24 * 4  # another stage's group stays


def test_a_stage_that_is_done_already_pushes_nothing(tmp_path: Path, gateway: str) -> None:
    samples = [sample(i) for i in range(6)]
    pool = str(write_pool(tmp_path / "pool", samples, per_shard=7))
    given = {"rollouts": str(write_rollouts(tmp_path / "rollouts", samples)), "pool": pool}
    run_stage(spec(tmp_path, "reward", given))
    pushed = values(get(f"{gateway}/metrics"))["push_time_seconds"]
    run_stage(spec(tmp_path, "reward", given))
    assert values(get(f"{gateway}/metrics"))["push_time_seconds"] == pushed


def test_an_evaluations_scores_are_shares_of_one(tmp_path: Path, gateway: str) -> None:
    store = MadeRun(tmp_path, loops=1, train=12, held_out=30).write()
    where = f"runs/{NAME}/loop-1/eval-sft"
    summary = Summary.model_validate_json(store.read(f"{where}/summary.json"))
    gate = Gate.model_validate_json(store.read(f"{where}/gate.json"))
    with exporter.open_stage("eval", "sft", "key", list) as stage:
        record.evaluated(summary, gate, obeyed=True)
        stage.finish()
    found = values(get(f"{gateway}/metrics"))
    assert summary.embodied is not None
    score = found['pelican_evaluation_score_ratio{suite="embodied"}']
    assert score == pytest.approx(summary.embodied.score / 100)
    assert found["pelican_gate_open"] == gate.go_on
    assert total(found, "pelican_gate_check_passed") == sum(c.passed for c in gate.checks)
    with exporter.open_stage("eval", "rl", "key", list) as stage:
        record.evaluated(summary, gate, obeyed=False)
        stage.finish()
    groups = get(f"{gateway}/metrics").splitlines()
    of_rl = [line for line in groups if line.startswith("pelican_") and 'phase="rl"' in line]
    assert any(line.startswith("pelican_gate_limit_ratio") for line in of_rl)
    assert not any(line.startswith(("pelican_gate_open", "pelican_gate_check")) for line in of_rl)
    base, now = (
        read_results(store.root / "runs" / NAME / folder).filter(suite="embodied")
        for folder in ("loop-0/eval-base", "loop-1/eval-sft")
    )
    both = base.join(now, on="sample_id", suffix="_now").filter("success")
    lost = (~both["success_now"]).sum() / len(both)
    assert found['pelican_evaluation_forgotten_ratio{suite="embodied"}'] == pytest.approx(lost)
