"""A row: the WIDTH integers that tell a kernel what to do; and the context, which all rows of a step share.

Rules:
1. Every row begins alike: the kernel's address, the output, four inputs at most. What follows from P on is the kernel's own.
2. A tensor is described by the address of its first value, its bytes per value, its values per sample, and the bytes from one sample to the
   next (0: the same for all samples, as for constants).
3. Reals (multiplier · 2^-shift) stand in the same slots as their 64 bits.
4. Samples of a batch lie one after the other: a kernel that works row by row sees one longer tensor.
"""

KERNEL = 0
SCRATCH = 1
"""Address of the step's scratch memory; no kernel leaves anything there for another."""
OUT, OUT_SIZE, OUT_COUNT, OUT_STRIDE = 2, 3, 4, 5
LOW, HIGH = 6, 7
"""The output's interval, as integers."""
A, B, C, D = 8, 12, 16, 20
"""Where the inputs' descriptions begin."""
ADDRESS, SIZE, COUNT, STRIDE = 0, 1, 2, 3
"""Within an input's description."""
P = 28
"""The kernel's own parameters, up to the row's end."""

GROWS = 24
"""1 where OUT_COUNT values are added with each position: the output has OUT_COUNT · (step + 1) values."""
PHASE = 25
NUMBER = 26
"""The operator's number."""
LAST = 27
"""In the last row of an operator that has a leaf, 1 + its rank: its output is complete, and may be digested. Else 0."""

STEP = 0
SAMPLES = 1
"""How many samples this pass works on; 1 except in mode `once`."""
FAULT = 2
"""0, or 1 + the number of the operator that met a value outside of its interval."""
PROMPT = 3
KEY = 4
"""Address of the trace's 32-byte key; 0: no trace."""
LEAVES = 5
"""Address of leaf 0."""
LEAVES_OF_STEP = 6
HASH_SCRATCH = 7
RECORD = 8
"""Address of the kernel that digests a row's output, and with row 0 what it put off: at the end of every pass."""
INPUTS = 10
"""Addresses of the program's inputs, whole, one after the other (MAX_PROGRAM_INPUTS = 16)."""
ROWS = 26
"""Address of the rows; COUNT_OF_ROWS of them."""
COUNT_OF_ROWS = 27
MOST = 28
"""Samples of one pass, at most."""
RESULTS = 29
"""Address of int64[1 + 3·n]: n, then for each of the program's outputs its address, its result's, and the bytes per sample."""
CARRIED = 30
"""Address of int64[1 + 3·n]: n, then what is copied after each step: from, to, bytes."""
OWN = 32
"""From here on language kernels keep what is theirs."""
CONTEXT = 64
"""Integers in a context."""
