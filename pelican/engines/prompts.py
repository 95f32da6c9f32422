"""From a sample to token ids: the model's chat template, its media, its padding."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pelican.engines.conversation import conversation
from pelican.engines.vision import ImageSource, Prepared
from pelican.errors import UserInputError
from pelican.records import Sample


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt (and of its completion, if any) with its images."""

    ids: list[int]
    images: list[Prepared]


def messages(sample: Sample, system_prompt: str | None) -> list[dict[str, Any]]:
    """The sample for a processor's chat template, which gets the images apart."""
    return conversation(sample, system_prompt, lambda _: {"type": "image"})


class PromptEncoder:
    """Renders the processor's chat template and expands every image to its tokens."""

    def __init__(self, processor: Any, images: ImageSource, system_prompt: str | None) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.images = images
        self._system_prompt = system_prompt
        self._merge: int = processor.image_processor.merge_size**2
        self.image_token: str = processor.image_token
        self.image_token_id: int = processor.image_token_id
        self.media_token_ids = [processor.image_token_id, processor.video_token_id]
        self.pad_token_id: int = self.tokenizer.pad_token_id
        self.eos_token_id: int = self.tokenizer.eos_token_id

    def prompt(self, sample: Sample) -> Encoded:
        """The prompt, ready for the assistant's first token."""
        text = self._text(sample)
        prepared = self.images.prepare(sample.images)
        parts = text.split(self.image_token)
        pieces = [parts[0]]
        for image, part in zip(prepared, parts[1:], strict=True):
            t, h, w = image.grid
            pieces += [self.image_token * (t * h * w // self._merge), part]
        ids = self.tokenizer("".join(pieces), add_special_tokens=False)["input_ids"]
        return Encoded(ids, prepared)

    def length(self, sample: Sample) -> int:
        """Tokens of the prompt. Of the images only their sizes are read."""
        text: list[int] = self.tokenizer(self._text(sample), add_special_tokens=False)["input_ids"]
        return len(text) + sum(self._tokens(image) - 1 for image in sample.images)

    def _tokens(self, image: bytes) -> int:
        with Image.open(io.BytesIO(image)) as opened:
            width, height = opened.size
        patches: int = self.processor.image_processor.get_number_of_image_patches(height, width)
        return patches // self._merge

    def _text(self, sample: Sample) -> str:
        """The chat as text, with one token for each image.

        Raises UserInputError if the sample's own words hold such a token.
        """
        text: str = self.processor.apply_chat_template(
            messages(sample, self._system_prompt), add_generation_prompt=True, tokenize=False
        )
        if text.count(self.image_token) != len(sample.images):
            raise UserInputError(
                f"sample {sample.id!r} has {len(sample.images)} images and"
                f" {text.count(self.image_token)} places for them; take {self.image_token!r} out of"
                " its text"
            )
        return text

    def completion(self, text: str) -> list[int]:
        """Token ids of a completion, its end token included."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*ids, self.eos_token_id]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of completion ids; special tokens are left out."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def image_inputs(self, prompts: Sequence[Encoded]) -> dict[str, Tensor]:
        """`pixel_values` and `image_grid_thw` of all prompts, one after the other."""
        images = [image for prompt in prompts for image in prompt.images]
        if not images:
            return {}
        return {
            "pixel_values": torch.cat([image.rows for image in images]),
            "image_grid_thw": torch.tensor([image.grid for image in images]),
        }

    def pad(self, rows: Sequence[Sequence[int]], side: str) -> tuple[Tensor, Tensor]:
        """Token ids and mask, shape [len(rows), longest]; `side` is where the padding goes."""
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self.pad_token_id)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
            ids[i, where] = torch.tensor(row)
            mask[i, where] = 1
        return ids, mask

    def token_types(self, ids: Tensor) -> Tensor:
        """`mm_token_type_ids`: 1 where a token stands for an image."""
        return (ids == self.image_token_id).to(torch.int32)
