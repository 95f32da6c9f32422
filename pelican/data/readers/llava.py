"""LLaVA's and ShareGPT's conversations: `conversations` with from and value, `image` or `images`."""

from __future__ import annotations

from pelican.data.readers.base import Options
from pelican.data.readers.chat import ChatReader, is_chat
from pelican.data.readers.source import Source


class Llava(ChatReader):
    name = "llava"
    about = "LLaVA and ShareGPT: conversations with from and value, image or images"
    field = "conversations"

    def sniff(self, source: Source, options: Options) -> float:
        rows = [row for _, row in source.first_rows if is_chat(row, self.field, "from", "value")]
        if not rows:
            return 0.0
        return 0.8 if any("image" in row or "images" in row for row in rows) else 0.6


READER = Llava()
