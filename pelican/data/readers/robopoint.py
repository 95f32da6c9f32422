"""RoboPoint's style: `messages` with role and content, `images` with absolute paths, many turns."""

from __future__ import annotations

from pelican.data.readers.base import Options
from pelican.data.readers.chat import ChatReader, is_chat
from pelican.data.readers.source import Source


class RoboPoint(ChatReader):
    name = "robopoint"
    about = "messages with role and content, images by path, one turn or several"
    field = "messages"

    def sniff(self, source: Source, options: Options) -> float:
        rows = [row for _, row in source.first_rows]
        return 0.9 if any(is_chat(row, "messages", "role", "content") for row in rows) else 0.0


READER = RoboPoint()
