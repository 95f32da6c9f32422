"""Events to batches: each event in exactly one, whoever seals, and whenever somebody is killed."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelican.retrain.records import find_version
from pelican.retrain.trigger.config import TriggerConfig
from pelican.retrain.trigger.inbox import Inbox
from pelican.retrain.trigger.worker import prune
from pelican.storage.store import FolderStore
from tests.retrain.trigger.services import Clock, event


class KilledError(BaseException):
    """Where a process would be gone."""


class Dying(FolderStore):
    """A store whose process is killed before its `alive`-th change."""

    alive = 10**9

    def _spend(self) -> None:
        self.alive -= 1
        if self.alive < 0:
            raise KilledError

    def write(self, *given: object, **named: object) -> bool:
        self._spend()
        return super().write(*given, **named)  # type: ignore[arg-type]

    def delete(self, key: str) -> None:
        self._spend()
        super().delete(key)


def inbox(folder: Path, clock: Clock | None = None, **changes: object) -> Inbox:
    config = TriggerConfig.model_validate({"quiet_s": 10, "max_wait_s": 60, **changes})
    return Inbox(Dying(folder), config, clock or Clock())


def batches(box: Inbox) -> list[list[str]]:
    head, _ = box.settle()
    numbers = range(1, head.number + 1) if head else ()
    return [[e.key for e in box.batch(n).events] for n in numbers]


def test_the_same_event_a_hundred_times_counts_once(tmp_path: Path) -> None:
    box = inbox(tmp_path)
    results = [box.receive(event(1)) for _ in range(100)]
    assert results == ["new"] + 99 * ["duplicate"]
    assert len(box.pending()) == 1
    assert box.seal(at_once=True) is not None
    assert box.receive(event(1)) == "duplicate"
    assert box.seal(at_once=True) is None and box.pending() == []


@pytest.mark.parametrize(
    ("ages", "due"),
    [
        ([], None),
        ([0], None),
        ([9.9, 0], None),
        ([30, 10], "quiet"),
        ([60, 40, 20, 1], "first waited"),
        ([59, 40, 20, 1], None),
        ([1, 1, 1, 1, 1], "5 objects"),
    ],
)
def test_when_a_batch_is_whole(tmp_path: Path, ages: list[float], due: str | None) -> None:
    clock = Clock()
    box = inbox(tmp_path, clock, max_objects=5)
    for number, age in enumerate(ages):
        clock.now = 1000.0 - age
        box.receive(event(number))
    clock.now = 1000.0
    why = box.due(box.pending())
    assert (why is None) if due is None else (why is not None and due in why)


def test_of_two_versions_of_a_key_the_newer_counts_in_any_order(tmp_path: Path) -> None:
    old, new = event(1, "a", "0A1"), event(1, "b", "0A2")
    for name, order in {"in order": [old, new], "out of order": [new, old]}.items():
        box = inbox(tmp_path / name)
        for one in order:
            box.receive(one)
        sealed = box.seal(at_once=True)
        assert sealed is not None and sealed.data is not None
        objects = find_version(box.store, sealed.data).objects
        assert [(o.key, o.tag) for o in objects] == [(new.key, "b")], name
    assert box.receive(old) == "superseded"


def test_a_sequencer_is_compared_as_s3_says() -> None:
    assert event(1, sequencer="0A").older_than("0A1")
    assert not event(1, sequencer="0A1").older_than("0A")
    assert event(1, sequencer="9").older_than("A")
    assert not event(1).older_than("A")


def test_many_replicas_put_every_event_into_one_batch(tmp_path: Path) -> None:
    boxes = [inbox(tmp_path) for _ in range(4)]
    events = [event(n) for n in range(30)]

    def work(number: int) -> None:
        chosen = random.Random(number)
        for one in chosen.sample(events, len(events)):
            boxes[number % 4].receive(one)
            if chosen.random() < 0.2:
                boxes[number % 4].seal(at_once=True)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    while boxes[0].seal(at_once=True) is not None:
        pass
    sealed = [key for batch in batches(boxes[0]) for key in batch]
    assert sorted(sealed) == sorted(e.key for e in events)
    assert boxes[0].pending() == []


@settings(max_examples=60)
@given(
    actions=st.lists(st.tuples(st.sampled_from("rs"), st.integers(0, 3)), min_size=1, max_size=12),
    deaths=st.lists(st.integers(0, 12), max_size=6),
)
def test_no_event_is_lost_or_doubled_wherever_a_replica_is_killed(
    tmp_path_factory: pytest.TempPathFactory,
    actions: list[tuple[str, int]],
    deaths: list[int],
) -> None:
    box = inbox(tmp_path_factory.mktemp("store"))
    store = box.store
    assert isinstance(store, Dying)
    kept: set[str] = set()
    left = iter(deaths)
    for action, number in actions:
        store.alive = next(left, 10**9)
        try:
            if action == "r":
                box.receive(event(number))
                kept.add(event(number).key)  # it was answered: so it must never be lost
            else:
                box.seal(at_once=True)
        except KilledError:
            pass
    store.alive = 10**9
    for number in range(4):  # the senders of what was never answered try again
        if event(number).key not in kept:
            box.receive(event(number))
    while box.seal(at_once=True) is not None:
        pass
    sealed = [key for batch in batches(box) for key in batch]
    assert sorted(sealed) == sorted(event(n).key for n in range(4))


def test_what_is_old_and_settled_is_forgotten(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    inbox = Inbox(store, TriggerConfig())
    inbox.receive(event(1))
    inbox.seal(at_once=True)
    inbox.receive(event(2))
    store.write("trigger/requests/a.json", b"{}")
    assert prune(store, 3600.0) == 0
    assert prune(store, -60.0) == 4  # a mark, two keys, a request
    assert inbox.receive(event(2)) == "duplicate", "it waits for its batch"
    batch = inbox.seal(at_once=True)
    assert batch is not None
    assert [e.id for e in batch.events] == [event(2).id]
    assert prune(store, -60.0) == 2
    assert prune(store, -60.0) == 0
