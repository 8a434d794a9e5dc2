"""docs/chain.md says what the code's own tables say."""

from pathlib import Path

import pytest

from avow.chain.errors import Code
from avow.chain.execution import MODULES
from avow.chain.modules.settlement import STATEMENT_LIFE
from avow.chain.modules.voids import FAULTS, VoidCause
from avow.nodes.rpc.proofs import ProofMethods
from avow.receipt.standing import KEY_LIFE

PAGE = Path(__file__).resolve().parents[2] / "docs" / "chain.md"


@pytest.fixture(scope="module")
def rows():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines if line.startswith("|")]


def test_lives(rows):
    keys = [(state.name.lower(), event.name.lower(), after.name.lower()) for (state, event), after in KEY_LIFE.items()]
    statements = [(state.value, event.value, after.value) for (state, event), after in STATEMENT_LIFE.items()]
    states = {cell for row in keys + statements for cell in row}
    assert [row for row in rows if len(row) == 3 and set(row) <= states] == keys + statements


def test_causes_codes_and_modules(rows):
    for cause in VoidCause:
        assert any(row[:2] == (cause.name.lower(), str(int(cause))) for row in rows)
    assert [row for row in rows if len(row) == 2 and row[0].isdecimal()] == [(str(int(c)), c.label) for c in Code]
    faults = [(str(int(cause)), maker.value, fault.name.lower()) for (cause, maker), fault in FAULTS.items()]
    assert [row for row in rows if len(row) == 3 and row[0].isdecimal()] == faults
    for module in MODULES.values():
        assert any(row[:2] == (f"`0x{module.address.hex()}`", module.interface.name.lower()) for row in rows)


def test_methods(rows):
    shown = {row[0].strip("`").partition("(")[0].strip("`") for row in rows if row[0].startswith("`avow_")}
    assert shown == set(ProofMethods(None).table())
