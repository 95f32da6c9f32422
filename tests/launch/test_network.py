"""Who reaches whom under the NetworkPolicies of each overlay, as `kubectl` renders it."""

from __future__ import annotations

import subprocess
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.monitoring.servers import program

Tree = dict[str, Any]
STAGE = {"app.kubernetes.io/managed-by": "pelican"}
TRIGGER = {"app": "pelican-trigger"}
STORE = {"app.kubernetes.io/name": "minio"}
GATEWAY = {"app.kubernetes.io/name": "pelican-pushgateway"}
PROMETHEUS = {"app.kubernetes.io/name": "prometheus"}
SCRAPES, TRIGGERS = {"pelican/may-scrape": "true"}, {"pelican/may-trigger": "true"}
HERE: dict[str, str] = {}  # the namespace of the policies
OTHER = {"kubernetes.io/metadata.name": "other"}

Pod = tuple[dict[str, str], dict[str, str]]  # labels of a pod, and of its namespace
Side = Pod | str  # or an address outside


def render(folder: Path, *components: str) -> list[Tree]:
    """The policies of a folder of `manifests/`, with components beside what it has."""
    command = [program("kubectl"), "kustomize"]
    done = subprocess.run(
        [*command, str(ROOT / "manifests" / folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    more = [yaml.safe_load((ROOT / "manifests" / name).read_text()) for name in components]
    trees = [*yaml.safe_load_all(done.stdout), *more]
    return [tree for tree in trees if tree["kind"] == "NetworkPolicy"]


def selects(selector: Tree, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    excluded = any(
        labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", [])
    )
    return wanted and not excluded


def is_peer(peer: Tree, side: Side) -> bool:
    if isinstance(side, str):
        return "ipBlock" in peer and ip_address(side) in ip_network(peer["ipBlock"]["cidr"])
    if "ipBlock" in peer:
        return False
    labels, namespace = side
    there = peer.get("namespaceSelector")
    in_place = namespace == HERE if there is None else selects(there, namespace)
    return in_place and selects(peer.get("podSelector", {}), labels)


def lets(policies: list[Tree], way: str, of: Side, other: Side, port: str | int) -> bool:
    """Whether the policies let `of` speak with `other` that way; a pod without one is free."""
    if isinstance(of, str) or of[1] != HERE:
        return True
    own = [
        p["spec"]
        for p in policies
        if way in p["spec"]["policyTypes"] and selects(p["spec"]["podSelector"], of[0])
    ]
    peers = "from" if way == "Ingress" else "to"
    return not own or any(
        (peers not in rule or any(is_peer(peer, other) for peer in rule[peers]))
        and ("ports" not in rule or port in [p["port"] for p in rule["ports"]])
        for spec in own
        for rule in spec.get(way.lower(), [])
    )


def reaches(policies: list[Tree], source: Side, target: Side, port: str | int) -> bool:
    return lets(policies, "Egress", source, target, port) and lets(
        policies, "Ingress", target, source, port
    )


EVERYWHERE: list[tuple[Side, Side, str | int, bool]] = [
    ((STAGE, HERE), (STAGE, HERE), 23456, True),
    ((STAGE, HERE), ({}, OTHER), 53, True),
    ((STAGE, HERE), "169.254.20.10", 53, True),
    ((STAGE, HERE), "8.8.8.8", 53, False),
    ((STAGE, HERE), "8.8.8.8", 443, False),
    ((STAGE, HERE), "8.8.8.8", 9000, False),
    ((STAGE, HERE), "169.254.169.254", 80, False),
    ((STAGE, HERE), "10.96.0.1", 443, False),
    ((STAGE, HERE), ({}, OTHER), 443, False),
    ((STAGE, HERE), ({}, OTHER), 9000, False),
    (({}, HERE), (STAGE, HERE), "metrics", False),
    (({}, OTHER), (STAGE, HERE), 23456, False),
]


@pytest.mark.parametrize("overlay", ["gpu", "local", "multi-user"])
def test_stages_reach_each_other_and_the_dns_and_nobody_else(overlay: str) -> None:
    policies = render(Path("overlays", overlay))
    wrong = [case for case in EVERYWHERE if reaches(policies, *case[:3]) is not case[3]]
    assert wrong == []
    assert reaches(policies, (STAGE, HERE), (STORE, HERE), "s3") is (overlay == "local")
    assert reaches(policies, (STAGE, HERE), "192.0.2.7", 443) is (overlay != "local")


def test_prometheus_reaches_the_metrics_and_stages_the_gateway() -> None:
    policies = render(Path("overlays", "local"), "monitoring/network.yaml")
    for namespace in (HERE, SCRAPES):
        assert reaches(policies, (PROMETHEUS, namespace), (STAGE, HERE), "metrics")
        assert not reaches(policies, (PROMETHEUS, namespace), (STAGE, HERE), 23456)
        assert not reaches(policies, ({}, namespace), (STAGE, HERE), "metrics")
    assert not reaches(policies, (PROMETHEUS, OTHER), (STAGE, HERE), "metrics")
    assert reaches(policies, (STAGE, HERE), (GATEWAY, HERE), "http")
    wrong = [case for case in EVERYWHERE if reaches(policies, *case[:3]) is not case[3]]
    assert wrong == []


def test_events_come_from_the_store_and_probes_from_prometheus() -> None:
    policies = render(Path("trigger"))
    cases: list[tuple[Pod, str, bool]] = [
        ((STORE, HERE), "http", True),
        (({}, TRIGGERS), "http", True),
        (({}, OTHER), "http", False),
        ((STAGE, HERE), "http", False),
        ((STORE, HERE), "probes", False),
        ((PROMETHEUS, SCRAPES), "probes", True),
        ((PROMETHEUS, HERE), "probes", True),
        ((PROMETHEUS, OTHER), "probes", False),
        (({}, TRIGGERS), "probes", False),
    ]
    wrong = [c for c in cases if reaches(policies, c[0], (TRIGGER, HERE), c[1]) is not c[2]]
    assert wrong == []


def test_the_triggers_probes_ask_the_port_that_is_theirs() -> None:
    tree = yaml.safe_load((ROOT / "manifests/trigger/deployment.yaml").read_text())
    pod = tree["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == "probes"
    ports = {p["name"]: str(p["containerPort"]) for p in container["ports"]}
    args = container["args"]
    assert args[args.index("--probe-port") + 1] == ports["probes"] != ports["http"]
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == ports["probes"]
    (service,) = yaml.safe_load_all((ROOT / "manifests/trigger/service.yaml").read_text())
    assert [p["targetPort"] for p in service["spec"]["ports"]] == ["http"]
