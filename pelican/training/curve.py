"""The training curve of an RL phase: rewards per step and family, stagnation, and the stop rule."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
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
from pelican.training.probe import HeldOutProbe

STATE = "curve.json"
Gather = Callable[[Any], list[Any]]


class RlCurve(TrainerCallback):  # type: ignore[misc]
    """Collects the steps of all ranks, updates stagnation per window, and stops the trainer.

    Every rank keeps the same state, so that all stop at the same step. Rewards are those of all groups
    drawn, also of those that dynamic sampling replaced, because a group that always succeeds is
    replaced as well: without it the samples would look harder than they are.
    """

    def __init__(
        self,
        config: RlConfig,
        gather: Gather,
        report: Callable[[int, float], None],
        probe: HeldOutProbe | None = None,
    ) -> None:
        """A curve without a step.

        Args:
            config: the recipe's section `rl`.
            gather: what every rank gives, on every rank.
            report: called with each step and its mean reward.
            probe: decides when RL stops in place of stagnation, which is then only noted.
        """
        self.probe = probe
        self.rows: list[dict[str, Any]] = []
        self.stagnation: list[dict[str, Any]] = []
        self.totals: dict[str, int] = defaultdict(int)
        self.stop_reason = ""
        self._tracker = StagnationTracker.of(config)
        self._window: dict[str, list[float]] = defaultdict(list)
        # Of each family the rates of its samples in this window, if stagnation is of samples.
        self._of_samples: dict[str, dict[str, list[float]]] = defaultdict(dict)
        self._config, self._gather, self._report = config, gather, report
        # Completion tokens of the batch in use, this rank's and all ranks', and all ranks' of prompts.
        self._batch = self._batch_of_all = self._prompts_of_all = 0

    def add(self, record: StepRecord) -> None:
        """Add a step: this rank's groups and, gathered, those of the others. Collective."""
        mine = [
            {
                "family": group.sample.family.value,
                "sample": group.sample.id,
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
        self._batch = sum(len(ids) for group in record.trained for ids in group.completions)
        prompts = sum(len(group.prompt.ids) for group in record.trained)
        counts = (self._batch, prompts, len(record.trained), record.read_again, record.carried)
        shares = self._gather((mine, flat, counts))
        groups = [group for share, _, _ in shares for group in share]
        trained_flat = Counter(family for _, share, _ in shares for family in share)
        self._batch_of_all, self._prompts_of_all, trained, read_again, carried = map(
            sum, zip(*(counts for _, _, counts in shares), strict=True)
        )
        by_family: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for group in groups:
            by_family[group["family"]].append(group)
            self._window[group["family"]].append(group["success_rate"])
            if self._config.stop.of == "samples":
                of_family = self._of_samples[group["family"]]
                of_family.setdefault(group["sample"], []).append(group["success_rate"])
        step = record.step + 1
        for family, members in sorted(by_family.items()):
            row: dict[str, Any] = {"step": step, "family": family, "groups": len(members)}
            for key in ("reward", "success_rate", "format", "think_chars"):
                row[key] = sum(m[key] for m in members) / len(members)
            row["tokens"] = sum(m["tokens"] for m in members)
            row["trained_flat"] = trained_flat[family]
            self.rows.append(row)
        telemetry.practised(record.drawn, record.hinted, record.trained)
        self.totals["groups_drawn"] += len(groups)
        self.totals["groups_without_variance"] += sum(not g["variance"] for g in groups)
        self.totals["groups_trained"] += trained
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

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The first probe is of the policy that the phase starts with."""
        self._look(state.global_step)

    def _look(self, step: int) -> None:
        if self.probe is not None:
            counts = self.probe.look(step)
            self.totals["tokens_generated"] += counts["probe_tokens"]
            self.totals["prompt_tokens"] += counts["probe_prompt_tokens"]
            for name, count in counts.items():
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
            now = self._tracker.update(
                _means(self._window), {f: _means(of) for f, of in self._of_samples.items()}
            )
            self.stagnation += [
                {"step": step, "family": f, "ts": ts, "mean_ts": now.mean}
                for f, ts in now.tasks.items()
            ]
            telemetry.stagnated(now.tasks, now.mean)
            self._window.clear()
            self._of_samples.clear()
        self._look(step)
        rule = self.probe.tracker if self.probe else self._tracker
        reason = rule.stop_reason(step)
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
                "of_samples": self._of_samples,
                "probe": self.probe.state_dict() if self.probe else None,
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
        self._of_samples.update(saved.get("of_samples", {}))  # none in one of before 2026-12
        if self.probe is not None:
            self.probe.load_state_dict(saved["probe"])

    def write(self, curve: Path, stagnation: Path) -> None:
        """Write both tables as Parquet files."""
        pl.DataFrame(self.rows).write_parquet(curve)
        schema = {"step": pl.Int64, "family": pl.String, "ts": pl.Float64, "mean_ts": pl.Float64}
        pl.DataFrame(self.stagnation, schema=schema).write_parquet(stagnation)


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: sum(found) / len(found) for name, found in values.items()}
