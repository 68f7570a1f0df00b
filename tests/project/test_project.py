"""The project about itself: what an import costs, what is public, what is documented, what is fresh."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import cliphouse
from cliphouse import errors
from cliphouse.cli.main import cli

ROOT = Path(__file__).parents[2]
HEAVY = (
    "chdb",
    "clickhouse_connect",
    "numpy",
    "pyarrow",
    "pandas",
    "PIL",
    "onnxruntime",
    "torch",
    "click",
    "matplotlib",
    "rich",
    "sqlglot",
    "urllib3",
    "obstore",
)


def _all_errors() -> list[type[errors.CliphouseError]]:
    found, queue = [], [errors.CliphouseError]
    while queue:
        error = queue.pop(0)
        found.append(error)
        queue += error.__subclasses__()
    return found


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = f"import sys, cliphouse; print([name for name in {HEAVY!r} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_public_names_are_listed_once_and_exist() -> None:
    assert sorted(set(cliphouse.__all__)) == sorted(cliphouse.__all__)
    for name in cliphouse.__all__:
        assert getattr(cliphouse, name).__doc__, name
        assert name in dir(cliphouse)
    with pytest.raises(AttributeError, match="nothing"):
        _ = cliphouse.nothing


@pytest.mark.parametrize("error", _all_errors(), ids=lambda error: error.__name__)
def test_every_error_has_its_codes_where_they_are_documented(error: type[errors.CliphouseError]) -> None:
    row = f"| `{error.__name__}` | {error.exit_code} | {error.http_status} |"
    assert row in (ROOT / "docs/reference/errors.md").read_text()
    pattern = rf"^ +{error.__name__}\b.* exit {error.exit_code}  http {error.http_status}"
    assert re.search(pattern, errors.__doc__ or "", re.MULTILINE), "the tree at the top of errors.py"


def test_documented_commands_and_options_exist() -> None:
    known = {"cliphouse": cli}

    def walk(command: click.Command, path: str) -> None:
        for name, child in getattr(command, "commands", {}).items():
            known[f"{path} {name}"] = child
            walk(child, f"{path} {name}")

    walk(cli, "cliphouse")
    texts = [path.read_text() for path in [ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")]]
    lines = re.findall(r"^\$ (cliphouse .*)$|`(cliphouse [^`]*)`", "\n".join(texts), re.MULTILINE)
    assert len(lines) > 5
    for line in (first or second for first, second in lines):
        words = line.split()
        path = words[0]
        while f"{path} {words[len(path.split())] if len(words) > len(path.split()) else ''}" in known:
            path = f"{path} {words[len(path.split())]}"
        assert path != "cliphouse", line
        options = {option for parameter in known[path].params for option in parameter.opts}
        for option in re.findall(r"(?<= )--?[a-z][a-z-]*", re.sub(r"'[^']*'|\"[^\"]*\"", "", line)):
            assert option in options, (line, option)


def test_links_in_the_documentation_lead_somewhere() -> None:
    for page in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "benchmarks/README.md",
        *ROOT.glob("docs/**/*.md"),
    ]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), (page, target)


def test_the_readmes_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cliphouse import Collection
    from tests.data import write_shard

    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    write_shard(tmp_path / "in", 12, [f"word{row}" for row in range(400)])
    with Collection.open("./cliphouse-data", encoder="test-words") as collection:
        collection.load(tmp_path / "in")
    exec(code, names := {})
    names["laion"].close()
    assert "word345" in capsys.readouterr().out


def test_tables_of_figures_are_what_the_results_say() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "benchmarks.report", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


#: Longer files, and why: one error tree, and one list of what can be done with a collection, each read in one place.
LONG = {"errors.py", "collection.py"}


def test_source_files_stay_small() -> None:
    long = [path for path in ROOT.glob("src/**/*.py") if len(path.read_text().splitlines()) > 400]
    assert {path.name for path in long} <= LONG
