"""Pages that mkdocs fills from the code, so that they cannot differ from it.

`<!-- settings -->`, `<!-- cluster -->`, `<!-- hyper-parameters -->`, `<!-- verbs -->` and
`<!-- points -->` in a page become tables: of the settings' schema, of typer's commands, and of the
columns of the table of points. Nothing here needs torch.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def on_startup(**_: Any) -> None:
    """Called by mkdocs once; it has undone by then what a hook's import did to the path."""
    sys.path.insert(0, str(ROOT / "src"))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    return re.sub(
        r"^<!-- (settings|cluster|hyper-parameters|verbs|points) -->$",
        lambda match: FILLED[match[1]](),
        markdown,
        flags=re.MULTILINE,
    )


def settings() -> str:
    """Every model of the settings, in the order in which they are referred to."""
    from splitcodec.settings import Settings

    return of_schema(Settings.model_json_schema())


def cluster() -> str:
    """The keys of a cluster's file."""
    from splitcodec.cluster import Cluster

    return of_schema(Cluster.model_json_schema())


def hyperparameters() -> str:
    """What `set` of a codec may hold."""
    from splitcodec.codecs.catalogue import LEARNED

    parts = []
    for name, model in LEARNED.items():
        schema = model.model_json_schema()
        parts.append(f"### `{name}`\n\n{schema.get('description', '')}\n\n{keys_of(schema)}")
    return "\n\n".join(parts)


def of_schema(schema: dict[str, Any]) -> str:
    """A heading and a table for the root of a JSON schema and each of its definitions."""
    definitions = schema.get("$defs", {})
    ordered = dict.fromkeys(_references(schema, definitions))
    parts = [(schema["title"], schema), *((name, definitions[name]) for name in ordered)]
    return "\n\n".join(
        f"### {name}\n\n{part.get('description', '')}\n\n{keys_of(part)}" for name, part in parts
    )


def _references(part: Any, definitions: dict[str, Any]) -> Iterator[str]:
    if isinstance(part, list):
        for item in part:
            yield from _references(item, definitions)
    elif isinstance(part, dict):
        if name := part.get("$ref", "").removeprefix("#/$defs/"):
            yield name
            yield from _references(definitions[name], definitions)
        for key, value in part.items():
            if key != "$defs":
                yield from _references(value, definitions)


def keys_of(schema: dict[str, Any]) -> str:
    """The properties of a schema as a table."""
    required = schema.get("required", [])
    rows = []
    for key, value in schema.get("properties", {}).items():
        default = "required" if key in required else _default(value)
        rows.append([f"`{key}`", _type(value), default, value.get("description", "")])
    return table(["key", "value", "default", "meaning"], rows) if rows else "No keys."


def _default(value: dict[str, Any]) -> str:
    default = value.get("default")
    if isinstance(default, dict) and default:
        return "see there"
    if default in (None, "", [], {}):
        return "left out"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _type(value: dict[str, Any]) -> str:
    """A schema's type in words."""
    if reference := value.get("$ref"):
        name = reference.removeprefix("#/$defs/")
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in value:
            kinds = [_type(kind) for kind in value[several] if kind.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{item}`" for item in value["enum"])
    if value.get("type") == "array":
        items = value.get("prefixItems")
        return f"{len(items)} numbers" if items else f"list of {_type(value.get('items', {}))}"
    if value.get("type") == "object":
        inner = value.get("additionalProperties")
        return f"each a {_type(inner)}" if isinstance(inner, dict) else "mapping"
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    said = [f"{sign} {value[name]}" for name, sign in limits.items() if name in value]
    return " ".join([{"string": "text"}.get(value.get("type"), value.get("type", "any")), *said])


def verbs() -> str:
    """Every command of the program with its arguments and options."""
    import typer.main

    from splitcodec.cli import app

    return "\n\n".join(_verb(typer.main.get_command(app), "splitcodec"))


def _verb(command: Any, path: str) -> Iterator[str]:
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from _verb(inner, f"{path} {name}")
        return
    rows = []
    for parameter in command.params:
        if parameter.name == "help":
            continue
        argument = parameter.param_type_name == "argument"
        names = parameter.name if argument else ", ".join(parameter.opts)
        said = str(parameter.display_type).strip("<>").lower()
        empty = parameter.default is None or parameter.default in ([], (), "")
        default = "required" if parameter.required else "" if empty else f"`{parameter.default}`"
        if callable(parameter.default):
            default = ""
        rows.append([f"`{names}`", said, default, getattr(parameter, "help", "") or ""])
    options = table(["option", "value", "default", "meaning"], rows)
    yield f"### `{path}`\n\n{command.help}\n\n{options}"


def points() -> str:
    """The columns of the table of points, read without importing pandas."""
    for path in sorted((ROOT / "src/splitcodec/report").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "COLUMNS":
                rows = [
                    [
                        argument.value if isinstance(argument, ast.Constant) else ""
                        for argument in call.args
                    ]
                    for call in node.value.elts
                ]
                chosen = [[f"`{name}`", unit, meaning] for name, _, unit, meaning, *_ in rows]
                return table(["column", "unit", "meaning"], chosen)
    raise LookupError("no COLUMNS in splitcodec.report")


def table(headings: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


FILLED: dict[str, Callable[[], str]] = {
    "settings": settings,
    "cluster": cluster,
    "hyper-parameters": hyperparameters,
    "verbs": verbs,
    "points": points,
}
