"""The engine on an OpenAI-compatible endpoint, such as a running vLLM: a policy served elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pelican.base.endpoint import ChatClient, ChatReply
from pelican.base.process import in_order
from pelican.config.recipe import Sampling
from pelican.data.images import seen_bytes
from pelican.engines.base import Engine, conversation, rollout_seed
from pelican.records import Rollout, Sample

KEY_VARIABLE = "PELICAN_POLICY_API_KEY"
_MAGIC = {b"\x89PNG": "png", b"RIFF": "webp", b"BM": "bmp"}


class EndpointEngine(Engine):
    """Completions of a served policy. Images travel as data URLs.

    A request that the endpoint refuses gives an empty completion; `refused` has the reason, by sample.
    """

    def __init__(self, client: ChatClient, system_prompt: str | None) -> None:
        self.refused: dict[str, str] = {}
        self._client = client
        self._system_prompt = system_prompt

    def generate(
        self, samples: Iterable[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[list[Rollout]]:
        samples = list(samples)
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
                    prompt_tokens=reply.prompt_tokens,
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
    """Replies of an endpoint, several requests at a time.

    Args:
        client: Of the endpoint, which says how many requests.
        samples: What is asked.
        system_prompt: In front of each sample's turns, None for none.
        sampling: Temperature, top-p and length.
        n: Replies per sample.
        seed: Of the stage; each reply has one of its own, which depends on it.

    Yields:
        `n` replies, for one sample after the other.

    Raises:
        InfrastructureError: The endpoint is away.
        UserInputError: It refuses the key or has no such model.
    """

    def requests() -> Iterator[dict[str, Any]]:
        for sample in samples:
            body = {
                "messages": conversation(sample, system_prompt, _image_part),
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


def _image_part(image: bytes) -> dict[str, Any]:
    image = seen_bytes(image)  # who serves the policy decodes as it likes
    kind = next((kind for magic, kind in _MAGIC.items() if image.startswith(magic)), "jpeg")
    url = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
