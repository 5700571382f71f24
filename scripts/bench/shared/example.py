"""The example of this repository, as something that is built."""

import hashlib
import shutil

from lab import Failed
from tools import REPOSITORY

# Where the outputs of the example are.
OUTPUTS = "out"


def example(lab):
    """A copy of the example's workspace."""
    space = lab.directory("space")
    shutil.copyfile(REPOSITORY / "graph.json", space / "graph.json")
    shutil.copytree(REPOSITORY / "tests/workload", space / "tests/workload")
    return space


def edit_example(space):
    """Changes one line of a package that all services link, so that what is compiled changes too."""
    file = space / "tests/workload/packages/models/src/notation.rs"
    line = "if parser.at == text.len() {"
    source = file.read_text()
    if source.count(line) != 1:
        raise Failed(f"{file.name} has not one line '{line}'")
    file.write_text(source.replace(line, "if parser.at == text.len() && text.len() < 1 << 30 {"))


def outputs(space):
    """The outputs of a workspace: size by content."""
    files = [path for path in (space / OUTPUTS).rglob("*") if path.is_file()]
    return {hashlib.sha256(path.read_bytes()).digest(): path.stat().st_size for path in files}
