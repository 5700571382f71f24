"""A part of this benchmark: a part as all benchmarks have them, and what is drawn of it."""

from report import Part


class Chapter(Part):
    """A part with plots, and with what its links are."""

    def __init__(self, bench, name, about, links):
        super().__init__(bench.lab, name, about)
        self.links = links
        self.plots = []
        self.judged = bench.judged

    def at_least(self, what, value, bound):
        if self.judged:
            super().at_least(what, value, bound)

    def at_most(self, what, value, bound):
        if self.judged:
            super().at_most(what, value, bound)

    def draw(self, plot, title, table, column):
        """Puts the rows of a table into a plot, as a group of bars of this title."""
        self.plots.append({"plot": plot, "title": title, "column": column, "table": self.tables.index(table)})

    def to_json(self):
        return {**super().to_json(), "links": self.links, "plots": self.plots}
