"""The notice of a verdict: what is sent to a real receiver, signed, and when it is not sent again."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from pelican.retrain.notify import notify
from pelican.retrain.records import Verdict, write_verdict
from pelican.storage.manifests import now
from pelican.storage.objects import FolderStore
from pelican.trigger.auth import authenticate

SECRET = "a-secret-of-the-tests"


class Receiver(HTTPServer):
    """Keeps what it is sent; answers with the statuses it was given, then with 200."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PELICAN_NOTIFY_URL", f"http://127.0.0.1:{server.server_port}/hook")
        monkeypatch.setenv("PELICAN_NOTIFY_SECRET", SECRET)
        monkeypatch.setenv("PELICAN_NOTIFY_LINK", "https://pelican.example/runs/{run}")
        monkeypatch.setattr("pelican.retrain.notify.WAIT_S", 0.0)
        yield server
        server.shutdown()


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    found = FolderStore(tmp_path)
    verdict = Verdict(
        outcome="refused",
        run="r",
        data="d-1",
        parent="tiny:1",
        version="tiny:2",
        reasons=["gain: none"],
        at=now(),
    )
    write_verdict(found, verdict)
    return found


def test_a_verdict_is_sent_once_signed_with_reasons_and_a_link(
    receiver: Receiver, store: FolderStore
) -> None:
    assert notify(store, "r") == "sent"
    ((headers, body),) = receiver.got
    sender = authenticate(headers, body, [], [SecretStr(SECRET)], 300, time.time())
    assert sender.request_id == "r-refused"
    told = json.loads(body)
    assert told["text"].splitlines() == [
        "tiny:2 on d-1: refused",
        "- gain: none",
        "https://pelican.example/runs/r",
    ]
    assert notify(store, "r") == "told before" and len(receiver.got) == 1


def test_a_failed_run_is_told_of_too(receiver: Receiver, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "other")
    store.write("runs/r/failure.json", json.dumps({"message": "the pool is empty"}).encode())
    assert notify(store, "r") == "sent"
    assert "failed: the pool is empty" in json.loads(receiver.got[0][1])["text"]


@pytest.mark.parametrize(
    ("statuses", "result", "tries"),
    [([500, 503], "sent", 3), ([500] * 9, "the receiver answered 500", 3), ([404], "404", 1)],
)
def test_a_receivers_error_is_tried_again_and_ends_no_run(
    receiver: Receiver, store: FolderStore, statuses: list[int], result: str, tries: int
) -> None:
    receiver.statuses = statuses
    said = notify(store, "r")
    assert said is not None and result in said and len(receiver.got) == tries


def test_nobody_is_told_without_an_address_or_with_a_wrong_one(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert notify(store, "r") is None
    monkeypatch.setenv("PELICAN_NOTIFY_URL", "file:///etc/passwd")
    assert "not an http address" in str(notify(store, "r"))
