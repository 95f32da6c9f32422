"""The calls of the Kubernetes API, against a server that pages as the real one does."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from pelican.launch.kube import Kube
from tests.endpoints import Answer, Request, serving


@pytest.fixture
def events() -> list[dict[str, object]]:
    """1,200 of other jobs, by name before and after the one that matters."""
    names = [*(f"a-{n}" for n in range(700)), "stuck", *(f"z-{n}" for n in range(499))]
    return [
        {"type": "Warning", "involvedObject": {"name": name}, "lastTimestamp": f"{n:04d}"}
        for n, name in enumerate(names)
    ]


def test_a_warning_is_found_among_more_than_a_page(
    events: list[dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, list[str]]] = []

    def answer(request: Request) -> Answer:
        query = parse_qs(urlsplit(request.path).query)
        asked.append(query)
        begin = int(query.get("continue", ["0"])[0])
        end = begin + int(query["limit"][0])
        following = {"continue": str(end)} if end < len(events) else {}
        return 200, {"items": events[begin:end], "metadata": following}

    with serving(answer) as address:
        cluster = {"name": "c", "cluster": {"server": address}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        user = {"name": "u", "user": {}}
        config = tmp_path / "config"
        config.write_text(
            yaml.safe_dump(
                {
                    "clusters": [cluster],
                    "contexts": [context],
                    "users": [user],
                    "current-context": "c",
                }
            )
        )
        monkeypatch.setenv("KUBECONFIG", str(config))
        found = Kube("pelican").warnings({"stuck", "a-3"})
    assert [e["involvedObject"]["name"] for e in found] == ["a-3", "stuck"]  # the newest last
    assert [query.get("continue") for query in asked] == [None, ["500"], ["1000"]]
    assert all(query["fieldSelector"] == ["type=Warning"] for query in asked)
