"""Tables of bad inputs over all public surfaces: each ends in one sentence with status 2, and starts nothing.

What a person mistypes on the command line is in test_mistakes.py.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pelican.config.overrides import apply_overrides, fields
from pelican.config.presets import find_recipe
from pelican.errors import UserInputError
from pelican.runs.preflight import parse_recipe
from pelican.storage.checkpoints import check_checkpoint
from pelican.storage.weights import qwen_tensors
from tests.cli.test_mistakes import place, run
from tests.data.factory import sample, write_pool

__all__ = ["place"]  # a fixture
DEEP = "[" * 200_000
TINY = find_recipe("tiny")
JUDGE = {"reward.judge.endpoint": "http://judge/v1", "reward.judge.model": "m"}


def one_sentence(error: UserInputError) -> str:
    text = str(error)
    assert text and "\n" not in text and len(text) < 700, text
    assert "Traceback" not in text and "object at 0x" not in text, text
    return text


# Recipes: every field, with values of no field's kind, and some of each kind.

ANY = ("[{}]", '{"a": [1]}')
NUMBERS = ("many", "1e400", "[1, [2]]", "")
FIELDS = [
    (field, value)
    for field, default in fields(apply_overrides(TINY, JUDGE)).items()
    for value in ANY + (NUMBERS if type(default) in (int, float) else ())
    # Each stage has the same of them; a dictionary takes the second, a list of them the first.
    if not field.startswith("resources.") or field.startswith("resources.every.")
    if not (type(default) is dict and value == ANY[1])
    if not (field.endswith(".tolerations") and value == ANY[0])
]
RECIPES = [
    ("distill.endpoint", "file:///etc/passwd", "expected an http(s) URL"),
    ("distill.endpoint", "http://", "expected an http(s) URL"),
    ("distill.endpoint", "teacher:8000/v1", "expected an http(s) URL"),
    ("distill.endpoint", "http://h:99999/v1", "expected an http(s) URL"),
    ("reward.judge.endpoint", "ftp://judge/v1", "expected an http(s) URL"),
    ("reward.judge.workers", "100000", "less than or equal to 1024"),
    ("reward.judge.votes", "2", "take an odd number"),
    ("rollout.workers", "100000", "less than or equal to 4096"),
    ("rl.processes", "100000", "less than or equal to 4096"),
    ("sft.threads", "100000", "less than or equal to 4096"),
    ("data.horizon_s", "64,-1", "greater than 0"),
    ("data.horizon_s", "64,0", "greater than 0"),
    ("data.horizon_s", "[32, NaN]", "finite number"),
    ("data.horizon_s", "[32, Infinity]", "finite number"),
    ("data.horizon_s", "[]", "at least 1 item"),
    ("data.max_pixels", "0", "greater than 0"),
    ("data.samples_per_loop", "-1", "greater than 0"),
    ("gate.tolerances", '{"counting": -5}', "greater than or equal to 0"),
    ("gate.tolerances", '{"counting": NaN}', "finite number"),
    ("distill.ratio", "1,1", "expected more values"),
    ("distill.ratio", "1,1,1,1", "expected fewer values"),
    ("distill.ratio", "0,0,0", "not all 0"),
    ("distill.ratio", "[1, 1, Infinity]", "finite number"),
    ("loops", "11", "less than or equal to 10"),
    ("rl.clip_low", "0", "greater than 0"),
    ("rl.group_size", "1", "greater than 1"),
    ("rl.sampling.temperature", "0", "greedy completions are all equal"),
    ("rl.variant.updates", "9", "less than or equal to 8"),
    ("rollout.engine", "vlm", "'transformers'"),
    ("sft.warmup_share", "1", "less than 1"),
    ("name", "Tiny", "should match pattern"),
]


@pytest.mark.parametrize(("field", "value"), FIELDS)
def test_no_field_takes_what_is_not_of_its_kind(field: str, value: str) -> None:
    with pytest.raises(UserInputError) as caught:
        apply_overrides(TINY, {**JUDGE, field: value})
    assert field in one_sentence(caught.value)


@pytest.mark.parametrize(("field", "value", "words"), RECIPES)
def test_a_value_that_cannot_be_is_refused(field: str, value: str, words: str) -> None:
    with pytest.raises(UserInputError) as caught:
        apply_overrides(TINY, {**JUDGE, field: value})
    assert words in one_sentence(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "{}", DEEP, '{"loops": 1e999}'])
def test_a_recipe_that_is_none_is_refused_by_preflight(text: str) -> None:
    with pytest.raises(UserInputError, match="recipe") as caught:
        parse_recipe(text)
    one_sentence(caught.value)


# The environment, through the command line.

S3 = {"PELICAN_STORE": "s3://bucket/p", "S3_ENDPOINT_URL": "http://127.0.0.1:9"}
ENVIRONMENT: list[tuple[str, dict[str, str], str]] = [
    *(
        ("runs", {**S3, name: value}, f"{name}=")
        for name, values in {
            "S3_PATIENCE_S": ("inf", "nan", "-1", "1e400", "soon", "99999999"),
            "AWS_REGION": ("us east", "-x", "us/east", "x" * 80),
            "S3_PATH_STYLE": ("maybe",),
            "S3_TAG_WORK": ("1",),
            "S3_ENDPOINT_URL": (
                *("ftp://h", "http://", "http://h:99999", "http://h:x", "h:9000", "http://h/p"),
                *("http://h?x=1", "http://h:0"),
            ),
        }.items()
        for value in values
    ),
    ("runs", {**S3, "S3_ENDPOINT_URL": "http://user:pass@h"}, "holds a user or a password"),
    *(
        ("runs", {**S3, "PELICAN_STORE": store}, "store")
        for store in (
            *("s3://", "s3:///x", "s3://a", "s3://A_B!/x", "s3://../x", "s3://a b/x", "s3://u:p@h"),
            *("s3://10.0.0.1/x", "s3://a..b/x", "ftp://x/y", "gs://x/y", "S3://bucket", "http://x"),
        )
    ),
    *(
        ("runs", {**S3, "S3_ENDPOINT_URL": "https://127.0.0.1:9", name: value}, "S3_CA_BUNDLE=")
        for name in ("S3_CA_BUNDLE", "AWS_CA_BUNDLE")
        for value in ("/nowhere", "{}/text.txt", "{}/empty")
    ),
    *(
        ("reap", {"KUBECONFIG": f"{{}}/kube/{name}"}, "no cluster is configured (")
        for name in ("text", "binary", "list", "empty", "numbers", "cut", "deep", "nothing")
    ),
    ("reap", {"KUBECONFIG": "{}/empty"}, "no cluster is configured ("),
    *(
        ("submit", {name: value}, f"{name}={value!r} does not fit: it takes")
        for name, values in {
            "PELICAN_LEASE_S": ("soon", "0", "-1", "nan", "inf"),
            "PELICAN_IMAGE_CACHE_MB": ("much", "-1", "1.5"),
            "PELICAN_ROLLOUT_BATCH_SIZE": ("0x10", "-4"),
            "PELICAN_VIDEO_DECODER": ("vlc",),
            "PELICAN_REUSE": ("maybe", "1"),
            "PELICAN_METRICS_PORT": ("http", "99999", "host:", "-1"),
            "RANK": ("first", "-1"),
            "WORLD_SIZE": ("two",),
            "LOCAL_RANK": ("x",),
            "LOCAL_WORLD_SIZE": ("x",),
            "PET_NNODES": ("1:2x",),
            "MASTER_PORT": ("99999", "x"),
        }.items()
        for value in values
    ),
    *(
        ("submit", {name: value}, f"{name} does not fit: it takes")
        for name in (
            *("PELICAN_PUSHGATEWAY", "PELICAN_NOTIFY_URL", "PELICAN_NOTIFY_LINK"),
            "PELICAN_GENERATION_SERVERS",
        )
        for value in ("ftp://h/secret", "h:99999999/secret", "http://")
    ),
    ("stage reward --spec {}/spec.json", {"RANK": "x"}, "RANK='x'"),
    ("submit --launcher kubeflow", {**S3}, "needs KFP_HOST"),
    *(
        ("submit --launcher kubeflow", {**S3, "KFP_HOST": host}, "KFP_HOST does not fit")
        for host in ("kfp", "ftp://h", "http://", "http://h:x", "http://h:99999")
    ),
]


@pytest.fixture(autouse=True, scope="module")
def _kube(place: Path) -> None:
    folder = place / "kube"
    folder.mkdir(exist_ok=True)
    for name, data in {
        "text": b"hello",
        "binary": bytes(range(256)),
        "list": b"[1, 2]",
        "empty": b"",
        "numbers": b"apiVersion: v1\nclusters: 3\ncontexts: []\ncurrent-context: x\n",
        "cut": b"clusters: [1",
        "deep": b"[" * 5000,
    }.items():
        (folder / name).write_bytes(data)


@pytest.fixture(autouse=True)
def _nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any) -> None:
        raise AssertionError("a run was started")

    monkeypatch.setattr("pelican.cli.submit.run_here", start)


def refuses(
    line: str,
    words: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """The command says one sentence with these words, ends with 2, and leaves the store as it was."""
    before = sorted((place / "store").rglob("*"))
    ended = run(line, place, monkeypatch, capsys, variables)
    told = [text for text in ended.err.splitlines() if text.startswith("error: ")]
    assert ended.status == 2, ended
    assert len(told) == 1 and words in told[0] and len(told[0]) < 700, ended
    assert [t for t in ended.err.splitlines() if not t.startswith(("error: ", "skipped: "))] == []
    assert sorted((place / "store").rglob("*")) == before


@pytest.mark.parametrize(("line", "variables", "words"), ENVIRONMENT)
def test_a_variable_that_cannot_be_is_refused(
    line: str,
    variables: dict[str, str],
    words: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refuses(line, words, place, monkeypatch, capsys, variables)


@pytest.mark.parametrize("key", ["abc\ndef", "abc\x00", "schlüssel", "a\x7fb"])
def test_a_key_that_no_header_holds_is_told_without_it(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pelican.base import endpoint

    monkeypatch.setattr(endpoint.os, "environ", {"PELICAN_JUDGE_KEY": key})  # type: ignore[attr-defined]
    with pytest.raises(UserInputError, match="PELICAN_JUDGE_KEY holds") as caught:
        endpoint._read_key("PELICAN_JUDGE_KEY", "http://judge/v1")
    assert key not in one_sentence(caught.value)


def test_a_key_that_ends_with_a_newline_is_taken_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pelican.base import endpoint

    monkeypatch.setenv("PELICAN_JUDGE_KEY", "secret\r\n")
    monkeypatch.setenv("PELICAN_JUDGE_KEY_HOSTS", "judge")
    assert endpoint._read_key("PELICAN_JUDGE_KEY", "http://judge/v1") == {
        "Authorization": "Bearer secret"
    }


# Checkpoints.

CONFIG: dict[str, Any] = {
    "model_type": "qwen2_5_vl",
    "image_token_id": 5,
    "text_config": {
        **{"hidden_size": 8, "intermediate_size": 12, "vocab_size": 16, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "num_key_value_heads": 1},
    },
    "vision_config": {"depth": 1, "hidden_size": 4, "intermediate_size": 6, "patch_size": 2},
}


def write_header(file: Path, header: Any, size: int) -> None:
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))


def write_qwen(folder: Path, change: Callable[[dict[str, Any]], object] = dict) -> Path:
    """A checkpoint of Qwen2.5-VL, its weights 0; `change` is done to its header before it is laid out."""
    folder.mkdir(parents=True)
    added = {"added_tokens": [{"id": 5, "content": "<image>"}]}
    tokenizer = {"model": {"vocab": {f"t{i}": i for i in range(16)}}, **added}
    for name, tree in {
        "config.json": CONFIG,
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": {},
        "preprocessor_config.json": {},
    }.items():
        (folder / name).write_text(json.dumps(tree))
    header: dict[str, Any] = {
        f"model.{name}": {"dtype": "F32", "shape": list(shape)}
        for name, shape in qwen_tensors(CONFIG)
    }
    change(header)
    end = 0
    for tensor in header.values():
        size = prod(tensor["shape"]) * {"F32": 4, "BF16": 2, "I64": 8}[tensor["dtype"]]
        tensor["data_offsets"] = [end, end + size]
        end += size
    write_header(folder / "model.safetensors", {"__metadata__": {"format": "pt"}, **header}, end)
    return folder


EMBEDDING, LAST = "model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight"
HEADERS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "whole": (dict, ""),
    "bfloat16": (lambda h: [t.update(dtype="BF16") for t in h.values()], ""),
    "shape": (lambda h: h[LAST].update(shape=[8, 13]), "config.json tells of [8, 12]"),
    "transposed": (lambda h: h[LAST].update(shape=[12, 8]), "config.json tells of [8, 12]"),
    "vocabulary": (lambda h: h[EMBEDDING].update(shape=[32, 8]), "config.json tells of [16, 8]"),
    "type": (lambda h: h[LAST].update(dtype="I64"), "has the type I64, which is not trained"),
    "missing": (lambda h: h.pop(LAST), "layers.1.mlp.down_proj.weight is not there"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_weights_that_are_not_those_of_the_configuration(kind: str, tmp_path: Path) -> None:
    change, words = HEADERS[kind]
    folder = write_qwen(tmp_path / "model", change)
    if not words:
        return check_checkpoint("models.policy", str(folder))
    with pytest.raises(UserInputError, match=r"^models.policy: ") as caught:
        check_checkpoint("models.policy", str(folder))
    assert words in one_sentence(caught.value)


WEIGHTS = "model.safetensors"
ONE = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
FILES: list[tuple[str, Any, str]] = [
    # A header, or a text where it is a str; then a file of the checkpoint.
    (WEIGHTS, [], "not a whole safetensors file"),
    (WEIGHTS, None, "not a whole safetensors file"),
    (WEIGHTS, 7, "not a whole safetensors file"),
    (WEIGHTS, {"w": []}, "not a whole safetensors file"),
    (WEIGHTS, {"w": {}}, "not a whole safetensors file"),
    (WEIGHTS, {"w": {**ONE["w"], "data_offsets": 8}}, "not a whole safetensors file"),
    (WEIGHTS, {"w": {**ONE["w"], "data_offsets": [8]}}, "not a whole safetensors file"),
    (WEIGHTS, {"w": {**ONE["w"], "shape": None}}, "not a whole safetensors file"),
    (WEIGHTS, {"w": {**ONE["w"], "shape": [-2]}}, "not a whole safetensors file"),
    (WEIGHTS, {"w": {**ONE["w"], "shape": ["2"]}}, "not a whole safetensors file"),
    (WEIGHTS, {"w": {**ONE["w"], "shape": [3]}}, "w has 8 bytes, which are no F32"),
    (WEIGHTS, {"w": {**ONE["w"], "dtype": "F33"}}, "w has the type 'F33', which is none"),
    (WEIGHTS, {"w": {**ONE["w"], "dtype": []}}, "not a whole safetensors file"),
    (WEIGHTS, {}, "header tells of"),
    (WEIGHTS, DEEP, "not a whole safetensors file"),
    (WEIGHTS, "", "not a whole safetensors file"),
    (WEIGHTS, "\x7f\x7f\x7f\x7f\x7f\x7f\x7f\x7f{}", "not a whole safetensors file"),
    *(
        (name, text, f"{name} is not JSON")
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json")
        for text in ("", "[1]", "null", "{", DEEP, "\x00")
    ),
    ("model.safetensors.index.json", DEEP, "names no weights"),
    ("model.safetensors.index.json", '{"weight_map": 1}', "names no weights"),
    ("model.safetensors.index.json", '{"weight_map": {"w": "x"}}', "lacks x"),
    ("config.json", json.dumps({**CONFIG, "text_config": 1}), "does not fit together"),
    ("config.json", json.dumps({**CONFIG, "vision_config": {}}), "does not fit together"),
    (
        "config.json",
        json.dumps({**CONFIG, "text_config": {**CONFIG["text_config"], "num_attention_heads": 0}}),
        "does not fit together",
    ),
    (
        "config.json",
        json.dumps({**CONFIG, "text_config": {**CONFIG["text_config"], "num_hidden_layers": "x"}}),
        "does not fit together",
    ),
    ("config.json", json.dumps({**CONFIG, "image_token_id": 7}), "no token 7"),
    ("tokenizer.json", "{}", "does not fit together"),
    (
        "tokenizer.json",
        json.dumps({"added_tokens": [], "model": {"vocab": {"a": 16}}}),
        "tokens go to 16",
    ),
    ("tokenizer.json", json.dumps({"added_tokens": 3, "model": []}), "does not fit together"),
]


@pytest.mark.parametrize(("name", "content", "words"), FILES)
def test_a_checkpoints_file_that_cannot_be(
    name: str, content: Any, words: str, tmp_path: Path
) -> None:
    folder = write_qwen(tmp_path / "model")
    if name == WEIGHTS and content == DEEP:
        (folder / name).write_bytes(struct.pack("<Q", len(DEEP)) + DEEP.encode())
    elif name == WEIGHTS and not isinstance(content, str):
        write_header(folder / name, content, 8)
    else:
        (folder / name).write_text(content, "latin-1")
    with pytest.raises(UserInputError, match=r"^models.policy: ") as caught:
        check_checkpoint("models.policy", str(folder))
    assert words in one_sentence(caught.value)


# Pools and corrections, through the command line.


def spoil_bytes(path: Path, data: bytes) -> None:
    path.mkdir(parents=True)
    (path / "part.parquet").write_bytes(data)


def spoil_column(path: Path, column: str, values: Any) -> None:
    write_pool(path, [sample(i) for i in range(4)])
    shard = next(path.glob("*.parquet"))
    table = pq.read_table(shard)
    at = table.schema.get_field_index(column)
    pq.write_table(table.set_column(at, column, pa.array(values)), shard)


def spoil_version(path: Path, text: str) -> None:
    write_pool(path, [sample(i) for i in range(4)])
    (path / "version.json").write_text(text)


POOLS: dict[str, tuple[Callable[[Path], None], str]] = {
    "nothing": (lambda path: path.mkdir(), "no *.parquet shard"),
    "empty": (lambda path: spoil_bytes(path, b""), "readable Parquet"),
    "text": (lambda path: spoil_bytes(path, b"hello"), "readable Parquet"),
    "marks": (lambda path: spoil_bytes(path, b"PAR1PAR1"), "readable Parquet"),
    "footer": (
        lambda path: spoil_bytes(path, b"PAR1" + b"\xff" * 64 + b"PAR1"),
        "readable Parquet",
    ),
    "ids": (lambda path: spoil_column(path, "id", [1, 2, 3, 4]), "id"),
    "turns": (lambda path: spoil_column(path, "turns", ["x"] * 4), "turns"),
    "version empty": (lambda path: spoil_version(path, ""), "version.json can't be read"),
    "version list": (lambda path: spoil_version(path, "[]"), "version.json can't be read"),
    "version deep": (lambda path: spoil_version(path, DEEP), "version.json can't be read"),
    "version other": (lambda path: spoil_version(path, '{"id": 1}'), "version.json can't be read"),
}


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        *((kind, "data check {}") for kind in POOLS),
        *((kind, "data diff {} {}") for kind in list(POOLS)[:5]),
        *((kind, "submit --set data.train={}") for kind in list(POOLS)[:1]),
    ],
)
def test_a_pool_that_cannot_be(
    kind: str,
    line: str,
    tmp_path: Path,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil, words = POOLS[kind]
    spoil(tmp_path / "pool")
    refuses(line.replace("{}", str(tmp_path / "pool")), words, place, monkeypatch, capsys)


CORRECTIONS = {
    "binary": bytes(range(128, 256)),
    "text": b"hello",
    "list": b"[1, 2]\n",
    "null": b"null\n",
    "deep": DEEP.encode(),
    "no id": b'{"action": "drop"}\n',
    "no action": b'{"id": "s00001"}\n',
    "action": b'{"id": "s00001", "action": "fly"}\n',
    "more": b'{"id": "s00001", "action": "drop", "x": 1}\n',
    "id": b'{"id": 7, "action": "drop"}\n',
    "nul": b"\x00\x00\x00\n",
    "twice": b'{"id": "s00001", "action": "drop"}\n' * 2,
}


@pytest.mark.parametrize("kind", CORRECTIONS)
def test_corrections_that_cannot_be(kind: str, tmp_path: Path) -> None:
    from pelican.data.corrections import read_corrections

    path = tmp_path / "fixes.jsonl"
    path.write_bytes(CORRECTIONS[kind])
    with pytest.raises(UserInputError, match=r"fixes\.jsonl") as caught:
        read_corrections(path)
    one_sentence(caught.value)


# Specifications of a stage, recipes' files and models: JSON that a program wrote.

JSON = ["", "{", "[]", "null", "7", '"x"', "{}", '{"stage": 1}', "\x00", "\ufeff{", DEEP]


@pytest.mark.parametrize("text", JSON, ids=range(len(JSON)))
def test_a_specification_that_cannot_be(
    text: str,
    tmp_path: Path,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "spec.json").write_text(text)
    line = f"stage reward --spec {tmp_path}/spec.json"
    refuses(line, "spec.json", place, monkeypatch, capsys)


def test_there_are_hundreds() -> None:
    tables = (FIELDS, RECIPES, ENVIRONMENT, HEADERS, FILES, POOLS, CORRECTIONS, JSON)
    assert sum(len(list(table)) for table in tables) > 400
