"""Who answers what the policy could not: an engine in this process, or an endpoint."""

from __future__ import annotations

import base64
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pelican.engines.base import Engine, rollout_seed
from pelican.errors import InfrastructureError, UserInputError
from pelican.recipe import THINK_THEN_ANSWER, Sampling
from pelican.records import Sample

if TYPE_CHECKING:
    import httpx

KEY_VARIABLE = "PELICAN_TEACHER_API_KEY"
_MAGIC = {b"\x89PNG": "png", b"RIFF": "webp", b"BM": "bmp"}


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
        import httpx

        if not url.startswith(("http://", "https://")):
            raise UserInputError(f"distill.endpoint {url!r} is not an http(s) URL; give its /v1")
        key = os.environ.get(KEY_VARIABLE)
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._model = model
        self._system = system_prompt or THINK_THEN_ANSWER
        self._concurrency = concurrency
        self._attempts = attempts
        self._backoff_s = backoff_s
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout_s, connect=10.0),
            limits=httpx.Limits(max_connections=concurrency),
        )

    def answer(
        self, samples: Sequence[Sample], sampling: Sampling, tries: int, seed: int
    ) -> Iterator[list[Reply]]:
        running: deque[list[Future[Reply]]] = deque()
        with ThreadPoolExecutor(self._concurrency) as threads:
            try:
                for sample in samples:
                    body = self._body(sample, sampling)
                    seeds = [rollout_seed(seed, sample.id, i) >> 32 for i in range(tries)]
                    running.append([threads.submit(self._ask, {**body, "seed": s}) for s in seeds])
                    if len(running) * tries >= 2 * self._concurrency:  # bounds the images in memory
                        yield [future.result() for future in running.popleft()]
                while running:
                    yield [future.result() for future in running.popleft()]
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def _body(self, sample: Sample, sampling: Sampling) -> dict[str, Any]:
        return {
            "model": self._model,
            "messages": chat_messages(sample, self._system),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
        }

    def _ask(self, body: dict[str, Any]) -> Reply:
        """One reply. Raises InfrastructureError if the server stays unreachable."""
        import httpx
        from tenacity import (
            Retrying,
            retry_if_exception_type,
            stop_after_attempt,
            wait_random_exponential,
        )

        retrying = Retrying(
            retry=retry_if_exception_type((httpx.TransportError, _BusyError)),
            stop=stop_after_attempt(self._attempts),
            wait=wait_random_exponential(multiplier=self._backoff_s, max=60.0),
            reraise=True,
        )
        try:
            for attempt in retrying:
                with attempt:
                    return self._read(self._client.post(self._url, json=body))
        except (httpx.TransportError, _BusyError) as error:
            raise InfrastructureError(
                f"teacher {self._url} did not answer in {self._attempts} attempts"
                f" ({type(error).__name__}: {error}); start it or check distill.endpoint"
            ) from None
        raise AssertionError("tenacity returns or raises")

    def _read(self, response: httpx.Response) -> Reply:
        status = response.status_code
        if status in (408, 409, 425, 429) or status >= 500:
            raise _BusyError(f"status {status}")
        if status in (401, 403):
            raise UserInputError(
                f"teacher {self._url} refuses the key (status {status}); set {KEY_VARIABLE}"
            )
        if status == 404:
            raise UserInputError(
                f"teacher {self._url} has no model {self._model!r} (status 404);"
                " check distill.endpoint and models.teacher"
            )
        if status >= 300:
            return Reply("", 0, f"the endpoint refused the request (status {status})")
        try:
            content = response.json()
            message = content["choices"][0]["message"]
            text, thought = message.get("content") or "", message.get("reasoning_content") or ""
            tokens = int((content.get("usage") or {}).get("completion_tokens") or 0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return Reply("", 0, "the endpoint's reply is not a chat completion")
        if thought and "<think>" not in text:  # servers that split the thinking off
            text = f"<think>{thought}</think>{text}"
        return Reply(text.encode("utf-8", "replace").decode(), tokens)


class _BusyError(Exception):
    """The server can't answer now; it may later."""


def chat_messages(sample: Sample, system_prompt: str) -> list[dict[str, Any]]:
    """The sample as OpenAI messages; frames of a clip stand each after its time."""
    media: list[dict[str, Any]] = []
    for time, image in zip(sample.times_s, sample.images, strict=True):
        if sample.media_kind == "clip":
            media.append({"type": "text", "text": f"{time:g} s"})
        media.append({"type": "image_url", "image_url": {"url": _data_url(image)}})
    chat: list[dict[str, Any]] = [{"role": "system", "content": system_prompt}]
    first_user = next(i for i, turn in enumerate(sample.turns) if turn.role == "user")
    for i, turn in enumerate(sample.turns):
        text = {"type": "text", "text": turn.text}
        chat.append(
            {"role": turn.role, "content": [*media, text] if i == first_user else turn.text}
        )
    return chat


def _data_url(image: bytes) -> str:
    kind = next((kind for magic, kind in _MAGIC.items() if image.startswith(magic)), "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
