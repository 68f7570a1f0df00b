"""Render benchmarks/REPORT.md, the plots of each run, and the tables in other pages from the newest result of each run.

    python -m benchmarks.report [--check] [--root DIR]

README.md and the pages in docs/ get one table for each pair of marks `<!-- benchmark:RUN -->` and
`<!-- /benchmark -->`; some runs have further tables, as `<!-- benchmark:RUN-plan -->`. A table of a run that has a file
and no result yet says so. With `--check` nothing is
written: exit status 1 says that a text differs from what the results render to.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import encoder_text, exact_text, index_text, loading_text, plan_text, text

ROOT = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(r"(<!-- benchmark:([\w-]+) -->\n).*?(<!-- /benchmark -->)", re.DOTALL)

#: What renders a result, by its kind; a result that names none is of a search.
_TEXTS: Mapping[str, Any] = {
    "search": text,
    "encoders": encoder_text,
    "exact": exact_text,
    "loading": loading_text,
    "indexes": index_text,
    "plan": plan_text,
}
#: Tables besides the short one, by the kind of the result, and what their marks add to the run's name.
_FURTHER: Mapping[str, Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "loading": {"plan": loading_text.plan_table},
    "indexes": {
        "plot": index_text.plot_link,
        "targets": index_text.targets_table,
        "standing": index_text.standing_table,
        "recalls": index_text.recalls_table,
        "filters": index_text.filters_table,
    },
    "plan": {"fit": plan_text.fit_table},
}

#: The runs that the cost model is held to.
CHECKED = ("indexes-1m", "indexes-4m")

ResultFile = tuple[Path, Mapping[str, Any]]


def newest_results(directory: Path) -> list[ResultFile]:
    """The newest result of each run, by its date, in order of the runs' names."""
    newest: dict[str, ResultFile] = {}
    for path in sorted(directory.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        known = newest.get(result["run"])
        if known is None or known[1]["date"] <= result["date"]:
            newest[result["run"]] = path, result
    return [newest[run] for run in sorted(newest)]


def render(root: Path, results: Sequence[ResultFile]) -> dict[Path, str]:
    """The text of every file that is made from results, by its path. No results, no report.

    Raises:
        ValueError: a page asks for a table that no result gives.
    """
    texts = {}
    known = {result["run"] for _, result in results}
    awaited = [path.stem for path in root.glob("benchmarks/runs/*.toml") if path.stem not in known]
    if results:
        texts[root / "benchmarks" / "REPORT.md"] = report(results)
    for page in (root / "README.md", *sorted(root.glob("docs/**/*.md"))):
        if page.exists() and _BLOCK.search(written := page.read_text(encoding="utf-8")):
            texts[page] = with_tables(written, results, page.relative_to(root).as_posix(), awaited)
    return texts


def report(results: Iterable[ResultFile]) -> str:
    """The whole of REPORT.md."""
    head = (
        "# Benchmark report\n\nMade by `python -m benchmarks.report` from the newest result of each run; do not edit. "
        "[README.md](README.md) says what is measured and how.\n"
    )
    return "\n".join([head, *(_texts(result).section(path.name, result) for path, result in results)])


def with_tables(
    page: str, results: Iterable[ResultFile], name: str = "README.md", awaited: Collection[str] = ()
) -> str:
    """`page` with each table that it marks; `name` is its own, for the message. `awaited` runs have no result yet."""
    tables: dict[str, Callable[[], str]] = {}
    known = [result for _, result in results]
    for result in known:
        tables[result["run"]] = partial(_texts(result).short_table, result)
        for table, render_table in _FURTHER.get(kind_of(result), {}).items():
            tables[f"{result['run']}-{table}"] = partial(render_table, result)
        if kind_of(result) == "plan":
            checked = [each for each in known if each["run"] in CHECKED]
            tables[f"{result['run']}-check"] = partial(plan_text.check_table, result, checked)

    def block(match: re.Match[str]) -> str:
        asked = match.group(2)
        if any(asked == run or asked.startswith(f"{run}-") for run in awaited):
            return f"{match.group(1)}Not measured yet.\n{match.group(3)}"
        if asked not in tables:
            raise ValueError(f"{name} asks for the table {asked}, which no result in benchmarks/results gives")
        return f"{match.group(1)}{tables[asked]()}{match.group(3)}"

    return _BLOCK.sub(block, page)


def _texts(result: Mapping[str, Any]) -> Any:
    """The module whose `section` and `short_table` speak of such results."""
    return _TEXTS[kind_of(result)]


def kind_of(result: Mapping[str, Any]) -> str:
    """Which question the run asked."""
    return str(result.get("kind", "search"))


def stale(texts: Mapping[Path, str]) -> list[Path]:
    """The files that hold something else than their text."""
    return [path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]


def main() -> int:
    parser = argparse.ArgumentParser(description="Render the report, the plots and the tables in pages from results.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a text is stale")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to work on; this one if not given")
    options = parser.parse_args()
    results = newest_results(options.root / "benchmarks" / "results")
    texts = render(options.root, results)
    if options.check:
        for path in stale(texts):
            print(f"{path} is stale; run python -m benchmarks.report", file=sys.stderr)
        return 1 if stale(texts) else 0
    if not results:
        print("there are no results to report; run python -m benchmarks.run", file=sys.stderr)
        return 1
    from benchmarks import encoder_plot, exact_plot, index_plot, loading_plot, plot  # --check must not need matplotlib

    draw = {
        "search": plot.draw,
        "encoders": encoder_plot.draw,
        "exact": exact_plot.draw,
        "loading": loading_plot.draw,
        "indexes": index_plot.draw,
    }

    for path in stale(texts):
        path.write_text(texts[path], encoding="utf-8")
    for _, result in results:
        if kind_of(result) in draw:
            draw[kind_of(result)](result, options.root / "benchmarks" / f"{result['run']}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
