"""Polling with a watermark; and what a worker does with a batch, tick by tick."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from pelican.retrain.plan import Plan
from pelican.retrain.records import Verdict, write_verdict
from pelican.retrain.trigger.config import Decision, Metrics, TriggerConfig, read_config
from pelican.retrain.trigger.inbox import Inbox
from pelican.retrain.trigger.poll import keep_polling, poll
from pelican.retrain.trigger.worker import Status, Worker
from pelican.storage.manifests import now
from pelican.storage.store import FolderStore
from tests.retrain.trigger.services import Clock, event, store_with_model


class Runs:
    """Starts nothing; says of its runs what the test says."""

    def __init__(self, store: FolderStore) -> None:
        self.store = store
        self.started: list[tuple[str, str, str]] = []
        self.state = "running"
        self.failing = False

    def plan(self, data: str, model: str) -> Plan:
        return Plan(f"run-{data[-10:]}", data, model, [], False)

    def start(self, data: str, model: str, run: str) -> None:
        self.started.append((data, model, run))
        if self.failing:
            raise OSError("killed between the note and the start")

    def look(self, run: str) -> tuple[str, str]:
        if self.state == "complete":
            verdict = Verdict(
                outcome="promoted", run=run, data="d", parent="tiny:1", reasons=["r"], at=now()
            )
            write_verdict(self.store, verdict)
        return self.state, "said so"

    def stop(self) -> None:
        return None


CONFIG = TriggerConfig.model_validate(
    {"quiet_s": 10, "lease_s": 30, "backoff_s": 5, "attempts": 3, "tick_s": 0.01}
)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return store_with_model(tmp_path)


def worker(store: FolderStore, runs: Runs, clock: Clock) -> Worker:
    return Worker(store, CONFIG, runs, Metrics(), clock)


def status(store: FolderStore, number: int = 1) -> Status:
    return Status.model_validate_json(store.read(f"trigger/status/{number:06d}.json"))


def test_a_batch_is_started_followed_and_finished_in_order(store: FolderStore) -> None:
    runs, clock = Runs(store), Clock()
    one = worker(store, runs, clock)
    for number in (1, 2):
        one.inbox.receive(event(number))
        clock.now += 20
        one.tick()
    assert len(runs.started) == 1  # the second batch waits for the first
    runs.state = "complete"
    one.tick()
    one.tick()
    assert [status(store, n).state for n in (1, 2)] == ["done", "started"]
    assert status(store).outcome == "promoted" and len(runs.started) == 2
    assert runs.started[0][1] == "tiny:1"


def decided(one: Worker) -> Counter[str]:
    """How often the worker decided what."""
    (found,) = (m for m in one.metrics.registry.collect() if m.name == "pelican_trigger_decisions")
    samples = [s for s in found.samples if s.name.endswith("_total")]
    assert {s.labels["decision"] for s in samples} == set(get_args(Decision))
    return Counter({s.labels["decision"]: int(s.value) for s in samples})


def test_every_tick_counts_what_it_decided_and_why_it_waits(store: FolderStore) -> None:
    runs, clock = Runs(store), Clock()
    one, two = worker(store, runs, clock), worker(store, runs, clock)

    def tick(of: Worker = one) -> dict[str, int]:
        before = decided(of)
        of.tick()
        return dict(decided(of) - before)

    assert tick() == {"idle": 1}
    one.inbox.receive(event(1))
    assert tick() == {"quiet": 1}
    clock.now += 20
    assert tick() == {"sealed": 1, "started": 1}
    assert tick() == {"running": 1}
    assert tick(two) == {"held": 1}
    runs.state = "lost"
    assert tick() == {"backoff": 1}
    clock.now += 6
    assert tick() == {"started": 1}
    two.inbox.receive(event(2))
    runs.state = "complete"
    assert tick() == {"quiet": 1, "finished": 1}


def test_another_replica_takes_over_after_the_lease_and_not_before(store: FolderStore) -> None:
    runs, clock = Runs(store), Clock()
    one, two = worker(store, runs, clock), worker(store, runs, clock)
    one.inbox.receive(event(1))
    clock.now += 20
    runs.failing = True
    with pytest.raises(OSError, match="killed"):
        one.tick()  # noted, and then gone
    runs.failing, runs.state = False, "lost"
    clock.now += 20
    two.tick()
    assert status(store).owner == one.replica and len(runs.started) == 1
    clock.now += 20
    two.tick()
    assert status(store).owner == two.replica
    assert runs.started[0] == runs.started[1], "the same run, so it can't be doubled"
    runs.state = "complete"
    one.tick()  # the first comes back, and has nothing to say
    assert status(store).state == "started"
    two.tick()
    assert status(store).state == "done"


def test_the_model_version_is_pinned_before_the_first_start(store: FolderStore) -> None:
    runs, clock = Runs(store), Clock()
    one = worker(store, runs, clock)
    one.inbox.receive(event(1))
    clock.now += 20
    one.tick()
    store.write("registry/tiny/aliases.json", b'{"current": 9}')
    runs.state = "lost"
    clock.now += 20
    one.tick()
    assert [model for _, model, _ in runs.started] == ["tiny:1", "tiny:1"]


def test_after_its_attempts_a_batch_fails_and_the_next_has_its_turn(store: FolderStore) -> None:
    runs, clock = Runs(store), Clock()
    runs.state = "lost"
    one = worker(store, runs, clock)
    one.inbox.receive(event(1))
    for _ in range(10):
        clock.now += 100
        one.tick()
    assert (len(runs.started), status(store).state) == (3, "failed")
    assert status(store).outcome == "said so" and one.all_finished()


def test_a_refused_run_is_not_tried_again(store: FolderStore) -> None:
    runs, clock = Runs(store), Clock()
    runs.state = "refused"
    one = worker(store, runs, clock)
    one.inbox.receive(event(1))
    for _ in range(5):
        clock.now += 100
        one.tick()
    assert (len(runs.started), status(store).state) == (1, "failed")


def drop(source: FolderStore, *names: str, data: bytes = b"1") -> None:
    for name in names:
        source.write(f"incoming/{name}", data)


def test_polling_tells_of_an_object_once(tmp_path: Path) -> None:
    source, store = FolderStore(tmp_path / "bucket"), FolderStore(tmp_path / "store")
    inbox = Inbox(store, TriggerConfig(prefix="incoming/"))
    drop(source, "b.parquet", "note.txt")
    source.write("other/x.parquet", b"1")
    assert [poll(source, inbox) for _ in range(2)] == [1, 0]
    drop(source, "a.parquet")  # before the last one by name
    assert [poll(source, inbox) for _ in range(2)] == [1, 0]
    drop(source, "b.parquet", data=b"2")
    assert [poll(source, inbox), poll(source, inbox, rescan=True)] == [0, 1]
    keys = [p.event.key for p in inbox.pending()]
    assert sorted(keys) == ["incoming/a.parquet", "incoming/b.parquet", "incoming/b.parquet"]


def test_a_poll_that_was_cut_off_is_repeated_without_doubling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, store = FolderStore(tmp_path / "bucket"), FolderStore(tmp_path / "store")
    inbox = Inbox(store, TriggerConfig(prefix="incoming/"))
    drop(source, *(f"{n}.parquet" for n in range(5)))
    with monkeypatch.context() as patch:
        patch.setattr("pelican.retrain.trigger.poll.WATERMARK", "../outside")
        with pytest.raises(Exception, match="leaves the store"):
            poll(source, inbox)
    assert poll(source, inbox) <= 5 and len(inbox.pending()) == 5


def test_polling_once_starts_the_batch_and_ends_with_it(store: FolderStore) -> None:
    runs = Runs(store)
    runs.state = "complete"
    drop(store, "a.parquet", "b.parquet")
    config = CONFIG.model_copy(update={"prefix": "incoming/"})
    assert keep_polling(store, config, runs, once=True) == 2
    assert runs.started == []  # not quiet yet; the events wait in the store
    assert keep_polling(store, config, runs, once=True, at_once=True) == 0
    assert len(runs.started) == 1 and status(store).state == "done"


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PELICAN_TRIGGER_QUIET_S": "soon"}, "PELICAN_TRIGGER_QUIET_S does not fit"),
        ({"PELICAN_TRIGGER_TOKENS": "short"}, "16 or more"),
        ({"PELICAN_TRIGGER_TOKENS_FILE": "/nowhere"}, "can't be read"),
    ],
)
def test_a_wrong_setting_is_named(variables: dict[str, str], words: str) -> None:
    with pytest.raises(Exception, match=words):
        read_config(variables)


def test_secrets_come_from_files_and_are_not_shown(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("the-first-token-000\nthe-second-token-00\n")
    config = read_config({"PELICAN_TRIGGER_TOKENS_FILE": str(tmp_path / "tokens")})
    assert len(config.tokens) == 2 and "the-first" not in repr(config)
