"""The page of the whole ledger: its data, what comes first, and how it bears 50,000 samples."""

import base64
import gzip
import json
import re
from datetime import UTC, datetime

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pelican.data.corrections import read_corrections
from pelican.data.tables import LEDGER, SAMPLES
from pelican.records import EMBODIED_FAMILIES, CountAnswer, Dimension
from pelican.report.history import NEVER_WEAK, Attempt, Case, Habit, Moment, histories, interest
from pelican.report.ledger import PICTURE_BUDGET, PICTURED, build_ledger, render_ledger
from pelican.report.run import open_run
from pelican.storage.manifests import Manifest, commit_manifest
from pelican.storage.store import FolderStore
from tests.report.browser import act, needs_chromium, screenshot
from tests.report.made_run import NAME, MadeRun


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    made = MadeRun(tmp_path_factory.mktemp("ledger"), train=90)
    made.write()
    run = open_run(made.store, NAME)
    assert build_ledger(run)
    return run, made.store.local(f"runs/{NAME}/ledger.html")


def block(html: str, name: str):
    """One packed block of a page."""
    found = re.search(rf'<script type="text/plain" id="{name}">(.*?)</script>', html, re.DOTALL)
    return json.loads(gzip.decompress(base64.b64decode(found.group(1))))


def test_every_practised_sample_is_there_with_its_history(made):
    run, page = made
    index = block(page.read_text(), "index")
    cases = {case.id: case for case in histories(run)}
    assert sorted(index["id"]) == sorted(cases) and len(cases) == 90
    for row, name in enumerate(index["id"]):
        case, numbers = cases[name], index["history"][row]
        assert index["outcomes"][index["outcome"][row]] == case.outcome
        assert index["families"][index["family"][row]] == case.family
        rates = [good / of for good, of in zip(numbers[1::3], numbers[2::3], strict=True)]
        assert rates == [moment.success_rate for moment in case.timeline]
        said = [index["moments"][number] for number in numbers[0::3]]
        assert said == [moment.words for moment in case.timeline]


def test_the_texts_stand_at_the_places_of_the_index(made):
    run, page = made
    html = page.read_text()
    index, texts = block(html, "index"), block(html, "b0")
    weak = {case.id for case in histories(run) if case.outcome != NEVER_WEAK}
    assert len(texts) == 90
    for name, text in zip(index["id"], texts, strict=True):
        assert text["q"] and json.loads(text["j"])["kind"] in ("count", "choice", "points")
        assert bool(text["x"]) == (name in weak)


