"""What is built: the example of this repository, or something tiny to see whether all works."""

import json
from dataclasses import dataclass
from typing import Callable

import example


@dataclass
class Workload:
    """A build, and an edit of it."""

    about: str
    # Makes a workspace of it.
    checkout: Callable
    # Changes one line of a source in a workspace.
    edit: Callable
    tasks: int


EXAMPLE = Workload("the example of this repository, 18 tasks", example.example, example.edit_example, 18)


def tiny_checkout(lab):
    """Three tasks of a moment each, with the outputs of a larger one of them."""
    space = lab.directory("space")
    tasks = {
        "numbers": {"command": "mkdir -p out && seq 1 60000 | sed -f lines.sed > out/numbers",
                    "inputs": ["lines.sed"], "outputs": ["out/numbers"]},
        "squares": {"command": "awk '{ print $1 * $1 }' out/numbers > out/squares",
                    "deps": ["numbers"], "outputs": ["out/squares"]},
        "report": {"command": ["sh", "-c", "cat out/numbers out/squares | cksum > out/report"],
                   "deps": ["numbers", "squares"], "outputs": ["out/report"]},
    }
    (space / "graph.json").write_text(json.dumps({"version": "1", "default": "report", "tasks": tasks}))
    (space / "lines.sed").write_text("s/^7$/seven/\n")
    return space


def tiny_edit(space):
    (space / "lines.sed").write_text("s/^7$/seven and a half/\n")


TINY = Workload("three tasks of a moment each", tiny_checkout, tiny_edit, 3)
