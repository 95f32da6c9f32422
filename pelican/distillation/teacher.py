"""Who answers what the policy could not: an engine in this process, or an endpoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pelican.chat import ChatClient
from pelican.engines.base import Engine
from pelican.engines.endpoint import ask_all
from pelican.recipe import THINK_THEN_ANSWER, Sampling
from pelican.records import Sample

KEY_VARIABLE = "PELICAN_TEACHER_API_KEY"


@dataclass(frozen=True, slots=True)
class Reply:
    """One try of the teacher. `error` says why there is no text."""

    text: str
    tokens: int
    error: str = ""


class Teacher(ABC):
    """A stronger model. It can be wrong: what it says is verified."""

    @abstractmethod
    def answer(
        self, samples: Sequence[Sample], sampling: Sampling, tries: int, seed: int
    ) -> Iterator[list[Reply]]:
        """`tries` replies per sample, in the order of `samples`."""

    def close(self) -> None:
        """End what the teacher started; nothing, unless it has an engine or connections."""
        return None


class EngineTeacher(Teacher):
    """The teacher's checkpoint in an engine of this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def answer(
        self, samples: Sequence[Sample], sampling: Sampling, tries: int, seed: int
    ) -> Iterator[list[Reply]]:
        for rollouts in self._engine.generate(samples, sampling, tries, seed):
            yield [Reply(rollout.completion, rollout.tokens) for rollout in rollouts]

    def close(self) -> None:
        self._engine.close()


class EndpointTeacher(Teacher):
    """An OpenAI-compatible endpoint; `url` ends in /v1. Images travel as data URLs.

    The key comes from PELICAN_TEACHER_API_KEY alone. A busy or failing server is asked again; a
    request that it refuses (too long, say) is that try's error and does not end the stage.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        system_prompt: str | None = None,
        concurrency: int = 8,
        attempts: int = 6,
        backoff_s: float = 1.0,
        timeout_s: float = 600.0,
    ) -> None:
        self._system = system_prompt or THINK_THEN_ANSWER
        self._client = ChatClient(
            url,
            model,
            who="teacher",
            setting="distill.endpoint",
            key_variable=KEY_VARIABLE,
            concurrency=concurrency,
            attempts=attempts,
            backoff_s=backoff_s,
            timeout_s=timeout_s,
        )

    def answer(
        self, samples: Sequence[Sample], sampling: Sampling, tries: int, seed: int
    ) -> Iterator[list[Reply]]:
        for replies in ask_all(self._client, samples, self._system, sampling, tries, seed):
            yield [Reply(reply.text, reply.tokens, reply.error) for reply in replies]

    def close(self) -> None:
        self._client.close()
