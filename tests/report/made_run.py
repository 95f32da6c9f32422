"""A made run, written by the real writers: what the report is tested on."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image, ImageDraw

from pelican.config.recipe import EvalConfig
from pelican.data.tables import write_rows, write_samples
from pelican.evaluation.gate import decide
from pelican.evaluation.metrics import ResultRow, read_results, result_row, summarise, write_results
from pelican.evaluation.sampled import WITH_ATTEMPTS, summarise_attempts, with_attempts
from pelican.records import (
    EMBODIED_FAMILIES,
    Answer,
    ChoiceAnswer,
    CountAnswer,
    Dimension,
    Family,
    LedgerRow,
    Phase,
    PointsAnswer,
    Rollout,
    Sample,
    Score,
    Split,
    Turn,
)
from pelican.rewards.masks import encode_mask
from pelican.stages.eval import manifest_metrics
from pelican.storage.manifests import Manifest, commit_manifest, describe_outputs, read_manifest
from pelican.storage.store import FolderStore

NAME = "made"
LEVELS = {"base": 0.42, "rl": 0.035, "sft": 0.03}
_DIMENSIONS = list(Dimension)


class MadeRun:
    """Writes the stages of a run one after another, as a metaloop would."""

    def __init__(self, root: Path, loops: int = 3, train: int = 90, held_out: int = 30) -> None:
        self.store = FolderStore(root / "store")
        self.rng = np.random.default_rng(7)
        self.loops = loops
        self.pool, self.held, self.general = root / "pool", root / "held", root / "general"
        self.train = self._samples(self.pool, "train", train, Split.TRAIN)
        self.test = self._samples(self.held, "test", held_out, Split.TEST)
        self.other = self._samples(self.general, "general", held_out, Split.TEST, general=True)
        self.clock = datetime(2026, 1, 5, 9, tzinfo=UTC)
        self.difficulty = {s.id: self.rng.uniform(-0.5, 1.0) for s in self.train}
        self.noise = {s.id: self.rng.uniform(0, 1) for s in [*self.test, *self.other]}
        recipe = {
            "name": "tiny",
            "loops": loops,
            "seed": 0,
            "data": {"train": str(self.pool)},
            "rl": {"enabled": True, "stop": {"threshold": 0.7}},
            "sft": {"enabled": True},
        }
        submission = {"run": NAME, "pipeline": "metaloop", "address": "tiny", "overrides": []}
        submission |= {"recipe": "r", "submitted": self.clock.isoformat()}
        row = {"shard": "a.parquet", "row": 3, "id": "bad-1", "code": "image_huge"}
        row["reason"] = "an image of 90000 x 90000 pixels"
        preflight = {
            "train": {"samples": train, "quarantined": {"image_huge": 1}, "quarantine": [row]},
            "general": {"samples": held_out, "quarantined": {}, "quarantine": []},
        }
        for name, value in (
            ("recipe", recipe),
            ("run", submission),
            ("preflight", preflight),
        ):
            self.store.write(f"runs/{NAME}/{name}.json", json.dumps(value).encode())

    def write(self, until: str = "") -> FolderStore:
        """All stages up to the one whose folder `until` names, which stays unfinished."""
        for loop, folder, stage in self._plan():
            prefix = f"runs/{NAME}/loop-{loop}/{folder}"
            if f"loop-{loop}/{folder}" == until:
                self.store.write(f"{prefix}/work/fingerprint", b"half")
                return self.store
            phase = folder.rpartition("-")[2]
            counts, metrics, inputs = getattr(self, "_" + stage.replace("-", "_"))(
                prefix, loop, phase
            )
            self._commit(prefix, loop, phase, stage, counts, metrics, inputs)
        return self.store

    def _plan(self) -> Iterator[tuple[int, str, str]]:
        yield 0, "eval-base", "eval"
        for loop in range(1, self.loops + 1):
            for phase in ("rl", "sft"):
                yield loop, f"rollout-{phase}", "rollout"
                yield loop, f"reward-{phase}", "reward"
                yield loop, f"filter-{phase}", "filter"
                if phase == "sft":
                    yield loop, "distill-sft", "distill"
                yield loop, f"train-{phase}-{phase}", f"train-{phase}"
                yield loop, f"eval-{phase}", "eval"

    def _samples(
        self, folder: Path, name: str, count: int, split: Split, general: bool = False
    ) -> list[Sample]:
        samples = []
        for index in range(count):
            family = Family.GENERAL if general else EMBODIED_FAMILIES[index % 6]
            clip = family in (Family.TEMPORAL, Family.PREDICTION)
            picture, mask = self._picture()
            if family is Family.AFFORDANCE:
                answer: Answer = PointsAnswer(mask=encode_mask(mask))
                question = "Point at the orange cup's handle. Answer with one point (x, y)."
            elif family is Family.COUNTING:
                answer = CountAnswer(value=3)
                question = "How many cups stand on the table?"
            else:
                answer = ChoiceAnswer(options=("left", "right", "above", "none"), answer="B")
                question = "Where will the cup go next?\nA. left\nB. right\nC. above\nD. <none>"
            samples.append(
                Sample(
                    id=f"{name}-{index:04d}",
                    media_kind="clip" if clip else "image",
                    images=(picture,) * (4 if clip else 1),
                    times_s=tuple(12.0 * t for t in range(4)) if clip else (0.0,),
                    turns=(Turn(role="user", text=question),),
                    family=family,
                    dimension=_DIMENSIONS[index % 9],
                    answer=answer,
                    source="made",
                    scene=f"{name}-{index // 3}",
                    split=split,
                    benchmark="made",
                    chance=0.25 if isinstance(answer, ChoiceAnswer) else 0.05,
                )
            )
        write_samples(folder / "shard-000.parquet", samples)
        return samples

    def _picture(self) -> tuple[bytes, np.ndarray]:
        image = Image.new("RGB", (112, 112), (196, 190, 178))
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, 112, 34), fill=(120, 128, 138))
        for colour in ((70, 110, 170), (90, 150, 110), (216, 130, 50)):
            x, y = int(self.rng.integers(8, 84)), int(self.rng.integers(36, 84))
            draw.ellipse((x, y, x + 20, y + 20), fill=colour)
        mask = np.zeros((112, 112), np.uint8)
        mask[y : y + 20, x : x + 20] = 1
        out = io.BytesIO()
        image.save(out, "PNG")
        return out.getvalue(), mask

    def _commit(self, prefix, loop, phase, stage, counts, metrics, inputs) -> None:
        started = self.clock
        self.clock += timedelta(seconds={"eval": 14, "rollout": 31}.get(stage, 4 + 11 * len(stage)))
        manifest = Manifest(
            stage=stage,
            run=NAME,
            loop=loop,
            phase=phase,
            fingerprint="f",
            recipe="r",
            inputs=inputs,
            outputs=describe_outputs(self.store, prefix),
            counts=counts,
            metrics=metrics,
            notes={"resources": {"parameters": 1000}},
            started=started,
            finished=self.clock,
        )
        commit_manifest(self.store, prefix, manifest)

    def _at(self, prefix: str, name: str) -> Path:
        return self.store.local_root(prefix) / name

    def _skill(self, loop: int, phase: str) -> float:
        """Skill of the policy that is evaluated after this phase."""
        done_rl = loop if phase != "base" else 0
        done_sft = loop if phase == "sft" else max(0, loop - 1)
        return LEVELS["base"] + LEVELS["rl"] * done_rl + LEVELS["sft"] * done_sft

    def _eval(self, prefix, loop, phase):
        rows: list[ResultRow] = []
        skill = self._skill(loop, phase)
        sampled = np.random.default_rng(loop)
        for sample in [*self.test, *self.other]:
            general = sample.family is Family.GENERAL
            level = 0.6 if general else skill + 0.25 * np.sin(_DIMENSIONS.index(sample.dimension))
            right = self.noise[sample.id] + self.rng.normal(0, 0.1) < level
            text = f"<think>I look at the table.</think><answer>{'B' if right else 'A'}</answer>"
            rollout = Rollout(
                sample_id=sample.id, index=0, seed=1, completion=text, tokens=24, finish="stop"
            )
            score = Score(
                sample_id=sample.id,
                index=0,
                reward=float(right),
                format=1.0,
                task=float(right),
                success=bool(right),
                think_chars=20,
                answer="B" if right else "A",
                reason="" if right else "wrong",
            )
            row = result_row(sample, "general" if general else "embodied", rollout, score)
            tries = sampled.random(4) < np.clip(level, 0, 1)
            found = [score.model_copy(update={"success": bool(t), "task": float(t)}) for t in tries]
            rows.append(with_attempts(row, [rollout] * 4, found))
        write_results(self._at(prefix, "results.parquet"), rows, WITH_ATTEMPTS)
        frame = read_results(self._at(prefix, "results.parquet"))
        earlier = {}
        if phase != "base":
            base = f"runs/{NAME}/loop-0/eval-base"
            earlier = {"base": (base, read_results(self.store.local(base)))}
            earlier["previous"] = earlier["base"]
        summary = summarise(frame, earlier, resamples=100)
        attempts = summarise_attempts(frame, EvalConfig(samples=4, bootstrap=100), 0)
        summary = summary.model_copy(update={"sampled": attempts})
        self.store.write(f"{prefix}/summary.json", summary.model_dump_json().encode())
        gate = decide(summary.comparisons, EvalConfig())
        self.store.write(f"{prefix}/gate.json", gate.model_dump_json().encode())
        inputs = {"policy": "p", "evaluation": str(self.held), "general": str(self.general)}
        return {"samples": len(rows), "tokens": 24 * len(rows)}, manifest_metrics(summary), inputs

    def _rate(self, sample: Sample, loop: int, phase: str, draws: int) -> int:
        ahead = 2 * (loop - 1) + (phase == "sft")
        chance = np.clip(self.difficulty[sample.id] + 0.12 * ahead, 0, 1)
        return int(self.rng.binomial(draws, chance))

    def _rollout(self, prefix, loop, phase):
        draws = 8 if phase == "rl" else 4
        self.hits = {s.id: self._rate(s, loop, phase, draws) for s in self.train}
        rows = [
            Rollout(
                sample_id=s.id,
                index=i,
                seed=i,
                completion="<think>The cup is near the edge & moves.</think>"
                f"<answer>{'(40, 60)' if s.family is Family.AFFORDANCE else 'B'}</answer>",
                tokens=20,
                finish="stop",
            )
            for s in self.train
            for i in range(draws)
        ]
        write_rows(self._at(prefix, "rollouts-00000.parquet"), rows, Rollout)
        counts = {"rollouts": len(rows), "tokens": 20 * len(rows), "prompt_tokens": 10 * len(rows)}
        return counts, {}, {"pool": str(self.pool)}

    def _reward(self, prefix, loop, phase):
        draws = 8 if phase == "rl" else 4
        rows = [
            Score(
                sample_id=s.id,
                index=i,
                reward=1.0 if i < self.hits[s.id] else 0.1,
                format=1.0,
                task=float(i < self.hits[s.id]),
                success=i < self.hits[s.id],
                think_chars=30,
                answer="B",
                reason="" if i < self.hits[s.id] else "wrong",
            )
            for s in self.train
            for i in range(draws)
        ]
        write_rows(self._at(prefix, "scores-00000.parquet"), rows, Score)
        return {"scores": len(rows)}, {}, {"pool": str(self.pool)}

    def _filter(self, prefix, loop, phase):
        draws = 8 if phase == "rl" else 4
        rows = [
            LedgerRow(
                sample_id=s.id,
                loop=loop,
                phase=Phase(phase),
                success_rate=(rate := self.hits[s.id] / draws),
                mean_reward=rate,
                rollouts=draws,
                policy="p",
                family=s.family,
                dimension=s.dimension,
                source=s.source,
                outcome="mastered" if rate == 1 else "practice" if rate else "intractable",
            )
            for s in self.train
        ]
        write_rows(self._at(prefix, "ledger.parquet"), rows, LedgerRow)
        self.weak = [s for s in self.train if self.hits[s.id] == 0]
        return {"weak": len(self.weak)}, {}, {"pool": str(self.pool)}

    def _distill(self, prefix, loop, phase):
        teacher = [
            {
                "sample_id": s.id,
                "origin": "weak",
                "family": s.family.value,
                "answer_text": f"<think>Teacher looks.</think><answer>B {loop}</answer>",
                "accepted": index % 3 != 0,
                "reason": "" if index % 3 else "wrong",
                "tries": 1 + index % 4,
            }
            for index, s in enumerate(self.weak)
        ]
        teacher += [
            {**row, "sample_id": f"r-{i}", "origin": "assoc", "accepted": True}
            for i, row in enumerate(teacher)
        ]
        schema = {
            "sample_id": pl.String,
            "origin": pl.String,
            "family": pl.String,
            "answer_text": pl.String,
            "accepted": pl.Boolean,
            "reason": pl.String,
            "tries": pl.Int32,
        }
        pl.DataFrame(teacher, schema=schema).write_parquet(self._at(prefix, "teacher.parquet"))
        origins = [o for o, n in (("weak", 30), ("assoc", 28), ("general", 29)) for _ in range(n)]
        pl.DataFrame({"origin": origins}).write_parquet(self._at(prefix, "mixture.parquet"))
        counts = {"rows_weak": 30, "teacher_tokens": 900, "teacher_prompt_tokens": 600}
        return counts | {"teacher_calls": 60}, {}, {"pool": str(self.pool)}

    def _train_rl(self, prefix, loop, phase):
        steps = range(1, 61)
        curve = [
            {
                "step": t,
                "family": f.value,
                "reward": float(0.4 + 0.05 * k + 0.004 * t + self.rng.normal(0, 0.05)),
                "success_rate": 0.5,
                "format": 1.0,
                "think_chars": 60.0 + t / 3,
                "tokens": 30.0,
                "trained_flat": int(k == t % 9),
            }
            for t in steps
            for k, f in enumerate(EMBODIED_FAMILIES)
        ]
        pl.DataFrame(curve).write_parquet(self._at(prefix, "curve.parquet"))
        rows = []
        for t in steps[9::10]:
            values = [0.4 + 0.005 * t + 0.03 * k for k in range(6)]
            for f, ts in zip(EMBODIED_FAMILIES, values, strict=True):
                rows.append({"step": t, "family": f.value, "ts": ts, "mean_ts": sum(values) / 6})
        pl.DataFrame(rows).write_parquet(self._at(prefix, "stagnation.parquet"))
        tokens = {"tokens_generated": 90_000, "tokens_trained": 90_000}
        prompts = {"prompt_tokens": 9_000, "prompt_tokens_trained": 9_000}
        groups = {"groups_trained": 120, "groups_trained_flat": 40}
        return {"steps": 60, **tokens, **prompts, **groups, "reference_tokens": 99_000}, {}, {}

    def _train_sft(self, prefix, loop, phase):
        losses = [{"step": t, "loss": 1.2 / (1 + t / 30)} for t in range(5, 200, 5)]
        pl.DataFrame(losses).write_parquet(self._at(prefix, "curve.parquet"))
        return {"steps": 200, "tokens_trained": 70_000, "prompt_tokens_trained": 80_000}, {}, {}


def commit_again(store: FolderStore, key: str, data: bytes) -> None:
    """Write a file of a finished stage anew, with the manifest that its stage would have written."""
    prefix, _, name = key.rpartition("/")
    store.write(key, data)
    manifest = read_manifest(store, prefix)
    assert name in {output.path for output in manifest.outputs}
    outputs = describe_outputs(store, prefix)
    commit_manifest(store, prefix, manifest.model_copy(update={"outputs": outputs}))
