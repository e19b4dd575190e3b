"""The page of the verbs, from their signatures and docstrings; it reads the source and imports nothing heavy."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docstring_parser import Docstring, parse

from fashion_tl import cli

SOURCE = Path(cli.__file__).parent
INTRODUCTION = """# Verbs of the command line

`fashion-tl VERB --help` prints the same. Exit status: 0 done, 2 the input is wrong (one message), 1 a defect;
130 after Ctrl-C, 143 after SIGTERM. A flag that is true or false may stand alone (`--invert`) or have its value.
"""
OWN_FLAGS = """
These flags belong to the run. Beside them every argument of Lightning's `Trainer` is a flag,
`--trainer.max_epochs 10`, as are those of the [data module](api.md#fashion_tl.ImageDataModule)
(`--data.image_size`), of the source (`--data.source.folder`) and of the
[classifier](api.md#fashion_tl.TransferClassifier) (`--model.backbone`). `fashion-tl fit --help`,
`--data.source.help NAME` and `--model.help NAME` list them.
"""


@dataclass(frozen=True)
class Argument:
    """An argument of a verb.

    Attributes:
        name: As it is typed: ``--output``, or ``RUN`` for what has no dashes.
        kind: What it takes.
        default: As it is written in the source; None if there is none.
        told: What it means.
    """

    name: str
    kind: str
    default: str | None
    told: str


def page() -> str:
    """Write the page of all verbs as Markdown."""
    parts = [INTRODUCTION]
    for verb, (_, told) in cli.CONFIGURED.items():
        usage, _, text = told.partition(": ")
        parts.append(f"\n## {verb}\n\n{_sentence(text)}\n\n    fashion-tl {verb} {usage}\n")
        own = [flag for flag in run_flags(verb) if flag not in run_flags()]
        if verb == "fit":
            parts += [OWN_FLAGS, _table(run_flags())]
        else:
            parts.append(f"\nFlags are those of [fit](#fit){', and these' if own else ''}.\n")
        parts += [_table(own)] if own else []
    for verb, (home, _) in cli.FUNCTIONS.items():
        parts.append(section(verb, home))
    return "".join(parts)


def section(verb: str, home: str) -> str:
    """Write the section of a verb that is a function, MODULE:NAME."""
    doc = _read(home)[1]
    about = "\n\n".join(filter(None, (doc.short_description, doc.long_description))).replace("``", "`")
    found = list(arguments(home))
    plain = " ".join(one.name + ("..." if one.kind.endswith("...") else "") for one in found if one.name[0] != "-")
    usage = " ".join(filter(None, ("fashion-tl", verb, plain, "[OPTIONS]")))
    return f"\n## {verb}\n\n{about}\n\n    {usage}\n{_table(found)}"


def arguments(home: str) -> Iterator[Argument]:
    """Yield the arguments of a function, MODULE:NAME, as `fashion_tl.commands` makes a command line of them."""
    function, doc = _read(home)
    told = {each.arg_name.lstrip("*"): " ".join((each.description or "").split()) for each in doc.params}
    spec = function.args
    positional = [*spec.posonlyargs, *spec.args]
    defaults = [None] * (len(positional) - len(spec.defaults)) + list(spec.defaults)
    every = [*zip(positional, defaults, strict=True), *zip(spec.kwonlyargs, spec.kw_defaults, strict=True)]
    if spec.vararg:
        hint = ast.unparse(spec.vararg.annotation) if spec.vararg.annotation else ""
        name, kind = spec.vararg.arg, "flags of `fit`" if hint == "Flag" else f"{_kind(hint)}..."
        yield Argument(name.upper() if hint == "Flag" else name.upper().removesuffix("S"), kind, None, told[name])
    for arg, default in every:
        hint = _resolved(ast.unparse(arg.annotation) if arg.annotation else "", home)
        name = f"--{arg.arg}" if default is not None else _placeholder(arg.arg, hint)
        name = "-c, --config" if name == "--config" else name
        shown = None if default is None or ast.unparse(default) == "None" else _value(default)
        yield Argument(name, _kind(hint), shown, told[arg.arg])


def run_flags(verb: str = "fit") -> list[Argument]:
    """Return the flags of a run that `runs/parser.py` adds beside those of Trainer, model and data."""
    tree = ast.parse((SOURCE / "runs" / "parser.py").read_text(encoding="utf-8"))
    build = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "parser_of")
    found = []
    inside = [call for node in build.body if not isinstance(node, ast.If) for call in _added(node)]
    inside += [call for node in build.body if isinstance(node, ast.If) and _is_of(node, verb) for call in _added(node)]
    for call in inside:
        words = {each.arg: each.value for each in call.keywords}
        names = [name.value for name in call.args if isinstance(name, ast.Constant)]
        default = _value(words["default"]) if "default" in words else None
        told = words["help"].value if isinstance(words["help"], ast.Constant) else ""
        kind = "a file" if "type" not in words else _kind(ast.unparse(words["type"]))
        found.append(Argument(", ".join(map(str, names)), kind, default, str(told)))
    return found


def _is_of(node: ast.If, verb: str) -> bool:
    return ast.unparse(node.test) == f"verb == '{verb}'"


def _added(node: ast.AST) -> Iterator[ast.Call]:
    for each in ast.walk(node):
        if isinstance(each, ast.Call) and ast.unparse(each.func) in ("add", "parser.add_argument"):
            yield each


def _read(home: str) -> tuple[ast.FunctionDef, Docstring]:
    module, _, name = home.partition(":")
    tree = ast.parse((SOURCE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    found = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    return found, parse(ast.get_docstring(found) or "")


def _resolved(hint: str, home: str) -> str:
    """Write the type that a module's own name stands for, such as ``Format = Literal[...]``."""
    module = home.partition(":")[0]
    tree = ast.parse((SOURCE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    named = {
        node.targets[0].id: ast.unparse(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    bare = hint.removesuffix(" | None")
    return named.get(bare, bare)


def _placeholder(name: str, hint: str) -> str:
    """Return what stands for an argument without dashes."""
    if hint.startswith("Literal["):
        return "{" + ",".join(_choices(hint)) + "}"
    return name.upper().removesuffix("S") if hint.startswith("list[") else name.upper()


def _choices(hint: str) -> tuple[str, ...]:
    found: tuple[str, ...] = ast.literal_eval(f"({hint[len('Literal[') : -1]},)")
    return found


def _kind(hint: str) -> str:
    bare = hint.replace(" | None", "")
    if bare.startswith("Literal["):
        return ", ".join(f"`{name}`" for name in _choices(bare))
    if bare.startswith("list["):
        return f"{_kind(bare[len('list[') : -1])}..."
    plain = {"bool": "`true`, `false`", "int": "a number", "float": "a number", "str": "text", "Path": "a path"}
    return plain.get(bare, f"`{bare}`".replace("|", "or"))


def _value(node: ast.expr) -> str:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "Path":
        node = node.args[0]
    value = ast.literal_eval(node)
    if isinstance(value, tuple | list):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _table(rows: list[Argument]) -> str:
    if not rows:
        return ""
    lines = ["", "| argument | takes | default | meaning |", "| --- | --- | --- | --- |"]
    for row in rows:
        default = f"`{row.default}`" if row.default else ""
        told = row.told.replace("``", "`").replace("|", "\\|")
        lines.append(f"| `{row.name}` | {row.kind} | {default} | {told} |")
    return "\n".join([*lines, ""])
