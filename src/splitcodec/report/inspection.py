"""What a container holds, for people: its header, its rate, and the table of its chunks."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from splitcodec.coding.container import Container


def describe(container: Container) -> dict[str, Any]:
    """Header and totals; rates in bits a token."""
    size, tokens = container.path.stat().st_size, sum(container.lengths)
    return {
        **container.header.model_dump(),
        "sequences": len(container),
        "tokens": tokens,
        "payload_bytes": container.payload_bytes,
        "file_bytes": size,
        "bits_per_token_payload": 8 * container.payload_bytes / tokens if tokens else None,
        "bits_per_token_file": 8 * size / tokens if tokens else None,
    }


def print_container(container: Container, chunks: int, verified: bool) -> None:
    """Print the description and the first `chunks` rows of the chunk table."""
    console = Console(soft_wrap=True, highlight=False)
    facts = Table.grid(padding=(0, 2))
    for name, value in describe(container).items():
        facts.add_row(name.replace("_", " "), Text(_said(value)))  # whatever it looks like
    console.print(facts)
    table = Table("sequence", "offset", "tokens", "bytes", "bits a token", title="chunks")
    for column in table.columns:
        column.justify = "right"
    for number, (offset, tokens, size) in enumerate(container.table()[:chunks]):
        rate = f"{8 * size / tokens:,.1f}"
        table.add_row(str(number), f"{offset:,}", f"{tokens:,}", f"{size:,}", rate)
    console.print(table)
    if len(container) > chunks:
        console.print(f"and {len(container) - chunks:,} more (--chunks {len(container)} shows all)")
    checked = "all checksums fit" if verified else "chunks were not read (--verify checks them)"
    console.print(f"header and index are whole; {checked}")


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