def weak_case(outcome: str, *rates: float, teacher: bool | None = None, said: str = "") -> Case:
    timeline = [Moment(1 + i // 2, ("rl", "sft")[i % 2], rate, 8) for i, rate in enumerate(rates)]
    case = Case("a", "counting", "spatial_geometric", timeline, outcome)
    if teacher is not None:
        case.verdicts = {1: Attempt("loop 1, teacher", f"<answer>{said}</answer>", teacher)}
    return case


SURE, TORN = Habit("seven", 0.9, 12), Habit("seven", 0.3, 12)
WORTH = [  # the more the label may be wrong, the higher
    (weak_case("teacher_failed", 0, 0, teacher=False, said="Seven"), TORN, "both say"),
    (weak_case("teacher_failed", 0, 0, teacher=False, said="two"), SURE, "insists on"),
    (weak_case("forgotten", 0.5, 0), SURE, "not any more"),
    (weak_case("weak", 0, 0, 0, teacher=True), TORN, "taught in loop 1"),
    (weak_case("teacher_failed", 0, 0, teacher=False, said="two"), TORN, "the teacher failed"),
    (weak_case("weak", 0, 0), SURE, "insists on"),
    (weak_case("weak", 0, 0), None, "never right"),
    (weak_case("solved_rl", 0, 1.0, teacher=False, said="seven"), SURE, ""),
    (weak_case(NEVER_WEAK, 1.0, 1.0), None, ""),
]


def test_samples_whose_label_may_be_wrong_come_first():
    found = [interest(case, habit) for case, habit, _ in WORTH]
    assert [score for score, _ in found] == sorted({s for s, _ in found}, reverse=True)
    for (_, words), (_, _, wanted) in zip(found, WORTH, strict=True):
        assert wanted in words and bool(words) == bool(wanted)


def test_a_run_that_practised_nothing_has_no_ledger(tmp_path):
    made = MadeRun(tmp_path, train=12)
    made.write(until="loop-1/filter-rl")
    assert render_ledger(open_run(made.store, NAME)) == ""


def test_what_a_model_wrote_cannot_end_a_script(made):
    html = made[1].read_text()
    assert html.count("<script") == html.count("</script>")
    assert "<think>" not in html  # packed, so that nothing in it is markup


FILTER = """
  const pick = (key, value) => {
    const field = document.querySelector(`[data-key=${key}]`);
    field.value = value;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    return settle();
  };
  const shown = () => document.getElementById("shown").textContent;
  const found = { all: shown() };
  await pick("outcome", "never_weak");
  found.never = shown();
  await pick("outcome", "");
  await pick("family", "counting");
  found.counting = shown();
  const words = document.getElementById("words");
  words.value = "train-0001";
  words.dispatchEvent(new Event("input", { bubbles: true }));
  await settle(); await settle();
  found.one = shown();
  const key = (name) => document.dispatchEvent(new KeyboardEvent("keydown", { key: name }));
  key("j");
  found.focused = document.activeElement.tagName;
  document.activeElement.click();
  await settle();
  const form = document.querySelector(".correct");
  form.drop.checked = true;
  form.note.value = "blurred";
  form.dispatchEvent(new Event("input"));
  found.button = document.getElementById("save").textContent;
  const saved = [];
  URL.createObjectURL = (blob) => { saved.push(blob); return "#"; };
  document.getElementById("save").click();
  document.getElementById("csv").click();
  await settle();
  found.files = await Promise.all(saved.map((blob) => blob.text()));
  return found;
"""


@needs_chromium
def test_a_person_filters_corrects_and_exports(made, tmp_path):
    run, page = made
    found = act(page, FILTER)
    cases = histories(run)
    never = sum(case.outcome == NEVER_WEAK for case in cases)
    assert found["all"] == "90 of 90 samples"
    assert found["never"] == f"{never} of 90 samples"
    assert found["counting"] == "15 of 90 samples" and found["one"] == "1 of 90 samples"
    assert found["focused"] == "SUMMARY" and found["button"] == "Download 1 correction"
    corrections, table = found["files"]
    path = tmp_path / "corrections.jsonl"
    path.write_text(corrections)
    assert read_corrections(path).dropped == {"train-0001"}
    frame = pl.read_csv(table.encode())
    assert frame["id"].to_list() == ["train-0001"] and "loop 3, after RL" in frame.columns


RELABEL = """
  const open = async (id) => {
    const words = document.getElementById("words");
    words.value = id;
    words.dispatchEvent(new Event("input", { bubbles: true }));
    await settle(); await settle();
    document.querySelector("#samples details").open = true;
    await settle();
    return document.querySelector(".correct");
  };
  const choice = await open("train-0005");
  choice.answer.value = "C";
  choice.dimension.value = "decision_planning";
  choice.dispatchEvent(new Event("input"));
  const count = await open("train-0001");
  count.answer.value = '{"kind": "count"';
  count.dispatchEvent(new Event("input"));
  const said = count.querySelector("[role=alert]").textContent;
  count.answer.value = '{"kind": "count", "value": 4}';
  count.dispatchEvent(new Event("input"));
  const saved = [];
  URL.createObjectURL = (blob) => { saved.push(blob); return "#"; };
  document.getElementById("save").click();
  return { said, file: await saved[0].text() };
"""


@needs_chromium
def test_a_new_answer_and_dimension_reach_the_file_and_broken_json_does_not(made, tmp_path):
    found = act(made[1], RELABEL)
    assert found["said"].startswith("The answer is not kept")
    path = tmp_path / "corrections.jsonl"
    path.write_text(found["file"])
    replaced = read_corrections(path).replaced
    assert json.loads(replaced["train-0005"]["answer"])["answer"] == "C"
    assert replaced["train-0005"]["dimension"] == "decision_planning"
    assert json.loads(replaced["train-0001"]["answer"]) == {"kind": "count", "value": 4}


LOAD = """
  const field = document.getElementById("load");
  const load = async (name) => {
    const box = new DataTransfer();
    box.items.add(new File([%s], name));
    field.files = box.files;
    field.dispatchEvent(new Event("change"));
    await settle();
  };
  await load("a.jsonl");
  await load("again.jsonl");
  const saved = [];
  URL.createObjectURL = (blob) => { saved.push(blob); return "#"; };
  document.getElementById("save").click();
  return {
    shown: document.getElementById("shown").textContent,
    button: document.getElementById("save").textContent,
    file: await saved[0].text(),
    stored: Object.keys(localStorage).filter((key) => localStorage[key].includes("other-robot/1")).length,
  };
"""


@needs_chromium
def test_corrections_of_samples_that_the_page_lacks_are_written_again(made, tmp_path):
    lines = [
        '{"id": "train-0001", "action": "drop", "note": "blurred"}',
        '{"id": "other-robot/1", "action": "relabel", "answer": {"kind": "count", "value": 4}}',
        '{"id": "other-robot/1", "action": "redimension", "dimension": "spatial_geometric"}',
        '{"id": "other-robot/2", "action": "drop", "note": "dark"}',
        '{"id": "other-robot/3"',
    ]
    found = act(made[1], LOAD % json.dumps("\n".join(lines)))
    assert found["shown"] == (
        "1 corrections read, 3 of samples that are not on this page kept for the download,"
        " 1 lines can't be read and are left out"
    )
    assert found["button"] == "Download 3 corrections (2 of samples not here)"
    assert found["stored"] == 1
    path = tmp_path / "corrections.jsonl"
    path.write_text(found["file"])
    assert found["file"].splitlines()[1:] == lines[1:4]
    read = read_corrections(path)
    assert read.dropped == {"train-0001", "other-robot/2"} and set(read.replaced) == {
        "other-robot/1"
    }


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A ledger of 50,000 samples at two moments, and their pool."""
    root, count = tmp_path_factory.mktemp("large"), 50_000
    store = FolderStore(root / "store")
    family = [EMBODIED_FAMILIES[i % 6].value for i in range(count)]
    dimension = [list(Dimension)[i % 9].value for i in range(count)]
    ids = [f"robot-{i:06d}" for i in range(count)]
    image = MadeRun(root / "small", train=1, held_out=1, loops=1).train[0].images[0]
    answers = [CountAnswer(value=value).model_dump_json() for value in range(9)]
    columns = {
        "id": ids,
        "media_kind": ["image"] * count,
        "images": [[{"bytes": image, "path": None}]] * count,
        "times_s": [[0.0]] * count,
        "turns": [
            [{"role": "user", "text": f"How many of the {i % 700} cups are here?"}]
            for i in range(count)
        ],
        "family": family,
        "dimension": dimension,
        "answer": [answers[i % 9] for i in range(count)],
        "source": ["made"] * count,
        "scene": [f"s-{i // 3}" for i in range(count)],
        "split": ["train"] * count,
        "benchmark": ["made"] * count,
        "chance": [0.1] * count,
    }
    (root / "pool").mkdir()
    table = pa.table(columns, schema=SAMPLES)
    pq.write_table(table, root / "pool" / "a.parquet", row_group_size=512)
    for place, phase in enumerate(("rl", "sft")):
        prefix = f"runs/{NAME}/loop-1/filter-{phase}"
        hits = [(i * 7 + place * 3) % 5 for i in range(count)]
        rows = {
            "sample_id": ids,
            "loop": [1] * count,
            "phase": [phase] * count,
            "success_rate": [hit / 4 for hit in hits],
            "mean_reward": [hit / 4 for hit in hits],
            "rollouts": [4] * count,
            "policy": ["p"] * count,
            "family": family,
            "dimension": dimension,
            "source": ["made"] * count,
            "outcome": ["practice"] * count,
        }
        pq.write_table(pa.table(rows, schema=LEDGER), store.local_root(prefix) / "ledger.parquet")
        now = datetime(2026, 1, 5, tzinfo=UTC)
        manifest = Manifest(
            stage="filter", run=NAME, loop=1, phase=phase, fingerprint="f", recipe="r",
            inputs={"pool": str(root / "pool")}, outputs=[], started=now, finished=now,
        )  # fmt: skip
        commit_manifest(store, prefix, manifest)
    store.write(f"runs/{NAME}/recipe.json", b'{"name": "large"}')
    assert build_ledger(open_run(store, NAME))
    return store.local(f"runs/{NAME}/ledger.html")


def test_fifty_thousand_samples_stay_a_page_of_some_megabytes(large):
    html = large.read_text()
    assert large.stat().st_size < 12_000_000
    assert len(block(html, "index")["id"]) == 50_000
    pictures = re.findall(r'id="i\d+">([^<]*)<', html)
    assert len(pictures) <= PICTURED and sum(map(len, pictures)) <= PICTURE_BUDGET


MANY = """
  const elements = document.querySelectorAll("#samples li").length;
  document.querySelector("[data-go=last]").click();
  await settle();
  const words = document.getElementById("words");
  const last = document.getElementById("page").textContent;
  words.value = "robot-049999";
  words.dispatchEvent(new Event("input", { bubbles: true }));
  for (let n = 0; n < 40 && !/^1 of/.test(document.getElementById("shown").textContent); n += 1) await settle();
  return { elements, last, found: document.getElementById("shown").textContent };
"""


@needs_chromium
def test_a_browser_pages_and_searches_fifty_thousand_samples(large):
    found = act(large, MANY)
    assert found == {
        "elements": 50,
        "last": "49,951 to 50,000",
        "found": "1 of 50,000 samples",
    }


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1200, True), (390, False)])
def test_the_ledger_is_shown_without_an_error(made, tmp_path, width, dark):
    assert screenshot(made[1], tmp_path / "page.png", width, 1200, dark).stat().st_size > 20_000
