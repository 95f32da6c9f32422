"""What a person mistypes: each ends in one sentence with status 2, before anything is started."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pelican.cli.main import main
from pelican.config.env import home
from pelican.config.presets import find_recipe
from pelican.runs.layout import Submission
from pelican.storage.store import FolderStore
from tests.conftest import write_checkpoint
from tests.data.factory import sample, write_pool

RUN = "tiny-20260101-abcdef"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run, one damaged run and one model; files that are not what is asked for."""
    root = tmp_path_factory.mktemp("mistakes")
    recipe = find_recipe("tiny")
    asked = Submission(
        run=RUN,
        pipeline="metaloop",
        address="tiny",
        overrides=[],
        recipe=recipe.digest(),
        submitted=datetime(2026, 1, 1, tzinfo=UTC),
    )
    store = FolderStore(root / "store")
    store.write(f"runs/{RUN}/run.json", asked.model_dump_json().encode())
    store.write(f"runs/{RUN}/recipe.json", recipe.model_dump_json().encode())
    store.write(f"runs/{RUN}/logs/loop-1-train-rl-rl.log", b"step 1\n")
    store.write("runs/damaged/run.json", b"{broken")
    write_checkpoint(root / "whole")
    shutil.copytree(root / "whole", root / "half")
    (root / "half" / "tokenizer.json").unlink()
    write_pool(root / "pool", [sample(i) for i in range(4)])
    (root / "empty").mkdir()
    (root / "text.txt").write_text("hello")
    (root / "spec.json").write_text("{broken")
    (root / "cut").mkdir()
    shard = next((root / "pool").glob("*.parquet"))
    (root / "cut" / "part.parquet").write_bytes(shard.read_bytes()[:900])
    (root / "columns").mkdir()
    pq.write_table(pa.table({"x": [1]}), root / "columns" / "part.parquet")
    (root / "labels.csv").write_text("a,b\n1,2\n")
    (root / "latin.csv").write_bytes(b"id,family\n\xff,x\n")
    (root / "fly.jsonl").write_text('{"id": "x", "action": "fly"}\n')
    rows = '{"image": "nope.jpg", "conversations": [{"from": "human", "value": "<image> Where?"}, '
    (root / "chat.jsonl").write_text(rows + '{"from": "gpt", "value": "There"}]}\nnot JSON\n')
    return root


@dataclass(frozen=True)
class Ended:
    status: object
    out: str
    err: str


