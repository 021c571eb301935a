"""Makes data/last-words.jsonl, a task like LAMBADA from text that an experiment has fetched:
`python benchmarks/last_words.py data/text/TEXT/documents.parquet data/last-words.jsonl`.

An item is a passage of some fifty words that ends with a sentence's last word, which is what the
model has to say. As in most of LAMBADA, the word has been used before in the passage; short words
and numbers are no items. Documents take turns, each with its next passage.
"""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
import typer

from splitcodec.files import write_text

WORDS = 50
SHORTEST = 5
END = re.compile(r"(?<=[.!?])\s+")
LAST = re.compile(r"^(?P<context>.*\S)(?P<word>\s[A-Za-z]+)[.!?]$", re.DOTALL)


def items_of(text: str) -> Iterator[dict[str, str]]:
    """The items of one document, in its order."""
    passage: list[str] = []
    for sentence in END.split(" ".join(text.split())):
        passage.append(sentence)
        whole = " ".join(passage)
        if len(whole.split()) < WORDS:
            continue
        passage = []
        found = LAST.match(whole)
        if found is None or len(found["word"]) <= SHORTEST:
            continue
        if found["word"].strip().lower() in re.findall(r"[a-z]+", found["context"].lower()):
            yield {"context": found["context"], "continuation": found["word"]}


def main(
    documents: Path,
    out: Path,
    since: Annotated[int, typer.Option(help="first year, by the documents' names")] = 2000,
    items: Annotated[int, typer.Option(min=1)] = 200,
) -> None:
    """Write the items and say how many there are."""
    table = pq.read_table(documents, columns=["document", "text"]).to_pylist()
    chosen = [row for row in table if int(re.search(r"\d+", row["document"])[0]) >= since]
    turns = itertools.zip_longest(*(items_of(row["text"]) for row in chosen))
    found = [item for turn in turns for item in turn if item is not None][:items]
    write_text(out, "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in found))
    print(f"{len(found)} items of {len(chosen)} documents in {out}")


if __name__ == "__main__":
    typer.run(main)
