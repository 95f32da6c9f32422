"""A set of runs: finished ones are passed over, shared stages taken over, the table rewritten."""

from __future__ import annotations

import subprocess
from pathlib import Path
from statistics import mean, stdev

import pytest

from pelican.cli.submit import as_kept, run_all
from pelican.config import env
from pelican.config.presets import find_recipe
from pelican.errors import UserInputError
from pelican.evaluation.crossed import pool_suite
from pelican.evaluation.metrics import compare
from pelican.experiments import (
    ABLATIONS,
    CONTROLS,
    FIRST,
    NOTHING,
    make_command,
    rewrite,
    run_name,
    table,
)
from pelican.report.run import open_run
from pelican.runs.layout import Submission, manifests, run_prefix
from pelican.runs.outcome import scores
from pelican.storage.manifests import commit_manifest, now, read_manifest
from pelican.storage.store import FolderStore
from tests.buckets import Bucket
from tests.conftest import World
from tests.report import made_run


def test_every_variant_is_a_recipe_and_another_one() -> None:
    digests = {
        name: find_recipe(variant.recipe, [variant.settings(0)]).digest()
        for name, variant in ABLATIONS.items()
    }
    assert len(set(digests.values())) == len(ABLATIONS)
    assert all(run_prefix(run_name(name, 10, "results")) for name in ABLATIONS)


def test_the_controls_have_their_names_and_recipes() -> None:
    assert [run_name(name, 0, "results") for name in CONTROLS] == [
        "results-dppo-s0",
        "results-rl-only-s0",
        "results-sft-mined-s0",
        "results-sft-uniform-s0",
        "results-one-loop-s0",
        "results-random-sampling-s0",
        "results-replay-only-s0",
    ]
    command = make_command(CONTROLS["rl_only"], "results-rl-only-s1", 1, "data.evaluation=x")
    assert command == (
        "make submit RECIPE=tiny+rl_only SET='rl.max_steps=96 seed=1 data.evaluation=x'"
        " RUN=results-rl-only-s1"
    )


