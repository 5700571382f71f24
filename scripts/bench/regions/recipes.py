"""The tasks of a graph.json for tools that are not netbuild: the same commands, inputs and outputs."""

import json
import re
import shlex
from dataclasses import dataclass

from lab import Failed

# Where the scripts are that run a command each, and what they leave to be counted by.
SCRIPTS = "recipes"
RAN = "ran"


@dataclass
class Recipe:
    """One task: what runs, what it reads and what it makes."""

    name: str
    command: str
    env: dict
    # Files of the workspace, and of the tasks that this one depends on.
    inputs: list
    made_by_others: list
    outputs: list

    def script(self):
        """What a shell runs for it. Each command has a directory for temporary files, as netbuild gives it one."""
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self.env.items())
        return (f"set -eu\n{exports}TMPDIR=$(mktemp -d)\nexport TMPDIR\ntrap 'rm -rf \"$TMPDIR\"' EXIT\n"
                f"echo {shlex.quote(self.name)} >>{RAN}\n{self.command}\n")

    def sources(self):
        return [*self.inputs, *self.made_by_others]


def recipes(lab, space):
    """The tasks of the workspace's graph.json."""
    graph = json.loads(lab.run(lab.here, [lab.netbuild, "graph", "export", "--format", "json"], cwd=space).stdout)
    tasks = graph["tasks"]
    found = []
    for name, task in tasks.items():
        command = task["command"]
        outputs = task.get("outputs", [])
        if any(output.endswith("/") for output in outputs):
            raise Failed(f"task {name}: a directory as an output is nothing that make knows")
        found.append(Recipe(
            name, command if isinstance(command, str) else shlex.join(command), task.get("env", {}),
            [str(path.relative_to(space)) for pattern in task.get("inputs", []) for path in sorted(space.glob(pattern))],
            [output for other in task.get("deps", []) for output in tasks[other]["outputs"]], outputs,
        ))
    return found


def write_scripts(space, found):
    (space / SCRIPTS).mkdir()
    for recipe in found:
        (space / SCRIPTS / f"{recipe.name}.sh").write_text(recipe.script())


def write_makefile(space, found):
    """A rule for each task; `&:` says that one run of it makes all its outputs."""
    everything = " ".join(output for recipe in found for output in recipe.outputs)
    rules = [f"all: {everything}\n"]
    for recipe in found:
        rules.append(f"{' '.join(recipe.outputs)} &: {' '.join(recipe.sources())}\n"
                     f"\t@sh {SCRIPTS}/{recipe.name}.sh\n")
    (space / "Makefile").write_text("\n".join(rules))


def write_ninja(space, found):
    rules = []
    for recipe in found:
        rules.append(f"rule {recipe.name}\n  command = sh {SCRIPTS}/{recipe.name}.sh\n"
                     f"build {' '.join(recipe.outputs)}: {recipe.name} {' '.join(recipe.sources())}\n")
    (space / "build.ninja").write_text("\n".join(rules))


def write_bazel(space, found):
    """A genrule for each task. Its command finds everything where the graph says, in a directory that is laid for
    it, since Bazel keeps what is made in another tree than the sources."""
    rules = []
    for recipe in found:
        lay = "".join(
            f"mkdir -p $$L/$$(dirname {file}) && cp -f {from_}{file} $$L/{file} && "
            for from_, files in (("", recipe.inputs), ("$(BINDIR)/", recipe.made_by_others)) for file in files)
        keep = "".join(f" && cp $$L/{output} $(BINDIR)/{output}" for output in recipe.outputs)
        cmd = (f"export L=$$(mktemp -d) && {lay}cp {SCRIPTS}/{recipe.name}.sh $$L/ && "
               f"(cd $$L && sh {recipe.name}.sh){keep} && rm -rf $$L")
        rules.append(f"genrule(\n    name = {json.dumps(recipe.name)},\n"
                     f"    srcs = {json.dumps([f'{SCRIPTS}/{recipe.name}.sh', *recipe.sources()])},\n"
                     f"    outs = {json.dumps(recipe.outputs)},\n    cmd = {json.dumps(cmd)},\n)\n")
    (space / "BUILD").write_text("\n".join(rules))
    (space / "WORKSPACE").write_text("")


def for_sccache(space):
    """Lets sccache see the compilers of the scripts, in the form that it caches: it refuses `-o`."""
    for script in (space / SCRIPTS).glob("*.sh"):
        text = re.sub(r"(?<= )-o (\S+)/lib\w+\.rlib", r"--emit=link --out-dir \1", script.read_text())
        script.write_text(re.sub(r"(?<!\S)rustc (?=\$FLAGS)", '"$SCCACHE" rustc ', text))


def ran(space):
    """How many commands ran in a workspace since this was last asked."""
    try:
        count = len((space / RAN).read_text().split())
        (space / RAN).unlink()
    except FileNotFoundError:
        count = 0
    return count
