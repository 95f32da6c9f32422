"""The page of a made run: whole, unfinished and failed; self-contained; every figure has data."""

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import polars as pl
import pytest
from PIL import Image

from pelican.monitoring.progress import duration
from pelican.report.page import build_report, render, verdict
from pelican.report.run import open_run
from pelican.report.sections import sft_figures
from pelican.report.tables import acceptance
from pelican.report.words import signed
from pelican.retrain.records import Verdict, write_verdict
from pelican.storage.manifests import commit_manifest, now, read_manifest
from pelican.storage.store import FolderStore
from tests.report.browser import act, needs_chromium, screenshot
from tests.report.made_run import NAME, MadeRun, commit_again

VOID = {"meta", "img", "input", "br", "link", "hr"}
FIGURES = [
    "scores",
    "attempts",
    "families",
    "dimensions",
    "radar",
    "distribution",
    "shift-family",
    "shift-benchmark",
    "ledger-counts",
    "trajectories",
    "stagnation",
    "reward",
    "think_chars",
    "trained_flat",
    "mixture",
    "sft-loss",
    "durations",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    made = MadeRun(tmp_path_factory.mktemp("whole"))
    made.write()
    return made, build_report(made.store, NAME)


class Checker(HTMLParser):
    """Collects ids, links and sources, and that every element is closed in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.sources += [known[name] for name in ("src", "srcset", "data") if name in known]
        self.links += [known["href"]] if "href" in known else []
        self.ids += [known["id"]] if "id" in known else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def checked(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    assert not checker.open
    return checker


def test_the_page_parses_and_its_ids_are_unique(whole):
    checker = checked(whole[1].read_text())
    assert len(set(checker.ids)) == len(checker.ids)
    inner = {link.removeprefix("#") for link in checker.links if link.startswith("#")}
    assert inner and inner <= set(checker.ids)


def test_nothing_is_loaded_from_elsewhere(whole):
    html = whole[1].read_text()
    checker = checked(html)
    assert checker.sources and all(source.startswith("data:image/") for source in checker.sources)
    allowed = ("#", "data:text/csv;", "data:image/svg+xml;", "ledger.html", "weaknesses.html")
    assert all(link.startswith(allowed) for link in checker.links)
    assert (whole[1].parent / "ledger.html").exists()
    assert not re.search(r"url\(|@import|fetch\(|https?://", html)
    assert "default-src 'none'" in html


def test_every_figure_is_there_and_has_data(whole):
    html = whole[1].read_text()
    for name in FIGURES:
        figure = re.search(rf'<figure[^>]*id="fig-{name}".*?</figure>', html, re.DOTALL)
        assert figure, name
        drawings = re.findall(r"<svg.*?</svg>", figure.group(), re.DOTALL)
        assert len(drawings) == 2  # for a page and for a phone
        for drawing in drawings:
            root = ElementTree.fromstring(drawing)
            marks = [e for e in root if "class" in e.attrib and e.tag in ("circle", "rect", "path")]
            assert len(marks) >= 3, name
            assert "nan" not in drawing


def taken(html: str, name: str, kind: str) -> str:
    """A figure's download."""
    link = re.search(rf'download="{NAME}-{name}\.{kind}" href="data:[^,]*,([^"]*)"', html)
    assert link, name
    return base64.b64decode(link.group(1)).decode()


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_can_be_taken_along(whole, name):
    html = whole[1].read_text()
    drawing = taken(html, name, "svg")
    root = ElementTree.fromstring(drawing.encode())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in drawing and "color-mix" not in drawing and "class=" not in drawing
    marks = [e for e in root if e.tag.rpartition("}")[2] in ("circle", "rect", "path")]
    assert all("fill" in e.attrib or "stroke" in e.attrib for e in marks)
    header, *rows = list(csv.reader(io.StringIO(taken(html, name, "csv"))))
    assert len(rows) >= 3 and all(len(row) == len(header) for row in rows)


def test_the_numbers_taken_along_are_those_of_the_evaluations(whole):
    rows = list(csv.DictReader(io.StringIO(taken(whole[1].read_text(), "scores", "csv"))))
    run = open_run(whole[0].store, NAME)
    scores = [e.summary.embodied.score for e in run.evaluations]
    found = [float(row["score"]) for row in rows if row["suite"] == "embodied"]
    assert found == pytest.approx(scores)


def test_the_shift_by_family_counts_every_practised_sample(whole):
    rows = list(csv.DictReader(io.StringIO(taken(whole[1].read_text(), "shift-family", "csv"))))
    assert {row["when"] for row in rows} == {"loop 1", "loop 2", "loop 3"}
    for loop in ("loop 1", "loop 3"):
        assert sum(int(row["samples"]) for row in rows if row["when"] == loop) == 90


def test_the_verdict_names_base_final_interval_and_chance(whole):
    run = open_run(whole[0].store, NAME)
    words = verdict(run, run.compare_evaluations(run.base, run.final))
    assert words.startswith("From the base to loop 3 SFT the embodied score")
    assert "paired 95 % interval" in words and "chance is" in words and "general suite" in words


def test_the_teachers_acceptance_is_that_of_the_weak_samples(whole):
    run = open_run(whole[0].store, NAME)
    *families, total = acceptance(run)
    assert total["family"] == "all" and len(families) > 1
    for stage, frame in run.tables("distill", "teacher.parquet").items():
        weak = frame.filter(origin="weak")
        assert total["loops"][stage.loop] == [weak["accepted"].sum(), len(weak)]
        assert weak["accepted"].sum() < len(weak) < len(frame)
        for row in families:
            of = weak.filter(family=row["family"])
            assert row["loops"].get(stage.loop, [0, 0]) == [of["accepted"].sum(), len(of)]


def test_a_mixture_is_shown_by_every_origin_that_it_has(tmp_path):
    made = MadeRun(tmp_path, loops=1, train=12)
    made.write()
    table = io.BytesIO()
    origins = ["general"] + 2 * ["earlier"] + 3 * ["uniform"]
    pl.DataFrame({"origin": origins}).write_parquet(table)
    commit_again(made.store, f"runs/{NAME}/loop-1/distill-sft/mixture.parquet", table.getvalue())
    figure = next(f for f in sft_figures(open_run(made.store, NAME)) if f.id == "mixture")
    words = ["drawn at random", "of earlier loops", "general replay"]
    assert [entry.words for entry in figure.legend] == words
    assert [row[2] for row in figure.table.rows] == [3.0, 2.0, 1.0]


def test_the_page_stays_small(whole):
    assert whole[1].stat().st_size < 8_000_000


def test_what_a_model_writes_is_escaped(whole):
    html = whole[1].read_text()
    assert "&lt;think&gt;The cup is near the edge &amp; moves." in html
    assert "D. &lt;none&gt;" in html


def test_quarantined_rows_are_shown_with_their_reason(whole):
    html = whole[1].read_text()
    assert "an image of 90000 x 90000 pixels" in html and "bad-1" in html
    assert "Quarantine of the general pool" not in html


def test_two_builds_give_the_same_page(whole):
    run = open_run(whole[0].store, NAME)
    assert render(run) == render(run)


UNFINISHED = {
    "loop-0/eval-base": "Nothing has been evaluated yet.",
    "loop-1/rollout-rl": "No phase has been evaluated yet.",
    "loop-1/train-rl-rl": "No phase has been evaluated yet.",
    "loop-1/distill-sft": "From the base to loop 1 RL",
    "loop-2/eval-rl": "From the base to loop 1 SFT",
}


@pytest.mark.parametrize("until", UNFINISHED)
def test_an_unfinished_run_shows_what_is_there(tmp_path, until):
    made = MadeRun(tmp_path, train=40)
    html = render(open_run(made.write(until=until), NAME))
    checked(html)
    assert UNFINISHED[until] in html
    assert "unfinished" in html and "The last stage without a result is" in html


def test_a_failed_run_says_why(tmp_path):
    made = MadeRun(tmp_path, train=40)
    made.write(until="loop-1/train-rl-rl")
    failure = {"stage": "train-rl", "loop": 1, "phase": "rl", "message": "memory <ran> out"}
    made.store.write(f"runs/{NAME}/failure.json", json.dumps(failure).encode())
    html = render(open_run(made.store, NAME))
    checked(html)
    assert "train-rl, loop 1: memory &lt;ran&gt; out" in html


def refuse(store: FolderStore, loop: int) -> None:
    """Let the gate at the end of a loop say no."""
    prefix = f"runs/{NAME}/loop-{loop}/eval-sft"
    gate = json.loads(store.read(f"{prefix}/gate.json")) | {"go_on": False}
    commit_again(store, f"{prefix}/gate.json", json.dumps(gate).encode())
    manifest = read_manifest(store, prefix)
    metrics = manifest.metrics | {"go_on": 0.0}
    commit_manifest(store, prefix, manifest.model_copy(update={"metrics": metrics}))


def test_a_run_that_the_gate_stopped_says_so_and_shows_the_policy_before(tmp_path):
    made = MadeRun(tmp_path, train=40)
    made.write(until="loop-3/rollout-rl")
    made.store.delete(f"runs/{NAME}/loop-3")
    refuse(made.store, 2)
    run = open_run(made.store, NAME)
    html = render(run)
    assert 'class="state stopped"' in html
    said = "The gate refused the policy of loop 2, after SFT; the run offers that of loop 1, after SFT."
    assert said in html
    assert run.final.label == "loop 1 SFT" and "Base to loop 1 SFT" in html
    assert run.change.embodied == run.compare_evaluations(run.base, run.final).embodied


def test_a_run_whose_first_loop_was_refused_offers_its_base(tmp_path):
    made = MadeRun(tmp_path, train=40)
    made.write(until="loop-2/rollout-rl")
    made.store.delete(f"runs/{NAME}/loop-2")
    refuse(made.store, 1)
    run = open_run(made.store, NAME)
    html = render(run)
    assert "The gate refused the policy of loop 1, after SFT; the run offers its base." in html
    assert "No policy passed its gate." in html
    assert run.change is None and run.final.label == "base"


def test_the_last_loops_refusal_is_told_though_no_loop_would_follow(tmp_path):
    made = MadeRun(tmp_path, loops=2, train=40)
    made.write()
    refuse(made.store, 2)
    html = render(open_run(made.store, NAME))
    assert 'class="state finished"' in html
    assert "the run offers that of loop 1, after SFT." in html


def test_a_retraining_without_a_weakness_has_ended(tmp_path):
    made = MadeRun(tmp_path, train=40)
    made.write(until="loop-0/eval-base")
    write_verdict(
        made.store,
        Verdict(
            outcome="no weakness",
            run=NAME,
            data="new",
            parent="tiny:1",
            reasons=["3 of 90 samples are weak"],
            at=now(),
        ),
    )
    html = render(open_run(made.store, NAME))
    assert 'class="state finished"' in html
    assert "The retraining ended: no weakness. 3 of 90 samples are weak" in html


def test_a_run_that_failed_once_and_then_finished_is_finished(whole):
    made, _ = whole
    key = f"runs/{NAME}/failure.json"
    made.store.write(key, b'{"message": "killed"}')
    html = render(open_run(made.store, NAME))
    made.store.delete(key)
    assert 'class="state finished"' in html and "killed" not in html


def test_missing_and_broken_tables_are_left_out(tmp_path):
    made = MadeRun(tmp_path, train=40, loops=1)
    made.write()
    root = made.store.root / f"runs/{NAME}/loop-1"
    (root / "train-rl-rl/curve.parquet").unlink()
    (root / "train-rl-rl/stagnation.parquet").write_bytes(b"not a table")
    (root / "distill-sft/teacher.parquet").unlink()
    html = render(open_run(made.store, NAME))
    checked(html)
    assert 'id="fig-reward"' not in html and 'id="fig-stagnation"' not in html
    assert 'id="fig-sft-loss"' in html


@pytest.mark.parametrize(
    ("value", "words"), [(1.25, "+1.2"), (-3, "−3.0"), (0.01, "0.0"), (-0.04, "0.0")]
)
def test_signs(value, words):
    assert signed(value) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(3.2, "3 s"), (425, "7 min 05 s"), (12_000, "3 h 20 min")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_browser_shows_the_page_without_an_error(whole, tmp_path, width, dark):
    shot = screenshot(whole[1], tmp_path / "page.png", width, 1600, dark)
    with Image.open(shot) as image:
        small = image.convert("RGB").resize((200, 200))
        assert image.size == (width, 1600)
    assert len(small.getcolors(40_000)) > 50
    assert (sum(small.getpixel((1, 1))) < 200) == dark  # type: ignore[arg-type]


@needs_chromium
def test_no_part_of_the_page_is_wider_than_a_phone(whole):
    script = "return { wide: document.documentElement.scrollWidth, window: innerWidth };"
    found = act(whole[1], script, width=500)
    assert found["wide"] <= found["window"]
