"""The registry: versions never change, aliases move once, decisions and overrides are kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from pelican.errors import DamagedError, UserInputError
from pelican.evaluation.gate import Check
from pelican.registry.export import export_folder, inference_service, model_card, storage_uri
from pelican.registry.models import (
    Decision,
    Lineage,
    MovedError,
    list_versions,
    override,
    promote,
    read_aliases,
    read_decisions,
    record_decision,
    register,
    resolve_model,
    rollback,
    set_candidate,
)
from pelican.storage.manifests import now
from pelican.storage.store import FolderStore
from tests.conftest import write_checkpoint


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """A model of three versions; the first is current."""
    found = FolderStore(tmp_path / "store")
    for number in (1, 2, 3):
        made(found, tmp_path / f"checkpoint-{number}", f"run {number}")
    promote(found, "tiny", 1, "test", None)
    return found


def made(store: FolderStore, folder: Path, source: str) -> int:
    lineage = Lineage(origin="run", source=source, parent="tiny:1", run="r", recipe="d")
    return register(store, "tiny", write_checkpoint(folder), lineage, "# card").version


def judged(store: FolderStore, version: int, passed: bool, against: str = "tiny:1") -> Decision:
    check = Check(name="gain", passed=passed, reason=f"gain: {passed}", numbers={"delta": 1.0})
    decision = Decision(
        kind="gate", passed=passed, against=against, checks=[check], by="run r", at=now()
    )
    return record_decision(store, "tiny", version, decision)


def test_one_source_gives_one_version(store: FolderStore, tmp_path: Path) -> None:
    assert made(store, tmp_path / "again", "run 2") == 2
    assert [v.version for v in list_versions(store, "tiny")] == [3, 2, 1]


def test_registrations_at_once_get_numbers_of_their_own(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    checkpoint = write_checkpoint(tmp_path / "checkpoint")

    def add(source: int) -> int:
        lineage = Lineage(origin="imported", source=f"s{source}")
        return register(store, "tiny", checkpoint, lineage).version

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(add, [n % 6 for n in range(24)]))
    assert sorted(set(numbers)) == [1, 2, 3, 4, 5, 6]
    assert all(len({numbers[i] for i in range(24) if i % 6 == n}) == 1 for n in range(6))


def test_a_registration_that_was_cut_off_is_no_version_and_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path / "store")

    def cut(key: str, path: Path) -> None:
        raise OSError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(store, "put", cut)
        with pytest.raises(OSError, match="cut off"):
            made(store, tmp_path / "a", "run 1")
    assert list_versions(store, "tiny") == []
    assert made(store, tmp_path / "b", "run 1") == 1


def test_what_the_gate_passed_becomes_current_and_the_other_previous(store: FolderStore) -> None:
    set_candidate(store, "tiny", 2, "run r")
    judged(store, 2, True)
    after = promote(store, "tiny", 2, "run r", expected=1)
    assert (after.candidate, after.current, after.previous) == (None, 2, 1)
    assert promote(store, "tiny", 2, "run r", expected=1) == after  # again: nothing more happens
    assert rollback(store, "tiny", "me", "worse in the field").current == 1
    assert rollback(store, "tiny", "me").current == 2
    moves = [move.action for move in read_aliases(store, "tiny").history]
    assert moves == ["promote", "candidate", "promote", "rollback", "rollback"]


@pytest.mark.parametrize("decided", [None, False])
def test_without_a_passed_gate_nothing_is_promoted(
    store: FolderStore, decided: bool | None
) -> None:
    if decided is not None:
        judged(store, 2, decided)
    with pytest.raises(UserInputError, match="--override"):
        promote(store, "tiny", 2, "me", expected=1)
    assert read_aliases(store, "tiny").current == 1


def test_an_override_promotes_and_its_reason_is_kept(store: FolderStore) -> None:
    judged(store, 2, False)
    override(store, "tiny", 2, "tiny:1", "me", "the labels were checked by hand")
    assert promote(store, "tiny", 2, "me", expected=1).current == 2
    kinds = [(d.kind, d.passed) for d in read_decisions(store, "tiny", 2)]
    assert sorted(kinds) == [("gate", False), ("override", True)]
    assert "by hand" in read_decisions(store, "tiny", 2)[0].reasons[0]


def test_what_was_judged_against_another_current_is_not_promoted(store: FolderStore) -> None:
    for version in (2, 3):
        judged(store, version, True)
    promote(store, "tiny", 2, "run r", expected=1)
    with pytest.raises(MovedError, match="judged against version 1, but current is 2"):
        promote(store, "tiny", 3, "run r", expected=1)


def test_of_promotions_at_once_one_wins(store: FolderStore) -> None:
    for version in (2, 3):
        judged(store, version, True)

    def attempt(version: int) -> bool:
        try:
            promote(store, "tiny", version, "run r", expected=1)
        except MovedError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(attempt, (2, 3))) == [False, True]
    aliases = read_aliases(store, "tiny")
    assert aliases.previous == 1 and aliases.current in (2, 3)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("other", "there is no model 'other'; there are tiny"),
        ("tiny:9", "no model version tiny:9"),
        ("tiny:best", "neither a number nor one of candidate, current, previous"),
        ("tiny:candidate", "no candidate version"),
        ("../x", "is not 1 to 40 lower-case"),
    ],
)
def test_a_wrong_address_is_named(store: FolderStore, address: str, said: str) -> None:
    with pytest.raises(UserInputError, match=said):
        resolve_model(store, address)


def test_an_export_is_a_whole_checkpoint_with_its_card(store: FolderStore, tmp_path: Path) -> None:
    folder = export_folder(store, resolve_model(store, "tiny"), tmp_path / "out")
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "README.md", "version.json"} <= names
    with pytest.raises(UserInputError, match="is there already"):
        export_folder(store, resolve_model(store, "tiny"), folder)


def test_a_damaged_checkpoint_is_not_exported(store: FolderStore, tmp_path: Path) -> None:
    version = resolve_model(store, "tiny")
    store.write(f"{version.checkpoint}/config.json", b"{} ")
    with pytest.raises(UserInputError, match="not what was registered"):
        export_folder(store, version, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_manifest_for_kserve(store: FolderStore) -> None:
    version = resolve_model(store, "tiny")
    tree = yaml.safe_load(inference_service(version, "s3://b/k", gpus=2, namespace="robots"))
    assert (tree["kind"], tree["apiVersion"]) == (
        "InferenceService",
        "serving.kserve.io/v1beta1",
    )
    model = tree["spec"]["predictor"]["model"]
    assert model["storageUri"] == "s3://b/k" and "--backend=vllm" in model["args"]
    assert model["resources"]["limits"]["nvidia.com/gpu"] == "2"
    with pytest.raises(UserInputError, match="--uri"):
        storage_uri(store, version)


def test_the_card_says_what_is_known_and_what_is_not(store: FolderStore) -> None:
    imported = model_card("tiny", Lineage(origin="imported", source="x"))
    assert "Not evaluated here." in imported and "not known here" in imported
    score = {"score": 41.25, "low": 39.0, "high": 43.5}
    lineage = Lineage(
        origin="run", source="run r", parent="tiny:1", run="r", scores={"embodied": score}
    )
    card = model_card("tiny", lineage, judged(store, 2, False))
    assert "| embodied | 41.2 | 39.0 | 43.5 |" in card and "FAILED: gain: False" in card
    header = yaml.safe_load(card.split("---")[1])
    assert header["pipeline_tag"] == "image-text-to-text"


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"model": ', b"[" * 200_000])
def test_a_damaged_record_hides_no_other(store: FolderStore, tmp_path: Path, damage: bytes) -> None:
    judged(store, 2, True)
    prefix = "registry/tiny/versions/2"
    errors: list[DamagedError] = []
    decision = next(key for key in store.keys(f"{prefix}/decisions"))
    for key in (f"{prefix}/version.json", decision, "registry/tiny/aliases.json"):
        kept = store.read(key)
        store.write(key, damage)
        errors.clear()
        found = [v.version for v in list_versions(store, "tiny", errors.append)]
        read_decisions(store, "tiny", 2, errors.append)
        read_aliases(store, "tiny", errors.append)
        # Aliases without fields are of a model whose first version none has promoted yet.
        assert [key in str(error) for error in errors] == (
            [] if damage == b"{}" and "ali" in key else [True]
        )
        assert found == ([3, 1] if key.endswith("version.json") else [3, 2, 1])
        store.write(key, kept)


def test_a_number_whose_claim_is_damaged_stays_with_its_source(
    store: FolderStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write("registry/tiny/versions/2/claim.json", b"")
    assert made(store, tmp_path / "again", "run 2") == 2
    assert made(store, tmp_path / "new", "run 4") == 4
    assert "versions/2/claim.json is damaged" in capsys.readouterr().err
