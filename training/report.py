"""Write the measured tables into the pages that show them: `python -m training.report`, with `--check` to compare."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from training.evaluate import RESULT
from training.export import SHIPPED

PAGES = (Path(__file__).with_name("README.md"), SHIPPED / "MODEL_CARD.md")
_BEGIN, _END = "<!-- results: python -m training.report -->\n", "<!-- end of results -->\n"


def table(result: dict[str, Any]) -> str:
    """The measured rows, and on what they were measured."""
    lines = ["| test | queries | pictures | R@1 | R@10 |", "| --- | ---: | ---: | ---: | ---: |"]
    for row in result["rows"]:
        rates = " | ".join(f"{row[f'hit_rate_at_{k}']:.1%}" for k in (1, 10))
        lines.append(f"| {row['test']} ({row['kind']}) | {row['queries']:,} | {row['gallery']:,} | {rates} |")
    trained, speed, versions = result["encoder"]["trained"], result["speed"], result["versions"]
    size = sum(file["bytes"] for file in result["encoder"]["files"].values()) / 1e6
    lines += [
        "",
        f"Measured {result['measured'][:10]} at {result['commit'][:12]}, {result['machine']['cpu']} with"
        f" {result['machine']['cores']} cores, not otherwise idle; onnxruntime {versions['onnxruntime']}.",
        f"Training: {trained['steps']:,} steps, {trained['seconds'] / 60:.0f} minutes. Files: {size:.1f} MB."
        f" A picture takes {speed['image_ms']} ms in batches, a text {speed['text_ms']} ms.",
        f"Mean cosine of its embeddings to those of float32 weights: {result['encoder']['int8_mean_cosine']}.",
        "",
    ]
    return "\n".join(lines)


def with_table(page: str, rendered: str) -> str:
    """The page with `rendered` between its markers."""
    before, _, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise SystemExit("the page has no markers for results")
    return f"{before}{_BEGIN}{rendered}{_END}{after}"


def main() -> None:
    """Render the committed result into the pages, or fail if they differ from it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true")
    check: bool = parser.parse_args().check
    rendered = table(json.loads(RESULT.read_text(encoding="utf-8")))
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        wanted = with_table(page, rendered)
        if check and wanted != page:
            raise SystemExit(f"{path} is not what {RESULT.name} says; run python -m training.report")
        path.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
