"""Results as Markdown tables, each with what it was measured on."""

from report import COLUMNS


def document(results):
    """All parts one after the other, and the targets in one table before them."""
    text = ["# Benchmark", "", *targets(results), ""]
    for part in results.values():
        text += [*of_part(part), ""]
    return "\n".join(text).rstrip() + "\n"


def targets(results):
    found = [(name, target) for name, part in results.items() for target in part["targets"]]
    if not found:
        return []
    lines = table(["part", "what", "measured", "target", ""], [
        [name, target["what"], figure(target["value"]),
         f"{'at least' if target['at_least'] else 'at most'} {target['bound']:g}", verdict(target)]
        for name, target in found
    ], left=2)
    return lines


def verdict(target):
    return {True: "met", False: "**missed**", None: "not measured"}[target["met"]]


def figure(value):
    return "-" if value is None else f"{value:.3g}"


def of_part(part):
    lines = [f"## {part['name']}: {part['about']}", ""]
    for measured in part["tables"]:
        lines += [f"{measured['title']}:", "", *of_table(measured), ""]
    for target in part["targets"]:
        bound = f"{'at least' if target['at_least'] else 'at most'} {target['bound']:g}"
        lines.append(f"- {target['what']}: {figure(target['value'])}, target {bound}: {verdict(target)}")
    lines += [f"- {note}" for note in part["notes"]]
    if part["fast"]:
        lines.append("- these are figures of --fast: they say that all works, and nothing else")
    lines += [f"- {conditions(part)}", ""]
    return lines


def conditions(part):
    machine = part["machine"]
    return (f"{machine['processors']} x {machine['cpu']}, {machine['memory_gib']:g} GiB, Linux {machine['kernel']}, "
            f"TCP {machine['tcp_congestion_control']}, load {machine['load_at_start']:g} at the start; "
            f"{part['emulated']}; {part['netbuild']}, commit {part['commit']}; medians of {part['runs']} (of whole builds by netbuild, sccache and, after an edit, make: one); "
            f"`{part['command']}`, {part['date']}")


def of_table(measured):
    columns, rows, reasons = measured["columns"], [], []
    for row in measured["rows"]:
        if row["not_run"]:
            reasons.append(f"{row['tool']} is not in it: {row['not_run']}")
            continue
        rows.append([row["tool"], *(cell(name, row["median"].get(name)) for name in columns)])
    lines = table(["", *(COLUMNS[name][0] for name in columns)], rows, left=1) if rows else []
    return lines + [line for reason in reasons for line in ("", reason)]


def cell(name, value):
    _, unit, digits = COLUMNS[name]
    return "-" if value is None else f"{value / unit:.{digits}f}"


def table(heading, rows, left):
    """A table whose first columns are text and the others figures, as wide as they are in plain text, too."""
    widths = [max(len(line[column]) for line in [heading, *rows]) for column in range(len(heading))]
    widths = [max(width, 3) for width in widths]

    def line(cells):
        placed = [cell.ljust(width) if column < left else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(cells, widths))]
        return f"| {' | '.join(placed)} |"

    rule = [("-" * width if column < left else "-" * (width - 1) + ":") for column, width in enumerate(widths)]
    return [line(heading), f"| {' | '.join(rule)} |", *map(line, rows)]
