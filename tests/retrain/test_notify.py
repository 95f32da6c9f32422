"""The notice of a verdict: what is sent to a real receiver, signed, and when it is not sent again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import SecretStr

from pelican.retrain.notify import notify
from pelican.retrain.records import Verdict, write_verdict
from pelican.retrain.trigger.service import authenticate
from pelican.storage.manifests import now
from pelican.storage.store import FolderStore
from tests.endpoints import Request, serving

SECRET = "a-secret-of-the-tests"


@dataclass
class Receiver:
    """Keeps what it is sent; answers with the statuses it was given, then with 200."""

    got: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    def take(self, request: Request) -> tuple[int, bytes]:
        self.got.append((request.headers, request.body))
        return (self.statuses.pop(0) if self.statuses else 200), b""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    receiver = Receiver()
    with serving(receiver.take) as address:
        monkeypatch.setenv("PELICAN_NOTIFY_URL", f"{address}/hook")
        monkeypatch.setenv("PELICAN_NOTIFY_SECRET", SECRET)
        monkeypatch.setenv("PELICAN_NOTIFY_LINK", "https://pelican.example/runs/{run}")
        monkeypatch.setattr("pelican.retrain.notify.WAIT_S", 0.0)
        yield receiver


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
    assert notify(store, "r") == "sent before" and len(receiver.got) == 1


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
