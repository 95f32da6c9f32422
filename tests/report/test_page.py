"""The page of a made run: whole, unfinished and failed; self-contained; every figure has data."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from PIL import Image

from pelican.report.page import _acceptance, build_report, duration, render, signed, verdict
from pelican.report.run import open_run
from tests.report.made_run import NAME, MadeRun

VOID = {"meta", "img", "input", "br", "link", "hr"}
FIGURES = [
    "scores",
    "families",
    "dimensions",
    "radar",
    "distribution",
    "ledger-counts",
    "stagnation",
    "reward",
    "think_chars",
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
    assert {link.removeprefix("#") for link in checker.links} <= set(checker.ids)


def test_nothing_is_loaded_from_elsewhere(whole):
    html = whole[1].read_text()
    checker = checked(html)
    assert checker.sources and all(source.startswith("data:image/") for source in checker.sources)
    assert all(link.startswith("#") for link in checker.links)
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


def test_the_verdict_names_base_final_interval_and_chance(whole):
    run = open_run(whole[0].store, NAME)
    words = verdict(run, run.compared(run.base, run.final))
    assert words.startswith("From the base to loop 3 SFT the embodied score")
    assert "paired 95 % interval" in words and "chance is" in words and "general suite" in words


def test_the_teachers_acceptance_is_that_of_the_weak_samples(whole):
    run = open_run(whole[0].store, NAME)
    *families, total = _acceptance(run)
    assert total["family"] == "all" and len(families) > 1
    for stage, frame in run.tables("distill", "teacher.parquet").items():
        weak = frame.filter(origin="weak")
        assert total["loops"][stage.loop] == [weak["accepted"].sum(), len(weak)]
        assert weak["accepted"].sum() < len(weak) < len(frame)
        for row in families:
            of = weak.filter(family=row["family"])
            assert row["loops"].get(stage.loop, [0, 0]) == [of["accepted"].sum(), len(of)]


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
    html = build_report(made.write(until=until), NAME).read_text()
    checked(html)
    assert UNFINISHED[until] in html
    assert "unfinished" in html and "The last stage without a result is" in html


def test_a_failed_run_says_why(tmp_path):
    made = MadeRun(tmp_path, train=40)
    made.write(until="loop-1/train-rl-rl")
    failure = {"stage": "train-rl", "loop": 1, "phase": "rl", "message": "memory <ran> out"}
    made.store.write(f"runs/{NAME}/failure.json", json.dumps(failure).encode())
    html = build_report(made.store, NAME).read_text()
    checked(html)
    assert "train-rl, loop 1: memory &lt;ran&gt; out" in html


def test_a_run_that_the_gate_stopped_says_so(tmp_path):
    made = MadeRun(tmp_path, train=40)
    made.write(until="loop-2/rollout-rl")
    made.store.delete(f"runs/{NAME}/loop-2")
    key = f"runs/{NAME}/loop-1/eval-sft/gate.json"
    gate = json.loads(made.store.read(key)) | {"go_on": False}
    made.store.write(key, json.dumps(gate).encode())
    html = build_report(made.store, NAME).read_text()
    assert 'class="state stopped"' in html and "The gate of loop 1 SFT said no." in html


def test_a_run_that_failed_once_and_then_finished_is_finished(whole):
    made, _ = whole
    key = f"runs/{NAME}/failure.json"
    made.store.write(key, b'{"message": "killed"}')
    html = build_report(made.store, NAME).read_text()
    made.store.delete(key)
    assert 'class="state finished"' in html and "killed" not in html


def test_missing_and_broken_tables_are_left_out(tmp_path):
    made = MadeRun(tmp_path, train=40, loops=1)
    made.write()
    root = made.store.root / f"runs/{NAME}/loop-1"
    (root / "train-rl-rl/curve.parquet").unlink()
    (root / "train-rl-rl/stagnation.parquet").write_bytes(b"not a table")
    (root / "distill-sft/teacher.parquet").unlink()
    html = build_report(made.store, NAME).read_text()
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


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_page_without_an_error(whole, tmp_path, width):
    shot = tmp_path / "page.png"
    command = [CHROMIUM, "--headless", "--disable-gpu", "--hide-scrollbars"]
    command += ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--window-size={width},1600", f"--screenshot={shot}", whole[1].as_uri()]
    if os.geteuid() == 0:
        command.insert(1, "--no-sandbox")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert shot.exists(), done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr  # an error or a refused resource
    with Image.open(shot) as image:
        assert image.size == (width, 1600)
        assert len(image.convert("RGB").resize((200, 200)).getcolors(40_000)) > 50
