"""Where the chain meets exact programs: who judges a fraud proof, and what may be demanded of who committed to a trace.

Rules:
1. The referee is a pure function of the proof, the statement's program and its trace; every full node runs it. It is paid before it runs,
   by the proof's size.
2. Demands and answers are those of exact/descent.py: what is asked shows that it is committed to, so an honest node can always answer,
   and there is one right answer.
"""

from avow.chain import gas as prices
from avow.errors import InputError, VerificationError
from avow.exact import descent, fraud
from avow.exact.referee import referee

MAX_FAULT = fraud.MAX_PROOF
MAX_DEMAND = descent.MAX_DEMAND


def gas(fault: bytes) -> int:
    """Rule 1's price."""
    return fraud.gas(fault)


def shows_fault(fault: bytes, program: bytes, trace: bytes) -> bool:
    """Whether a fraud proof shows a fault of the trace that a statement on `program` carries."""
    try:
        referee(fault, program, trace)
    except fraud.ProofError:
        return False
    return True


def descent_gas(data: bytes) -> int:
    """What a demand or an answer of this size costs: parsing, and a hash for every 32 bytes."""
    return prices.PARSE + prices.DESCENT_BYTE * len(data)


def may_be_asked(demand: bytes, trace: bytes) -> bool:
    """Rule 2: whether a demand shows that what it asks is committed under the trace."""
    try:
        descent.check(descent.Demand.parse(demand), trace)
    except (InputError, VerificationError):
        return False
    return True


def opens_data(demand: bytes) -> bool:
    """Whether the answer to a demand, which may be asked, is data of the run or confirms a guess of it, and not hashes alone."""
    return descent.Demand.parse(demand).asked in descent.OPENING


def answers(demand: bytes, answer: bytes, trace: bytes) -> bool:
    """Whether an answer is the one that a demand, which may be asked, has."""
    try:
        descent.check_answer(descent.Demand.parse(demand), answer, trace)
    except (InputError, VerificationError):
        return False
    return True