def run(
    line: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Ended:
    """The command line in this process; `{}` in it, and in the variables, is the made folder."""
    given = {"PELICAN_STORE": "{}/store", "KUBECONFIG": "{}/no-kubeconfig", **variables}
    for name, value in given.items():
        monkeypatch.setenv(name, value.replace("{}", str(place)))
    for name in {"KUBERNETES_SERVICE_HOST", "KFP_HOST", "PELICAN_LAUNCHER"} - given.keys():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(home())
    monkeypatch.setattr(sys, "argv", ["pelican", *line.replace("{}", str(place)).split()])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    return Ended(ended.value.code, told.out, told.err)


MISTAKES = [
    # The command line itself.
    ("frobnicate", "no such command 'frobnicate'"),
    ("recipe shwo", "did you mean 'show'?"),
    ("show", "missing argument 'run'; `pelican show --help`"),
    ("runs --stroe x", "--store"),
    ("runs extra", "unexpected extra argument(s) (extra)"),
    ("plan tiny --nodes 0", "greater than or equal to 1"),
    ("trigger poll --every soon", "valid number"),
    # Recipes and overrides.
    ("recipe show tyni", "did you mean 'tiny'?"),
    ("submit --recipe tiny+rl_onyl", "did you mean 'rl_only'?"),
    ("submit --recipe tiny+threshold", "threshold(0.5)"),
    ("submit --recipe tiny+threshold(7)", "threshold(7) is outside 0 to 1"),
    ("submit --recipe tiny+rl_only+sft_only", "neither rl.enabled nor sft.enabled"),
    ("submit --pipeline sft_only --recipe tiny+rl_only", "neither rl.enabled nor sft.enabled"),
    ("submit --pipeline rl_only --set rl.enabled=false", "neither rl.enabled nor sft.enabled"),
    ("compile rl_only -o {}/x.yaml --recipe tiny+sft_only", "neither rl.enabled nor sft.enabled"),
    ("submit --set loops=many", "loops=many does not fit: expected a whole number"),
    ("submit --set loops=0", "greater than or equal to 1"),
    ("submit --set rl.maxsteps=3", "did you mean 'rl.max_steps'?"),
    ("submit --set loops", "not of the form field=value"),
    ("submit --set rl=3", "rl is a section"),
    ("submit --set rl.learning_rate=nan", "expected a finite number"),
    # What a run reads: looked at before it gets a name.
    ("submit --set data.train=/nowhere", "there is nothing at /nowhere"),
    ("submit --set data.train={}/empty", "holds no *.parquet shard"),
    ("submit --set models.policy=/nowhere", "there is nothing at /nowhere"),
    ("submit --set models.policy={}/half", "lacks tokenizer.json or vocab.json; copy it again"),
    ("submit --set data.corrections=/nowhere", "data.corrections=/nowhere: there is nothing"),
    ("submit --set rollout.workers=4096", "rollout.workers=4096: this machine has"),
    ("submit --set rl.threads=4096", "rl.threads=4096: this machine has"),
    # Pipelines, launchers, runs, stores.
    ("submit --pipeline metalop", "did you mean 'metaloop'?"),
    ("submit --variants dppo", "--variants is of the pipeline ablations, not of metaloop"),
    ("submit --pipeline evaluate --seeds 1", "--seeds is of the pipeline ablations"),
    ("submit --pipeline retrain --data x --from tiny --run mine", "names its run after model"),
    ("submit --pipeline ablation", "did you mean 'ablations'?"),
    ("compile ablations -o {}/x.yaml", "`pelican submit --pipeline ablations` runs it"),
    ("submit --launcher moon", "there are auto, kubeflow, local, pytorchjob"),
    ("submit --launcher kubeflow", "set PELICAN_STORE=s3://bucket/prefix"),
    ("submit --data samples/train", "--set data.train=POOL"),
    ("submit --run Not_A_Name", "lower-case letters, digits and inner dashes"),
    (f"submit --run {RUN} --set loops=2", "loops (3, now 2); choose another run name"),
    (f"submit --run {RUN} --pipeline rl_only", "is of pipeline 'metaloop', not 'rl_only'"),
    ("submit --store {}/text.txt", "text.txt is a file; give a folder"),
    ("submit --store {}/text.txt/store", "can't be made"),
    ("submit --store ftp://x/y", "use a folder or s3://bucket/prefix"),
    ("runs --store {}/text.txt", "text.txt is a file; give a folder"),
    ("show tiny-20260101-abcdee", f"did you mean '{RUN}'?"),
    ("show ../x", "run name '../x' is not"),
    ("report nothing", "there is no run 'nothing'"),
    (f"report {RUN} --against nothing", "there is no run 'nothing'"),
    (f"compare {RUN} /nowhere/runs/x", "there is no run 'x' in /nowhere"),
    (f"compare {RUN} --output {{}}/empty", "empty is a folder; give the path of a file"),
    (f"compare {RUN} --output {{}}/text.txt/x.html", "give another path"),
    (f"logs {RUN} train-lr", "did you mean 'loop-1-train-rl-rl'?"),
    (f"cancel {RUN}", "Ctrl-C"),
    ("gc --days -1", "--days is -1"),
    ("gc --store /nowhere", "there is no store at /nowhere"),
    ("reap", "set KUBECONFIG"),
    # Plans, compilation, stages.
    ("plan tiny --gpu h1000", "did you mean 'h100'?"),
    ("plan pelican_7b", "give --samples"),
    ("compile metalop -o {}/x.yaml", "did you mean 'metaloop'?"),
    ("compile metaloop -o {}/x.txt", "does not end with .yaml"),
    ("compile metaloop -o {}/text.txt/x.yaml", "give another path"),
    ("stage rewards --spec x.json", "did you mean 'reward'?"),
    ("stage reward --spec /nowhere.json", "/nowhere.json cannot be read"),
    ("stage reward --spec {}/spec.json", "Invalid JSON"),
    # Data.
    ("data import /nowhere --out {}/new", "there is nothing at '/nowhere'"),
    ("data import {}/empty --out {}/new", "no reader recognises"),
    ("data import {}/text.txt --out {}/new", "name one with --reader"),
    ("data import {}/chat.jsonl --reader lava --out {}/new", "did you mean 'llava'?"),
    ("data import {}/chat.jsonl --out {}/new", "first: chat.jsonl, row 1:"),
    ("data import {}/chat.jsonl --out {}/text.txt", "choose another --out"),
    ("data import {}/chat.jsonl --out {}/text.txt/new", "give another path"),
    ("data import {}/chat.jsonl --out {}/new --map x", "write it as OLD=NEW"),
    ("data import {}/chat.jsonl --out {}/new --media /nowhere", "/nowhere is no folder"),
    ("data import {}/chat.jsonl --out {}/new --split val", "train, dev or test"),
    ("data import {}/chat.jsonl --out {}/new --step-s 0", "--step-s is 0; it takes 0.001 or more"),
    ("data import {}/chat.jsonl --out {}/new --workers -1", "--workers is -1; it takes 0 or more"),
    ("data import {}/chat.jsonl --out {}/new --max-bad 7", "a share from 0 to 1"),
    ("data check /nowhere", "there is no pool at /nowhere"),
    ("data check {}/cut", "is not a readable Parquet file"),
    ("data check {}/columns", "lacks the columns id"),
    ("data check {}/pool --threshold 3", "a share from 0 to 1"),
    ("data check {}/pool --page {}/text.txt/x.html", "give another path"),
    ("data diff {}/pool /nowhere", "there is no pool at /nowhere"),
    ("data correct {}/pool /nowhere.csv", "/nowhere.csv can't be read: No such file"),
    ("data correct {}/pool {}/labels.csv", "has no column id"),
    ("data correct {}/pool {}/latin.csv", "save it as CSV in UTF-8"),
    ("data versions /nowhere", "there is no pool at /nowhere"),
    ("data versions {}/pool", "has no versions"),
    # Models, benchmarks, retraining, the trigger.
    ("models add tiny /nowhere", "there is no checkpoint at /nowhere"),
    ("models add Bad_Name {}/whole", "lower-case letters, digits and inner dashes"),
    ("models show tiny", "there is no model 'tiny'"),
    ("models rollback tiny", "there is no model 'tiny'"),
    ("retrain", "pelican retrain --data VERSION --from MODEL"),
    ("retrain --data {}/pool --from tiny", "there is no model 'tiny'"),
    ("benchmark run where2plaec --data {}/empty --model x", "did you mean 'where2place'?"),
    ("benchmark run where2place --data /nowhere --model x", "give the benchmark's folder"),
    ("benchmark run where2place --data {}/empty --model /nowhere", "endpoint's URL to /v1"),
    (
        "benchmark run where2place --data {}/empty --model {}/half",
        "lacks tokenizer.json or vocab.json; copy",
    ),
    ("trigger serve", "PELICAN_TRIGGER_TOKENS_FILE"),
]


@pytest.mark.parametrize(("line", "words"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_one_sentence_and_status_2(
    line: str,
    words: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted(path.name for path in (place / "store" / "runs").iterdir())
    ended = run(line, place, monkeypatch, capsys)
    told = [x for x in ended.err.splitlines() if x.startswith("error: ")]
    assert ended.status == 2, ended
    assert len(told) == 1 and words in told[0], ended
    others = [x for x in ended.err.splitlines() if not x.startswith(("error: ", "left out: "))]
    assert others == [], ended
    assert sorted(path.name for path in (place / "store" / "runs").iterdir()) == before


def test_a_damaged_run_does_not_hide_the_others(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run("runs", place, monkeypatch, capsys)
    assert ended.status in (0, None)
    assert RUN in ended.out
    assert "runs/damaged/run.json is damaged" in ended.err


def test_of_a_damaged_run_what_is_whole_is_shown(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run("show damaged", place, monkeypatch, capsys)
    assert ended.status in (0, None) and "run     damaged, unfinished" in ended.out
    told = ended.err.splitlines()
    assert "runs/damaged/run.json is damaged" in told[0] and told[1:] == ["1 record was left out"]


@pytest.mark.parametrize("group", ["", "recipe", "data", "models", "trigger", "benchmark"])
def test_a_group_without_a_command_prints_its_help(
    group: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run(group, place, monkeypatch, capsys)
    assert "Commands" in ended.out
    assert ended.err == ""
