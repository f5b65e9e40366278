"""The reference pages, from the code itself: fields of specs, commands with their options, what each file is for."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import click
from pydantic.json_schema import models_json_schema
from typer.main import get_command

from jobs.cli import app
from jobs.schema import SPECS

JsonSchema = dict[str, Any]
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_BOUNDS["minItems"] = "at least"
_ROOT = Path(__file__).resolve().parents[2]
_CELL = str.maketrans({"|": "\\|", "\n": " "})


def on_files(files: Any, config: Any, **_: object) -> Any:
    """Add the pages to the site."""
    from mkdocs.structure.files import File

    pages = {"specs": spec_reference(), "command-line": command_reference(), "code": code_reference()}
    for name, content in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


def spec_reference() -> str:
    """A table of fields for each job's spec, then one for each block that specs hold."""
    jobs, combined = models_json_schema([(model, "validation") for model in SPECS.values()], ref_template="{model}")
    blocks = combined["$defs"]
    tops = {name.value: jobs[model, "validation"]["$ref"] for name, model in SPECS.items()}
    lines = ["# Specs", "", "Made from the models that read them. A field that is not listed is an error."]
    lines += ["`--set a.b=c` overrides a field on the command line; `plan` and `nightly` read the spec of `score`."]
    lines += ["The same as JSON schema: `bertmill schema`."]
    for job, title in tops.items():
        lines += ["", f"## {job}", "", _sentence(blocks[title]), "", *_fields(blocks[title], blocks)]
    lines += ["", "## Blocks"]
    for title in sorted(set(blocks) - set(tops.values())):
        heading = f"### {_title(title)} {{#{_anchor(title)}}}"
        lines += ["", heading, "", _sentence(blocks[title]), "", *_fields(blocks[title], blocks)]
    return "\n".join(lines) + "\n"


def _sentence(block: JsonSchema) -> str:
    return str(block.get("description", ""))


def _title(name: str) -> str:
    """`ScratchConfig (pretrain_spec)` of a block whose name two modules have."""
    *modules, block = name.split("__")
    return f"{block} ({modules[-1]})" if modules else block


def _anchor(name: str) -> str:
    return "block-" + name.lower().replace("_", "-")


def _fields(block: JsonSchema, blocks: dict[str, JsonSchema]) -> list[str]:
    rows = ["| field | type | default | what it is |", "|---|---|---|---|"]
    for name, field in block.get("properties", {}).items():
        default = "**required**" if name in block.get("required", ()) else _default(field)
        cells = (f"`{name}`", type_name(field), default, field.get("description") or _of_block(field, blocks))
        rows.append("| " + " | ".join(cell.translate(_CELL) for cell in cells) + " |")
    return rows


def _of_block(field: JsonSchema, blocks: dict[str, JsonSchema]) -> str:
    """A field that is a block, and says nothing of itself, is what the block is."""
    names = [option["$ref"] for option in (field, *field.get("anyOf", ())) if "$ref" in option]
    return _sentence(blocks[names[0]]) if names else ""


def _default(field: JsonSchema) -> str:
    value = field.get("default")
    if isinstance(value, dict) and value:
        return "its own defaults"
    words = {None: "", True: "`true`", False: "`false`"}
    return words[value] if value is None or isinstance(value, bool) else f"`{_yaml(value)}`"


def _yaml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    return "{}" if value == {} else f"{value}"


def type_name(field: JsonSchema) -> str:
    """A JSON schema's type as a person would say it; blocks are links."""
    match field:
        case {"$ref": str(name)}:
            return f"[{_title(name)}](#{_anchor(name)})"
        case {"anyOf": list(options)}:
            return " or ".join(dict.fromkeys(type_name(option) for option in options))
        case {"const": value}:
            return f"`{value}`"
        case {"enum": list(values)}:
            return " or ".join(f"`{value}`" for value in values)
        case {"type": "array"}:
            return f"list of {type_name(field.get('items', {}))}{_bounds(field)}"
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"map of names to {type_name(values)}"
        case {"type": str(kind)}:
            return kind + _bounds(field)
    return "any"


def _bounds(field: JsonSchema) -> str:
    bounds = [f"{sign} {field[key]}" for key, sign in _BOUNDS.items() if key in field]
    return f" ({', '.join(bounds)})" if bounds else ""


def command_reference() -> str:
    """Every command's help text, arguments and options."""
    lines = ["# Command line", "", "Made from the parser itself."]
    for words, command in _leaves(get_command(app), ("bertmill",)):
        lines += ["", f"## {' '.join(words)}", "", (command.help or "").strip(), "", *_options(command, words)]
    return "\n".join(lines) + "\n"


def _leaves(command: Any, words: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        return [(words, command)]
    return [leaf for name, child in command.commands.items() for leaf in _leaves(child, (*words, name))]


def _options(command: Any, words: tuple[str, ...]) -> list[str]:
    context = click.Context(command, info_name=" ".join(words))
    rows = ["| | |", "|---|---|"]
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None:
            name, text = (part.translate(_CELL).replace("[", "\\[") for part in record)
            rows.append(f"| `{name.replace(chr(92), '')}` | {text} |")
    return rows if len(rows) > 2 else []


def code_reference() -> str:
    """Every room's paragraph, and each of its files with the first sentence that it says of itself."""
    lines = ["# Code", "", "Made from the files themselves, room by room, in the order of their names."]
    for room in sorted(path.parent for top in ("pipeline", "jobs") for path in (_ROOT / top).rglob("__init__.py")):
        lines += ["", f"## {room.relative_to(_ROOT).as_posix()}", "", _docstring(room / "__init__.py"), ""]
        lines += ["| file | what it is for |", "|---|---|"]
        for path in sorted(set(room.glob("*.py")) - {room / "__init__.py"}):
            lines.append(f"| `{path.name}` | {_docstring(path).split(chr(10) * 2)[0].translate(_CELL)} |")
    return "\n".join(lines) + "\n"


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
