"""Results as bars in SVG: one file for each plot, readable on light and on dark pages."""

from xml.sax.saxutils import escape

from report import COLUMNS

# The page, in pixels: bars begin behind the names and leave room for their figures.
WIDTH, NAMES, FIGURES, MARGIN = 760, 240, 80, 20
BAR, GAP, TITLE, GROUP = 16, 8, 30, 18

# A card of its own colour, since what is around it may be light or dark whatever the reader's system says.
STYLE = """
    .card { fill: #ffffff; stroke: #d1d9e0 } text { font: 13px system-ui, sans-serif; fill: #1f2328 }
    .title { font-weight: 600 } .figure { font-variant-numeric: tabular-nums }
    .bar { fill: #818b98 } .ours { fill: #0969da } .name-ours { font-weight: 600 }
    @media (prefers-color-scheme: dark) {
      .card { fill: #0d1117; stroke: #3d444d } text { fill: #f0f6fc } .bar { fill: #656c76 } .ours { fill: #4493f8 }
    }"""


def plots(results):
    """The SVG of each plot by its name, with the groups that parts put into it."""
    groups = {}
    for part in results.values():
        for drawn in part["plots"]:
            measured = part["tables"][drawn["table"]]
            bars = [(row["tool"], row["median"][drawn["column"]]) for row in measured["rows"]
                    if row["median"] and row["median"].get(drawn["column"]) is not None]
            if bars:
                groups.setdefault(drawn["plot"], []).append((drawn["title"], drawn["column"], bars))
    return {name: svg(found) for name, found in groups.items()}


def svg(groups):
    """Groups of bars below each other, each with a scale of its own that begins at zero."""
    shapes, y = [], MARGIN
    for title, column, bars in groups:
        heading, unit, digits = COLUMNS[column]
        shapes.append(text(MARGIN, y + 13, f"{title}, {heading}", "title"))
        y += TITLE
        most = max(value for _, value in bars) or 1
        for tool, value in bars:
            ours = tool.startswith("netbuild")
            width = max(1.0, (WIDTH - NAMES - FIGURES - 2 * MARGIN) * value / most)
            shapes.append(text(MARGIN + NAMES - 8, y + 13, tool, "name-ours" if ours else "", "end"))
            shapes.append(f'<rect class="bar{" ours" if ours else ""}" x="{MARGIN + NAMES}" y="{y}" '
                          f'width="{width:.1f}" height="{BAR}" rx="2"/>')
            shapes.append(text(MARGIN + NAMES + width + 6, y + 13, f"{value / unit:.{digits}f}", "figure"))
            y += BAR + GAP
        y += GROUP
    height = y - GROUP + MARGIN - GAP
    about = "; ".join(
        f"{title}: " + ", ".join(f"{tool} {value / COLUMNS[column][1]:.{COLUMNS[column][2]}f}" for tool, value in bars)
        for title, column, bars in groups)
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
             'role="img" aria-labelledby="about">', f'  <title id="about">{escape(about)}</title>',
             f"  <style>{STYLE}\n  </style>",
             f'  <rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6"/>']
    return "\n".join([*lines, *(f"  {shape}" for shape in shapes), "</svg>"]) + "\n"


def text(x, y, words, kind, anchor="start"):
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'
