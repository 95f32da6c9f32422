"""Each layout through the command, against a real HTTP server; resuming, refusals, formats."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pelican.cli.benchmark import run
from pelican.data.tables import RowError
from pelican.errors import InfrastructureError, UserInputError
from pelican.evaluation.metrics import read_results, summarise
from pelican.evaluation.published import BENCHMARKS
from pelican.evaluation.published.base import Clip
from pelican.evaluation.published.load import LeftOut, load, read_frames
from tests.data.factory import picture
from tests.endpoints import Chat, chatting, prompt_of
from tests.evaluation.published.layouts import LAYOUTS, image, video


@pytest.fixture
def server() -> Iterator[Chat]:
    with chatting(lambda body: "B") as chat:
        yield chat


def score(
    name: str, data: Path, model: str, output: Path, *overrides: str, **options: Any
) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "limit": None,
        "frames": 4,
        "served_model": None,
        "concurrency": 2,
        "judge": None,
        "judge_model": None,
    }
    run(name, data, model, "tiny", list(overrides), output=output, **{**settings, **options})
    found: dict[str, Any] = json.loads((output / "scores.json").read_text())
    return found


# name -> reply, overall, quarantined, images of the first request, a part of its prompt
EXPECTED: dict[str, tuple[str, float, dict[str, int], int, str]] = {
    "vsibench": ("4", (100 + 0) / 2, {"answer": 1}, 4, "These are frames of a video.\nHow many"),
    "where2place": ("(0.2, 0.5), (0.8, 0.5)", 50.0, {"image_missing": 1}, 1, "Where?"),
    "refspatial": ("(0.2, 0.5)", 100.0, {"image_path": 1}, 1, "Point at it. As a list."),
    "robospatial": ("yes (0.4, 0.3)", 100.0, {"answer": 1}, 1, "Does it fit?"),
    "erqa": ("B.", 100.0, {"image_unreadable": 1}, 2, "Which one? A. x B. y"),
    "egoschema": ("E", 50.0, {"answer": 1}, 4, "C do?\nA. choice 0\nB. choice 1"),
    "mvbench": ("(B)", 100.0, {"answer": 1}, 4, "Question:What?\nOption:\n(A) open\n(B) close\n"),
    "phyx": ("The answer is D", 50.0, {"answer": 1}, 1, "Which?"),
    "omnispatial": ("Answer: B", 50.0, {"answer": 1}, 1, "How?\nA. a\nB. b"),
    "blink": ("(B) y", 100.0, {"answer": 1}, 1, "respond with A, B without"),
    "embspatial": ("D) d", 50.0, {"answer": 1}, 1, "Which?\nA) a\nB) b\nC) c\nD) d"),
    "cosmos": ("<answer>A</answer>", 50.0, {"image_missing": 1}, 4, "Safe?\n(A) yes\n(B) no\n"),
    "mmstar": ("B", 100.0, {"duplicate_id": 1}, 1, "y\nAnswer with the option's letter"),
    "openeqa": ("A fan.", 75.0, {"image_missing": 1}, 3, "What is on the wall?"),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_folder_in_the_published_layout_is_scored(
    name: str, server: Chat, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reply, overall, quarantined, images, prompt = EXPECTED[name]
    judged = {"judge": server.url, "judge_model": "judge"} if name == "openeqa" else {}
    server.answer = lambda body: "4" if body["model"] == "judge" else reply
    LAYOUTS[name](tmp_path / "data")
    found = score(name, tmp_path / "data", server.url, tmp_path / "out", **judged)
    assert found["questions"] == 2 and found["quarantined"] == quarantined
    assert found["scores"]["overall"] == pytest.approx(overall)
    asked = [body for body in server.asked if body["model"] == "served"]
    assert len(asked) == 2
    first = next(body for body in asked if prompt in prompt_of(body))
    content = first["messages"][-1]["content"]
    assert sum(part["type"] == "image_url" for part in content) == images
    rows = read_results(tmp_path / "out")
    assert set(rows["benchmark"]) == {name} and len(rows) == 2
    assert summarise(rows, resamples=20).benchmarks[f"{BENCHMARKS[name].suite}/{name}"].n == 2
    assert f"{BENCHMARKS[name].title}: {overall:.1f} over 2 questions" in capsys.readouterr().out


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_folder_of_another_layout_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("no")
    with pytest.raises(UserInputError, match=r"docs/published-benchmarks\.md gives the layouts"):
        list(load(BENCHMARKS[name], tmp_path, LeftOut()))


def test_egoschema_leaves_out_what_has_no_public_answer(tmp_path: Path) -> None:
    LAYOUTS["egoschema"](tmp_path)
    left_out = LeftOut()
    questions = [q for _, _, q in load(BENCHMARKS["egoschema"], tmp_path, left_out)]
    assert [q.truth for q in questions] == ["A", "E"] and left_out.not_public == 1


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def message(*fields: tuple[int, bytes]) -> bytes:
    return b"".join(varint(n << 3 | 2) + varint(len(data)) + data for n, data in fields)


def record(**features: list[bytes] | list[int]) -> bytes:
    """One TFRecord; numbers are packed."""
    entries = []
    for name, values in features.items():
        texts = [(1, value) for value in values if isinstance(value, bytes)]
        numbers = b"".join(varint(value) for value in values if isinstance(value, int))
        feature = (1, message(*texts)) if texts else (3, message((1, numbers)))
        entries.append((1, message((1, name.encode()), (2, message(feature)))))
    data = message((1, message(*entries)))
    return struct.pack("<Q", len(data)) + bytes(4) + data + bytes(4)


def test_erqa_is_read_from_its_own_tfrecord(tmp_path: Path) -> None:
    rows = []
    for number in range(2):
        pictures = [picture(number, (40, 40)) for _ in range(number + 1)]
        fields: dict[str, Any] = {
            "image/encoded": pictures,
            "visual_indices": [0, 300][: number + 1],
        }
        fields |= {"question": ["Où?".encode()], "question_type": [b"Pointing"]}
        rows.append(record(**fields, answer=[b"AB"[number : number + 1]]))
    rows.append(record(question=[b"No picture?"], answer=[b"A"], question_type=[b"Other"]))
    path = tmp_path / "data" / "erqa.tfrecord"
    path.parent.mkdir()
    path.write_bytes(b"".join(rows))
    left_out = LeftOut()
    found = [q for _, _, q in load(BENCHMARKS["erqa"], tmp_path, left_out)]
    assert [(q.prompt, q.truth, q.group) for q in found] == [
        ("Où?", "A", "Pointing"),
        ("Où?", "B", "Pointing"),
    ]
    assert [len(q.media) for q in found if isinstance(q.media, tuple)] == [1, 2]
    assert left_out.quarantine.counts == {"image_missing": 1}
    for broken in (path.read_bytes()[:-9], b"no tfrecord at all", path.read_bytes() + b"x"):
        path.write_bytes(broken)
        with pytest.raises(UserInputError, match="can't be read"):
            list(load(BENCHMARKS["erqa"], tmp_path, LeftOut()))


def test_a_run_goes_on_where_it_was_cut_off_and_is_graded_again(
    server: Chat, tmp_path: Path
) -> None:
    LAYOUTS["erqa"](tmp_path / "data")
    out = tmp_path / "out"
    server.answer = lambda body: "B" if len(server.asked) == 1 else 503
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InfrastructureError):
        patch.setattr("pelican.base.endpoint.ATTEMPTS", 1)
        score("erqa", tmp_path / "data", server.url, out, concurrency=1)
    with (out / "answers.jsonl").open("a") as file:
        file.write('{"rollout": {"sample_id"')  # the machine died here
    server.answer = lambda body: "A"
    before = len(server.asked)
    found = score("erqa", tmp_path / "data", server.url, out)
    assert len(server.asked) == before + 1 and found["scores"]["overall"] == 50.0
    assert score("erqa", tmp_path / "data", server.url, out)["scores"] == found["scores"]
    assert len(server.asked) == before + 1
    with pytest.raises(UserInputError, match="answers of other settings"):
        score("erqa", tmp_path / "data", server.url, out, "eval.sampling.max_tokens=9")


def test_a_clip_that_was_answered_is_not_decoded_again(server: Chat, tmp_path: Path) -> None:
    LAYOUTS["vsibench"](tmp_path / "data")
    first = score("vsibench", tmp_path / "data", server.url, tmp_path / "out")
    (tmp_path / "data/scannet/scene1.mp4").write_bytes(b"gone")
    assert score("vsibench", tmp_path / "data", server.url, tmp_path / "out") == first
    assert set(read_results(tmp_path / "out")["horizon"]) == {"clip_to_32s"}


def test_a_refused_request_counts_as_wrong_and_is_said(
    server: Chat, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LAYOUTS["erqa"](tmp_path / "data")
    server.answer = lambda body: "B" if len(body["messages"][-1]["content"]) > 2 else 400
    found = score("erqa", tmp_path / "data", server.url, tmp_path / "out")
    assert found["scores"]["overall"] == 50.0 and found["refused"] == 1
    rows = read_results(tmp_path / "out").filter(pl.col("task") == 0)
    assert rows["reason"].to_list() == ["refused: the endpoint refused the request (status 400)"]
    assert "refused    1 requests" in capsys.readouterr().out


def test_results_in_the_format_of_lmms_eval(server: Chat, tmp_path: Path) -> None:
    LAYOUTS["blink"](tmp_path / "data")
    score("blink", tmp_path / "data", server.url, tmp_path / "out", limit=1)
    folder = tmp_path / "out" / "lmms-eval" / "served"
    (results,), (samples,) = folder.glob("*_results.json"), folder.glob("*.jsonl")
    tree = json.loads(results.read_text())
    assert tree["results"]["pelican_blink"]["overall,none"] == 1.0
    assert tree["n-samples"]["pelican_blink"]["effective"] == 1
    assert samples.name.endswith("_samples_pelican_blink.jsonl")
    (line,) = samples.read_text().splitlines()
    kept = json.loads(line)
    assert (kept["doc_id"], kept["target"], kept["filtered_resps"]) == (0, "B", ["B"])
    assert kept["overall"]["sub_task"] == "Counting" and "respond with A, B" in kept["input"]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("blnk", {}, "there is no benchmark 'blnk'; did you mean 'blink'?"),
        ("openeqa", {}, "give --judge URL --judge-model NAME"),
        ("blink", {"judge": "http://127.0.0.1:9/v1"}, "--judge needs --judge-model"),
    ],
)
def test_a_wrong_command_ends_in_one_sentence(
    name: str, options: dict[str, Any], words: str, server: Chat, tmp_path: Path
) -> None:
    with pytest.raises(UserInputError) as caught:
        score(name, tmp_path, server.url, tmp_path / "out", **options)
    assert words in str(caught.value) and not (tmp_path / "out").exists()


def test_a_wrong_folder_leaves_nothing_in_the_way(server: Chat, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserInputError, match="holds no"):
        score("blink", tmp_path / "empty", server.url, tmp_path / "out")
    LAYOUTS["blink"](tmp_path / "data")
    assert score("blink", tmp_path / "data", server.url, tmp_path / "out")["questions"] == 2


def test_a_model_that_is_not_there_ends_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="is not a folder"):
        score("blink", tmp_path / "gone", "models/tiny-base", tmp_path / "out")
    with pytest.raises(UserInputError, match=r"does not list its models .*check --model"):
        score("blink", tmp_path, "http://127.0.0.1:9/v1", tmp_path / "out")
    with pytest.raises(UserInputError, match="there is no checkpoint at"):
        score("blink", tmp_path, str(tmp_path / "gone"), tmp_path / "out")


def grey(data: bytes) -> float:
    import io

    from PIL import Image

    with Image.open(io.BytesIO(data)) as opened:
        return float(opened.convert("L").resize((1, 1)).getpixel((0, 0)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("clip", "times"),
    [
        (Clip("a.mp4"), [0.5, 1.5, 2.5, 3.5]),
        (Clip("a.mp4", start_s=1.0, end_s=3.0), [1.2, 1.7, 2.2, 2.7]),
        (Clip("a.mp4", start_s=3.0, end_s=99.0), [3.1, 3.4, 3.6, 3.9]),
    ],
)
def test_frames_are_spread_over_the_part_that_is_asked_about(
    clip: Clip, times: list[float], tmp_path: Path
) -> None:
    video(tmp_path / "a.mp4")
    found, images = read_frames(clip, tmp_path, 4, 10_000)
    assert found == pytest.approx(times, abs=0.11)
    assert [grey(data) for data in images] == pytest.approx([50 * t for t in found], abs=8)


def test_a_short_clip_gives_each_frame_once(tmp_path: Path) -> None:
    video(tmp_path / "a.mp4", 1)
    times, _ = read_frames(Clip("a.mp4"), tmp_path, 64, 10_000)
    assert len(times) <= 10 and times == sorted(set(times))


def test_frames_of_a_folder(tmp_path: Path) -> None:
    for number in range(6):
        image(tmp_path / "clip" / f"{number:05d}.png", number)
    times, images = read_frames(Clip("clip", 1.0, 2.0, fps=3.0), tmp_path, 3, 10_000)
    assert times == pytest.approx([1.0, 4 / 3, 5 / 3]) and len(images) == 3


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("gone.mp4", "image_missing"),
        ("../a.mp4", "image_path"),
        ("text.mp4", "video_unreadable"),
        ("cut.mp4", "video_unreadable"),
        ("empty", "image_unreadable"),
    ],
)
def test_a_clip_that_cannot_be_read_is_one_rows_fault(path: str, code: str, tmp_path: Path) -> None:
    video(tmp_path / "a.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:300])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RowError) as caught:
        read_frames(Clip(path), tmp_path, 4, 10_000)
    assert caught.value.code == code


def test_the_small_checkpoint_answers_a_benchmark(tmp_path: Path) -> None:
    LAYOUTS["blink"](tmp_path / "data")
    found = score("blink", tmp_path / "data", "models/tiny-base", tmp_path / "out")
    assert found["questions"] == 2 and found["settings"]["model"].startswith("tiny-base@")
    rows = read_results(tmp_path / "out")
    assert all(rows["completion"].str.len_chars() > 0) and all(rows["tokens"] > 0)
