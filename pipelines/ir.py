"""What a compiled pipeline says, apart from how kfp happened to number its parts."""

from __future__ import annotations

from typing import Any


def written_out(tree: dict[str, Any]) -> dict[str, Any]:
    """An IR with every component and executor in place of its name.

    kfp numbers the components of nested pipelines differently at each compilation.
    """
    executors = tree["deploymentSpec"]["executors"]

    def component(found: dict[str, Any]) -> dict[str, Any]:
        found = dict(found)
        if "executorLabel" in found:
            found["executor"] = executors[found.pop("executorLabel")]
        if "dag" in found:
            dag = dict(found["dag"])
            dag["tasks"] = {
                name: {
                    **task,
                    "componentRef": component(tree["components"][task["componentRef"]["name"]]),
                }
                for name, task in dag["tasks"].items()
            }
            found["dag"] = dag
        return found

    return {"root": component(tree["root"]), "pipeline": tree["pipelineInfo"]}


def graph_of(tree: dict[str, Any]) -> dict[str, Any]:
    """An IR written out, without its parameters' defaults: what makes it another version."""
    graph = written_out(tree)
    graph["root"].pop("inputDefinitions", None)
    return graph
