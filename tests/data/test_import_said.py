"""What an import tells a person: where media may lie, why rows were left out, what did not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pelican.cli.data import Wishes, import_source
from pelican.data.formats.base import record_key
from pelican.data.importing.media import Finder
from pelican.data.tables import RowError
from pelican.data.versions import read_version
from tests.data.formats.world import image, imported, write_json


def asked(name: str, answer: str = "2") -> dict[str, Any]:
    return {
        "id": name,
        "messages": [
            {"role": "user", "content": "<image>\nHow many cups are there?"},
            {"role": "assistant", "content": answer},
        ],
        "images": [name],
    }


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("lab/pictures/a.jpg", "; --map lab={root} would find it"),
        ("/mnt/x/lab/pictures/a.jpg", "; --map /mnt/x/lab={root} would find it"),
        ("a.jpg", "; --media {root}/pictures would find it"),
        ("deep/b.jpg", "; --media {root}/pictures would find it"),
        ("b.jpg", "; --media {root}/pictures/deep would find it"),
        ("nowhere.jpg", ""),
        ("/mnt/nowhere.jpg", "; --map OLD=NEW says where they lie"),
        ("../lab/pictures/gone.jpg", ""),
        ("x/" + "a" * 300 + ".jpg", ""),
        ("/" + "a" * 300 + ".jpg", "; --map OLD=NEW says where they lie"),
    ],
)
def test_a_missing_medium_names_the_option_that_would_find_it(
    tmp_path: Path, path: str, hint: str
) -> None:
    root = tmp_path / "lab"
    image(root / "pictures" / "a.jpg")
    image(root / "pictures" / "deep" / "b.jpg")
    with pytest.raises(RowError) as caught:
        Finder((root,)).find(path)
    assert caught.value.code in ("media_missing", "media_path")
    assert caught.value.reason.endswith(hint.format(root=root))
    assert hint or "--m" not in caught.value.reason


def test_the_table_gives_the_first_reason_of_each_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image(tmp_path / "lab" / "a.jpg")
    cut = image(tmp_path / "lab" / "cut.jpg").read_bytes()
    (tmp_path / "lab" / "cut.jpg").write_bytes(cut[: len(cut) // 2])
    write_json(tmp_path / "lab" / "rows.json", [asked("a.jpg"), asked("b.jpg"), asked("cut.jpg")])
    import_source(str(tmp_path / "lab"), tmp_path / "pool", Wishes(workers=1))
    said = " ".join(capsys.readouterr().out.split())
    assert "1 row (1 new); 2 left out" in said
    assert "media_missing 1 rows.json, row 2: 'b.jpg' is below none of the media folders" in said
    assert "image_unreadable 1 rows.json, row 3: 'cut.jpg': an image can't be decoded" in said


def test_options_that_changed_since_are_said_not_to_reach_the_rows_that_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = tmp_path / "pool"
    for name in ("lab", "other"):
        image(tmp_path / name / "a.jpg")
        write_json(tmp_path / name / "rows.json", [asked("a.jpg")])
    image(tmp_path / "lab" / "b.jpg", seed=1)

    def said(where: str, **wishes: Any) -> str:
        import_source(str(tmp_path / where), pool, Wishes(workers=1, **wishes))
        return capsys.readouterr().out

    assert "changed since" not in said("lab")
    assert "changed since" not in said("lab")
    assert "--license changed since" in said("lab", license="mit")
    write_json(tmp_path / "lab" / "rows.json", [asked("a.jpg"), asked("b.jpg")])
    more = said("lab", license="mit", step_s=2.0)
    assert "2 rows (1 new, 1 were there)" in more and "--license, --step-s changed since" in more
    assert "changed since" not in said("other", name="else")  # another source has its own


def test_frames_of_open_eqa_lie_beside_its_file_as_published(tmp_path: Path) -> None:
    """The repository: data/open-eqa-v0.json and data/frames/<episode_history>/."""
    episode = "hm3d-v0/000-hm3d-abc"
    for number in range(4):
        image(tmp_path / "repo" / "data" / "frames" / episode / f"{number:05d}-rgb.png", number)
    row = {"question": "What is it?", "answer": "a fan", "category": "object recognition"}
    rows = [
        {**row, "question_id": "q1", "episode_history": episode},
        {**row, "question_id": "q2", "episode_history": "hm3d-v0/404"},
        {**row, "question_id": "q3", "episode_history": "x" * 300},
    ]
    write_json(tmp_path / "repo" / "data" / "open-eqa-v0.json", rows)
    found = imported(tmp_path / "repo", tmp_path / "pool")
    assert found.reader == "openeqa"
    assert {name: s.scene for name, s in found.samples.items()} == {"openeqa/q1": episode}
    assert found.samples["openeqa/q1"].times_s == (0.0, 1.0, 2.0, 3.0)
    assert set(found.bad) == {"q2", "q3"}


def test_a_link_among_frames_that_leads_out_is_not_followed(tmp_path: Path) -> None:
    secret = image(tmp_path / "elsewhere" / "secret.png", 9)
    for episode in ("fine", "led"):
        for number in range(3):
            image(tmp_path / "repo" / "frames" / episode / f"{number}.png", number)
    inside = tmp_path / "repo" / "frames" / "fine" / "3.png"
    inside.symlink_to(tmp_path / "repo" / "frames" / "led" / "0.png")
    (tmp_path / "repo" / "frames" / "led" / "3.png").symlink_to(secret)
    row = {"question": "What is it?", "answer": "a fan", "category": "object recognition"}
    rows = [{**row, "question_id": e, "episode_history": e} for e in ("fine", "led")]
    write_json(tmp_path / "repo" / "open-eqa-v0.json", rows)
    found = imported(tmp_path / "repo", tmp_path / "pool")
    assert len(found.samples["openeqa/fine"].images) == 4
    assert found.bad == {"led": "media_path"}
    assert found.reasons["led"].endswith("leaves the media folder")


def test_keys_by_which_rows_are_known_again_stay_what_they_were() -> None:
    """Another digest would make every row of every pool a new one."""
    row = {"b": [1, 2.5, "ä", None, True], "a": b"x", "c": {"d": float("inf")}}
    assert record_key(row) == "f08fc4620ae14abed3eb2c5c"


def test_the_version_does_not_depend_on_how_many_work_on_it(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(41)]
    for number, name in enumerate(names[:-1]):
        image(tmp_path / "lab" / name, number)
    write_json(tmp_path / "lab" / "rows.json", [asked(name) for name in [*names, names[3]]])
    found = {}
    for workers in (1, 2, 5):
        pool = imported(tmp_path / "lab", tmp_path / f"pool-{workers}", workers=workers).pool
        version = read_version(pool)
        assert version is not None and (version.rows, version.quarantined) == (40, 2)
        found[workers] = version.id
    assert len(set(found.values())) == 1
