"""The completions of one model on one benchmark, kept as they come: a run that was cut off goes on."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ConfigDict

from pelican.errors import UserInputError
from pelican.frozen import Frozen
from pelican.recipe import Sampling
from pelican.records import Rollout


class Settings(Frozen):
    """What determines the completions; another value needs another folder."""

    model_config = ConfigDict(protected_namespaces=())

    benchmark: str
    data: str
    model: str
    sampling: Sampling
    frames: int
    max_pixels: int
    system_prompt: str | None = None
    seed: int = 0


class Answers:
    """`answers.jsonl`: the settings, then a completion per line, kept as they come."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path = path
        self.rollouts: dict[str, Rollout] = {}
        self.refused: dict[str, str] = {}
        self.spans_s: dict[str, float] = {}
        self._head = head = json.dumps({"settings": settings.model_dump(mode="json")})
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8").split("\n")
        if lines[0] != head:
            raise UserInputError(
                f"{path.parent} holds the answers of other settings or data; give another --output"
                " or delete it"
            )
        whole = [lines[0]]
        for line in lines[1:-1]:  # a line that was cut off has no end
            try:
                kept = json.loads(line)
                rollout = Rollout.model_validate(kept["rollout"])
            except (ValueError, KeyError, TypeError):
                continue
            whole.append(line)
            self.rollouts[rollout.sample_id] = rollout
            self.spans_s[rollout.sample_id] = float(kept.get("span_s") or 0.0)
            if kept.get("refused"):
                self.refused[rollout.sample_id] = str(kept["refused"])
        path.write_text("\n".join(whole) + "\n", encoding="utf-8")

    def add(self, rollout: Rollout, span_s: float, refused: str) -> None:
        """Keep one completion, the length of its clip, and why the endpoint gave none."""
        self.rollouts[rollout.sample_id] = rollout
        self.spans_s[rollout.sample_id] = span_s
        if refused:
            self.refused[rollout.sample_id] = refused
        kept = {"rollout": rollout.model_dump(mode="json"), "span_s": span_s, "refused": refused}
        if not self._path.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(self._head + "\n", encoding="utf-8")
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(kept, ensure_ascii=False) + "\n")