def test_what_is_set_for_all_has_the_last_word() -> None:
    assert CONTROLS["rl_only"].settings(2, "rl.max_steps=4") == "seed=2 rl.max_steps=4"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "<!-- s: begin -->\nx\n<!-- s: end -->\n"),
        ("# A\n\ntext\n", "# A\n\ntext\n\n<!-- s: begin -->\nx\n<!-- s: end -->\n"),
        (
            "a\n<!-- s: begin -->\nold\nolder\n<!-- s: end -->\nb\n",
            "a\n<!-- s: begin -->\nx\n<!-- s: end -->\nb\n",
        ),
    ],
)
def test_a_section_is_rewritten_and_the_rest_stays(before: str, after: str, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(before)
    for _ in range(2):
        rewrite(path, "s", ["x"])
        assert path.read_text() == after


@pytest.mark.parametrize(
    "text", ["<!-- s: begin -->", "<!-- s: end -->\n<!-- s: begin -->", "<!-- s: end -->"]
)
def test_broken_marks_are_refused_and_nothing_is_lost(text: str, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(text)
    with pytest.raises(UserInputError, match="mend them"):
        rewrite(path, "s", ["x"])
    assert path.read_text() == text


def test_a_complete_run_is_passed_over_and_one_that_cannot_start_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(made_run, "NAME", "made-dppo-s0")
    monkeypatch.setenv(env.REUSE, "on")  # as the set does, and undone after the test
    store = made_run.MadeRun(tmp_path, loops=1, train=12, held_out=12).write()
    more = f"loops=1 data.train={tmp_path}/nowhere"
    recipe = find_recipe("tiny", [CONTROLS["dppo"].settings(0, more)])
    store.write("runs/made-dppo-s0/recipe.json", recipe.model_dump_json().encode())
    store.write("runs/made-dppo-s0/summary.json", b'{"state": "complete"}')
    chosen = {name: CONTROLS[name] for name in ("dppo", "rl_only")}

    failed = run_all(chosen, [0], "made", more, store=store.uri, launcher="local")
    told = capsys.readouterr().out
    assert failed == ["made-rl-only-s0"]
    assert "# made-dppo-s0 is complete\n" in told
    assert f"# made-rl-only-s0 failed: data.train={tmp_path}/nowhere: there is nothing" in told
    failed = run_all(chosen, [0], "made", f"{more} rl.kl=0.5", store=store.uri, launcher="local")
    assert failed == ["made-dppo-s0", "made-rl-only-s0"]
    assert "was started with another recipe: rl.kl" in capsys.readouterr().out

    several, _, detail = "\n".join(table(store, "made")).split("\n\n")
    first = several.splitlines()[2].split(" | ")
    assert first[0] == "| dppo: RL and SFT in turn, three loops" and first[1] == "1"
    assert first[7:9] == ["20", "20"]  # characters of thinking, at first and at the end
    assert detail.endswith("`make submit RECIPE=tiny SET='' RUN=made-dppo-s0` |")  # as it was asked
    assert len(several.splitlines()) == len(detail.splitlines()) == 3


def made(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, seed: int, overrides: str = ""
) -> FolderStore:
    """A complete run of one loop; its scores differ by seed."""
    monkeypatch.setattr(made_run, "NAME", name)
    store = made_run.MadeRun(root, loops=1, train=12, held_out=12 + 6 * seed).write()
    recipe = find_recipe("tiny", [f"{overrides} seed={seed}"])
    asked = Submission(
        run=name, pipeline="metaloop", address="tiny", overrides=[f"{overrides} seed={seed}"],
        recipe=recipe.digest(), submitted=now(),
    )  # fmt: skip
    for file, value in (("recipe", recipe), ("run", asked)):
        store.write(f"runs/{name}/{file}.json", value.model_dump_json().encode())
    store.write(f"runs/{name}/summary.json", b'{"state": "complete"}')
    return store


def test_the_table_gives_deviation_and_difference_by_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (0, 1):
        store = made(tmp_path, monkeypatch, f"made-dppo-s{seed}", seed)
    made(tmp_path, monkeypatch, "made-hints-s1", 1)
    begun = store.read("runs/made-dppo-s1/run.json").replace(b"made-dppo-s1", b"made-rl-only-s1")
    store.write("runs/made-rl-only-s1/run.json", begun)
    entries = [scores(store, manifests(store, f"made-dppo-s{seed}")) for seed in (0, 1)]
    after_rl, finals = ([entry[i]["embodied"] for entry in entries] for i in (1, 2))
    several, notes, detail = "\n".join(table(store, "made")).split("\n\n")
    assert notes.endswith("Not complete, so not here: made-rl-only-s1.")
    dppo, hints = (line.split(" | ") for line in several.splitlines()[2:])
    assert dppo[1:4] == ["2", *(f"{mean(x):.1f} ± {stdev(x):.1f}" for x in (after_rl, finals))]
    head = several.splitlines()[0].split(" | ")
    cells = dict(zip(head, dppo, strict=True))
    assert cells[f"against {FIRST}"] == "-" and cells["compute"] == "1.00 ± 0.00"
    assert cells["teacher calls"] == "60 ± 0"
    of_both = compare(*(open_run(store, f"made-{n}-s1").final.results for n in ("dppo", "hints")))
    assert of_both.embodied is not None
    assert hints[5] == f"{of_both.embodied.delta:+.1f}"
    assert f"{of_both.embodied.delta:+.1f} (" in detail.splitlines()[-1].split(" | ")[4]
    assert table(store, "other") == [NOTHING]


def test_scores_of_the_pool_that_gates_read_stand_beside_none_of_the_sealed_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, sets in enumerate(("", "data.dev=samples/dev")):
        store = made(tmp_path, monkeypatch, f"made-dppo-s{seed}", seed, sets)
    without, dev = (line.split(" | ") for line in table(store, "made")[2:4])
    assert without[2] != "-" and dev[2] == "-"


def test_seeds_are_pooled_on_the_questions_that_they_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (0, 1):
        store = made(tmp_path, monkeypatch, f"made-dppo-s{seed}", seed)
        made(tmp_path, monkeypatch, f"made-rl-only-s{seed}", seed)
    made(tmp_path, monkeypatch, "made-hints-s1", 1)  # of one seed nothing is pooled
    blocks = "\n".join(table(store, "made")).split("\n\n")
    assert len(blocks) == 5
    head, _, *rows = blocks[2].splitlines()
    (cells,) = (dict(zip(head.split(" | "), row.split(" | "), strict=True)) for row in rows)
    assert cells["| variant"] == "| rl_only" and cells["seeds"] == "2"
    before, after = (
        [open_run(store, f"made-{name}-s{seed}").final.results for seed in (0, 1)]
        for name in ("dppo", "rl-only")
    )
    pairs = list(zip(before, after, strict=True))
    expected = pool_suite(pairs, "embodied")
    assert expected is not None
    shown = f"{expected.delta:+.1f} ({expected.low:+.1f} to {expected.high:+.1f})"
    assert cells[f"against {FIRST}, pooled (95 %)"] == shown
    assert cells["p"] == f"{expected.p:.3f}"
    assert cells["10 seeds |"] == f"{expected.detectable(10):.1f} |"
    assert cells["verdict"].startswith(
        f"{FIRST} is not shown to be ahead"
    )  # of two seeds little is
    assert "in the order of rl_only, sft_uniform, one_loop, sft_mined" in blocks[3]


def test_runs_of_other_settings_are_not_averaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path, monkeypatch, "made-dppo-s0", 0)
    store = made(tmp_path, monkeypatch, "made-dppo-s1", 1, "sft.epochs=6")
    rows = [line.split(" | ") for line in table(store, "made")[2:4]]
    assert [row[1] for row in rows] == ["1", "1"]
    assert [row[0].partition(" (")[2] for row in rows] == ["`as it is`)", "`sft.epochs=6`)"]


def test_a_run_that_the_gate_stopped_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = made(tmp_path, monkeypatch, "made-dppo-s0", 0)
    prefix = "runs/made-dppo-s0/loop-1/eval-sft"
    found = read_manifest(store, prefix)
    assert found is not None
    metrics = found.metrics | {"go_on": 0.0}
    commit_manifest(store, prefix, found.model_copy(update={"metrics": metrics}))
    lines = table(store, "made")
    assert "; 1 whose last loop the gate refused | 1 |" in lines[2]
    assert " | 1, the last refused by the gate | " in lines[-1]
    cells = lines[-1].split(" | ")
    assert cells[1] == cells[2] and cells[3].startswith("+0.0")  # what is left is the base


def test_a_complete_run_of_a_cluster_is_passed_over(
    bucket: Bucket,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KFP_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv(env.REUSE, "on")
    store, more = bucket.store(), " ".join(world.overrides)
    asked = find_recipe("tiny", [CONTROLS["dppo"].settings(0, more)])
    kept = as_kept(store, asked, "kubeflow")
    assert kept.models.policy.startswith(store.uri)
    store.write("runs/made-dppo-s0/recipe.json", kept.model_dump_json().encode())
    store.write("runs/made-dppo-s0/summary.json", b'{"state": "complete"}')
    chosen = {"dppo": CONTROLS["dppo"]}
    assert run_all(chosen, [0], "made", more, store=store.uri, launcher="kubeflow") == []
    assert "# made-dppo-s0 is complete\n" in capsys.readouterr().out


def submit(world: World, *arguments: str, overrides: str = "") -> subprocess.CompletedProcess[str]:
    """Without SFT, so that a run has six stages."""
    more = f"sft.enabled=false loops=1 {overrides}"
    command = ["--pipeline", "ablations", "--results", str(world.root / "results.md"), *arguments]
    return subprocess.run(
        world.submit_command(*command, overrides=more),
        env=world.environment(),
        capture_output=True,
        text=True,
    )


@pytest.mark.long
def test_a_set_runs_once_shares_stages_and_writes_its_table(world: World) -> None:
    arguments = ["--variants", "dppo,random_sampling", "--seeds", "0", "--run", "try"]
    done = submit(world, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (world.root / "results.md").read_text()
    assert "| dppo: RL and SFT in turn" in page and "| try-random-sampling-s0 |" in page
    assert "make submit RECIPE=tiny+random_sampling SET=" in page
    assert page.count(" | 4 | 1 | 0 | - | ") == 2  # steps, thousands of tokens; no model computed
    assert "<!-- ablations try: begin -->" in page

    first, second = (manifests(world.store, f"try-{n}-s0") for n in ("dppo", "random-sampling"))
    taken = {
        f"{m.stage}-{m.phase}": m.notes["taken_from"] for m in second if "taken_from" in m.notes
    }
    assert taken == {
        name: f"runs/try-dppo-s0/loop-{0 if name == 'eval-base' else 1}/{name}"
        for name in ("eval-base", "rollout-rl", "reward-rl", "eval-rl")  # of equal made checkpoints
    }
    assert not any("taken_from" in m.notes for m in first)
    by_name = {(m.stage, m.phase): m for m in first}
    for copy in second:
        if "taken_from" in copy.notes:
            original = by_name[copy.stage, copy.phase]
            assert copy.run == "try-random-sampling-s0"
            assert copy.digest() == original.digest()
            assert copy.counts == original.counts

    again = submit(world, *arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count(" is complete\n") == 2 and "started" not in again.stdout
    assert (world.root / "results.md").read_text() == page

    fewer = submit(world, "--variants", "dppo", "--seeds", "0", "--run", "try")
    assert fewer.returncode == 0, fewer.stdout + fewer.stderr
    assert (world.root / "results.md").read_text() == page  # another's runs stay in the table

    other = submit(world, *arguments, overrides="rl.max_steps=5")
    assert other.returncode == 1
    assert "was started with another recipe: rl.max_steps" in other.stdout
    assert "2 of 2 runs failed: try-dppo-s0, try-random-sampling-s0" in other.stderr
    assert (world.root / "results.md").read_text() == page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "rlonly"], "there is no ablation 'rlonly'; did you mean 'rl_only'?"),
        (["--seeds", "0,x"], "--seeds is '0,x'; give whole numbers"),
        (["--recipe", "pelican_7b"], "chosen for the recipe 'tiny'"),
        (["--run", "No"], "lower-case letters"),
        (["--set", "rl.max_step=2"], "did you mean 'rl.max_steps'"),
        (["--results", "nowhere/page.md"], "there is no folder nowhere for page.md"),
    ],
)
def test_a_mistake_is_told_before_the_first_run(
    world: World, arguments: list[str], message: str
) -> None:
    command = world.command("submit", "--pipeline", "ablations", *arguments)
    done = subprocess.run(command, env=world.environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
    assert not world.store.exists("runs")


def test_without_a_complete_run_there_is_no_table(world: World) -> None:
    world.store.write("runs/results-one-loop-s0/logs/pipeline.log", b"")
    assert table(world.store, "results") == [NOTHING]
