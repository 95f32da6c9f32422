"""A policy that is served elsewhere: an OpenAI-compatible endpoint, such as a running vLLM."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any

from pelican.chat import ChatClient, ChatReply
from pelican.engines.base import Engine, rollout_seed
from pelican.recipe import Sampling
from pelican.records import Rollout, Sample
from pelican.threads import in_order

KEY_VARIABLE = "PELICAN_POLICY_API_KEY"
_MAGIC = {b"\x89PNG": "png", b"RIFF": "webp", b"BM": "bmp"}


class EndpointEngine(Engine):
    """Completions of a served policy. Images travel as data URLs.

    A request that the server refuses gives an empty completion; `refused` keeps why, by sample.
    """

    def __init__(self, client: ChatClient, system_prompt: str | None) -> None:
        self.refused: dict[str, str] = {}
        self._client = client
        self._system_prompt = system_prompt

    def generate(
        self, samples: Sequence[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[list[Rollout]]:
        answers = ask_all(self._client, samples, self._system_prompt, sampling, n, seed)
        for sample, replies in zip(samples, answers, strict=True):
            for reply in replies:
                if reply.error:
                    self.refused[sample.id] = reply.error
            yield [
                Rollout(
                    sample_id=sample.id,
                    index=index,
                    seed=rollout_seed(seed, sample.id, index),
                    completion=reply.text,
                    tokens=reply.tokens,
                    finish=reply.finish,
                )
                for index, reply in enumerate(replies)
            ]

    def close(self) -> None:
        self._client.close()


def ask_all(
    client: ChatClient,
    samples: Sequence[Sample],
    system_prompt: str | None,
    sampling: Sampling,
    n: int,
    seed: int,
) -> Iterator[list[ChatReply]]:
    """`n` replies per sample in the order of `samples`, several requests at a time."""

    def requests() -> Iterator[dict[str, Any]]:
        for sample in samples:
            body = {
                "messages": chat_messages(sample, system_prompt),
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_tokens,
            }
            for index in range(n):
                # 31 bits: some servers take no larger seed
                yield {**body, "seed": rollout_seed(seed, sample.id, index) >> 32}

    replies = in_order(client.ask, requests(), client.concurrency)
    for _ in samples:
        yield [next(replies) for _ in range(n)]


def chat_messages(sample: Sample, system_prompt: str | None) -> list[dict[str, Any]]:
    """The sample as OpenAI messages; frames of a clip stand each after its time."""
    media: list[dict[str, Any]] = []
    for time, image in zip(sample.times_s, sample.images, strict=True):
        if sample.media_kind == "clip":
            media.append({"type": "text", "text": f"{time:g} s"})
        media.append({"type": "image_url", "image_url": {"url": _data_url(image)}})
    chat: list[dict[str, Any]] = []
    if system_prompt:
        chat.append({"role": "system", "content": system_prompt})
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
