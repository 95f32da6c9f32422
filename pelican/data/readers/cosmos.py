"""The style of Cosmos-Reason data: `conversations`, `video` a list, a `<video>` tag in the text."""

from __future__ import annotations

from pelican.data.readers.base import Options
from pelican.data.readers.chat import ChatReader, is_chat
from pelican.data.readers.source import Source


class Cosmos(ChatReader):
    name = "cosmos"
    about = "conversations with from and value, video a list, <video> in the text"
    field = "conversations"

    def sniff(self, source: Source, options: Options) -> float:
        rows = [row for _, row in source.first_rows if is_chat(row, self.field, "from", "value")]
        return 0.9 if any(isinstance(row.get("video"), list) for row in rows) else 0.0


READER = Cosmos()
