"""`avow infer`: a model run on a file, with its receipt."""

import json
import time
from pathlib import Path
from typing import Any

import click

from avow.cli.ask import finish
from avow.cli.connect import connection, connection_options
from avow.cli.frame import common, mapping, printable
from avow.cli.verify import read_file
from avow.client.answers import InferBody
from avow.errors import InputError

MAX_FILE = 5 * 1024 * 1024
"""What fits, as base64, into the gateway's largest body."""


@click.command()
@click.argument("model")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--tensors", is_flag=True, help='FILE is JSON: {"inputs": [tensors of the Open Inference Protocol]}.')
@click.option(
    "--input", "input_name", default="file", show_default=True, help="Name of the input tensor that takes FILE's bytes."
)
@click.option("--settled", is_flag=True, help="Wait until the network has settled the receipt.")
@click.option(
    "--save", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write the receipt to FILE."
)
@click.option("--keep/--no-keep", default=True, show_default=True, help="Keep the receipt under HOME/receipts.")
@connection_options
@common
def infer(
    model: str,
    file: Path,
    tensors: bool,
    input_name: str,
    settled: bool,
    save: Path | None,
    keep: bool,
    home: Path | None,
    as_json: bool,
    **where: Any,
) -> None:
    """Run MODEL on FILE ("-" is standard input). Nothing is printed that did not hold."""
    link = connection(home, **where)
    data = read_file(file, MAX_FILE)
    inputs = _tensors(data) if tensors else {input_name: data}
    with link.open(save=keep, model=model) as client:
        began = time.monotonic()
        answer = client.infer(model, inputs)
        if not as_json:
            put_outputs(answer)
        finish(answer, answer.receipt, settled=settled, save=save, as_json=as_json, began=began)


def _tensors(data: bytes) -> list[dict[str, Any]]:
    try:
        value = json.loads(data)
        inputs = value["inputs"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError('the file is not {"inputs": [tensors]}') from error
    if not isinstance(inputs, list) or not all(isinstance(tensor, dict) for tensor in inputs):
        raise InputError('"inputs" is not a list of tensors')
    return inputs


def put_outputs(answer: InferBody) -> None:
    """Each output tensor: its name and its first values."""
    mapping([(str(tensor.get("name")), _values(tensor.get("data"))) for tensor in answer.outputs])


def _values(data: Any) -> str:
    values = data if isinstance(data, list) else [data]
    shown = [f"{value:.4g}" if isinstance(value, float) else printable(str(value)) for value in values[:16]]
    return " ".join(shown) + (f" … ({len(values)} values)" if len(values) > 16 else "")
