"""docs/chain.md says what the code's own tables say."""

from pathlib import Path

import pytest

from avow.chain.errors import Code
from avow.chain.execution import MODULES
from avow.chain.modules.life import LIFE, Subject
from avow.chain.modules.settlement import STATEMENT_LIFE
from avow.chain.modules.voids import FAULTS, VoidCause
from avow.nodes.rpc.proofs import ProofMethods
from avow.receipt.finality import OptimisticParameters
from avow.receipt.standing import KEY_LIFE

DOCS = Path(__file__).resolve().parents[2] / "docs"


def table_rows(page: str):
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines if line.startswith("|")]


@pytest.fixture(scope="module")
def rows():
    return table_rows("chain.md")


def test_lives(rows):
    keys = [(state.name.lower(), event.name.lower(), after.name.lower()) for (state, event), after in KEY_LIFE.items()]
    statements = [(state.value, event.value, after.value) for (state, event), after in STATEMENT_LIFE.items()]
    states = {cell for row in keys + statements for cell in row}
    assert [row for row in rows if len(row) == 3 and set(row) <= states] == keys + statements


def test_disputes():
    shown = table_rows("optimistic.md")
    life = [
        (subject.value, state.name.lower(), event.value, after.name.lower())
        for (subject, state, event), after in LIFE.items()
    ]
    subjects = {subject.value for subject in Subject}
    assert [row for row in shown if len(row) == 4 and row[0] in subjects] == life
    rules = OptimisticParameters()
    for name in OptimisticParameters.__dataclass_fields__:
        [row] = [row for row in shown if row[0] == name]
        value = getattr(rules, name)
        if isinstance(value, int):
            assert row[1] == (str(value) if value < 10**9 else str(value / 10**18))


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
