"""The training curve of an RL phase: rewards per step and family, stagnation, and the stop rule."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from pelican.base.files import replacing
from pelican.base.parse import parse_json
from pelican.config.recipe import RlConfig
from pelican.dppo.stagnation import StagnationTracker
from pelican.monitoring import record as telemetry
from pelican.training.grpo import Group, StepRecord

STATE = "curve.json"
Gather = Callable[[Any], list[Any]]


class RlCurve(TrainerCallback):  # type: ignore[misc]
    """Collects the steps of all ranks, updates stagnation per window, and stops the trainer.

    Every rank keeps the same state, so that all stop at the same step. Rewards are those of all groups
    drawn, also of those that dynamic sampling replaced, because a group that always succeeds is
    replaced as well: without it the samples would look harder than they are.
    """

    def __init__(
        self, config: RlConfig, gather: Gather, report: Callable[[int, float], None]
    ) -> None:
        self.rows: list[dict[str, Any]] = []
        self.stagnation: list[dict[str, Any]] = []
        self.totals: dict[str, int] = defaultdict(int)
        self.stop_reason = ""
        self._tracker = StagnationTracker.of(config)
        self._window: dict[str, list[float]] = defaultdict(list)
        self._config, self._gather, self._report = config, gather, report
        # Completion tokens of the batch in use, this rank's and all ranks', and all ranks' of prompts.
        self._batch = self._batch_of_all = self._prompts_of_all = 0

    def add(self, record: StepRecord) -> None:
        """Add a step: this rank's groups and, gathered, those of the others. Collective."""
        mine = [
            {
                "family": group.sample.family.value,
                "reward": float(group.rewards.mean()),
                "success_rate": sum(s.success for s in group.scores) / len(group.scores),
                "format": sum(s.format for s in group.scores) / len(group.scores),
                "think_chars": sum(s.think_chars for s in group.scores) / len(group.scores),
                "tokens": sum(len(ids) for ids in group.completions),
                "prompt_tokens": len(group.prompt.ids),
                "completions": len(group.completions),
                "variance": group.has_variance,
            }
            for group in record.drawn
        ]
        flat = [g.sample.family.value for g in record.trained if not g.has_variance]
        shares = self._gather((mine, flat, len(record.trained)))
        groups = [group for share, _, _ in shares for group in share]
        trained_flat = Counter(family for _, share, _ in shares for family in share)
        by_family: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for group in groups:
            by_family[group["family"]].append(group)
            self._window[group["family"]].append(group["success_rate"])
        step = record.step + 1
        for family, members in sorted(by_family.items()):
            row: dict[str, Any] = {"step": step, "family": family, "groups": len(members)}
            for key in ("reward", "success_rate", "format", "think_chars"):
                row[key] = sum(m[key] for m in members) / len(members)
            row["tokens"] = sum(m["tokens"] for m in members)
            row["trained_flat"] = trained_flat[family]
            self.rows.append(row)
        self._batch = sum(len(ids) for group in record.trained for ids in group.completions)
        prompts = sum(len(group.prompt.ids) for group in record.trained)
        batches = self._gather((self._batch, prompts, record.read_again, record.carried))
        self._batch_of_all, self._prompts_of_all, read_again, carried = map(
            sum, zip(*batches, strict=True)
        )
        telemetry.practised(record.drawn, record.hinted, record.trained)
        self.totals["groups_drawn"] += len(groups)
        self.totals["groups_without_variance"] += sum(not g["variance"] for g in groups)
        self.totals["groups_trained"] += sum(count for _, _, count in shares)
        self.totals["groups_trained_flat"] += trained_flat.total()
        self.totals["completions"] += sum(g["completions"] for g in groups)
        self.totals["tokens_generated"] += sum(g["tokens"] for g in groups)
        self.totals["prompt_tokens"] += sum(g["prompt_tokens"] for g in groups)
        # The reference reads each batch once, and of each group the prompt once.
        read = self._batch_of_all + self._prompts_of_all if self._config.kl > 0 else 0
        self.totals["reference_tokens"] += read + read_again
        if self._config.keep_surplus:
            self.totals["groups_carried"] += carried
        if self._config.variant.hints:
            self._add_hinted(record.hinted)

    def _add_hinted(self, groups: list[Group]) -> None:
        """Count groups drawn with a hint: they cost tokens, and are in no success rate."""
        counts = {
            "groups_hinted": len(groups),
            "groups_helped": sum(any(s.success for s in group.scores) for group in groups),
            "completions": sum(len(group.completions) for group in groups),
            "tokens_generated": sum(len(ids) for group in groups for ids in group.completions),
            "prompt_tokens": sum(len(group.prompt.ids) for group in groups),
        }
        for share in self._gather(counts):
            for name, count in share.items():
                self.totals[name] += count

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close a window every `stop.window` steps; stop if the tracker finds stagnation."""
        step = state.global_step
        # Here and not in `add`: with `rl.variant.updates` a batch is trained on in several steps.
        self.totals["tokens_trained"] += self._batch_of_all
        self.totals["prompt_tokens_trained"] += self._prompts_of_all
        variant = self._config.variant
        if variant.perception:
            # One more pass, without the images; three count as forward and backward.
            passes = 3 if variant.masked_gradients else 1
            self.totals["reference_tokens"] += passes * (self._batch_of_all + self._prompts_of_all)
        telemetry.trained_on(self._batch)
        newest = self.rows[-1]["step"] if self.rows else step  # some steps use a batch again
        recent = [row["reward"] for row in self.rows if row["step"] == newest]
        self._report(step, sum(recent) / len(recent) if recent else 0.0)
        if step % self._config.stop.window == 0 and self._window:
            rates = {family: sum(v) / len(v) for family, v in self._window.items()}
            now = self._tracker.update(rates)
            self.stagnation += [
                {"step": step, "family": f, "ts": ts, "mean_ts": now.mean}
                for f, ts in now.tasks.items()
            ]
            telemetry.stagnated(now.tasks, now.mean)
            self._window.clear()
        reason = self._tracker.stop_reason(step)
        if reason:
            self.stop_reason = reason
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the state beside the trainer's checkpoint."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            saved = {
                "rows": self.rows,
                "stagnation": self.stagnation,
                "totals": self.totals,
                "tracker": self._tracker.state_dict(),
                "window": self._window,
            }
            with replacing(folder / STATE) as file:  # with it the checkpoint is whole
                file.write_text(json.dumps(saved))

    def load(self, checkpoint: Path) -> None:
        """Restore what `on_save` wrote."""
        saved = parse_json((checkpoint / STATE).read_text())
        self.rows, self.stagnation = saved["rows"], saved["stagnation"]
        self.totals.update(saved["totals"])
        self._tracker.load_state_dict(saved["tracker"])
        self._window.update(saved["window"])

    def write(self, curve: Path, stagnation: Path) -> None:
        """Write both tables as Parquet files."""
        pl.DataFrame(self.rows).write_parquet(curve)
        schema = {"step": pl.Int64, "family": pl.String, "ts": pl.Float64, "mean_ts": pl.Float64}
        pl.DataFrame(self.stagnation, schema=schema).write_parquet(stagnation)
