"""Philox4x32-10, a counter-based generator (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC'11, §3.3)."""

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
"""What the two words of the key grow by from round to round."""
_WORD = (1 << 32) - 1

Words = tuple[int, int, int, int]


def philox(key: tuple[int, int], counter: Words) -> Words:
    """Four words of 32 bits."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(ROUNDS):
        first, second = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (second >> 32) ^ c1 ^ k0, second & _WORD, (first >> 32) ^ c3 ^ k1, first & _WORD
        k0, k1 = (k0 + WEYL[0]) & _WORD, (k1 + WEYL[1]) & _WORD
    return c0, c1, c2, c3


def noise(seed: int, step: int, index: int) -> int:
    """The 16 bits for score `index` at `step`: the key is the seed's two words, low first, the counter (step, index // 8, 0, 0).

    Number index mod 8 among the eight halves of the four words, the low half of a word before its high one.
    """
    words = philox((seed & _WORD, seed >> 32 & _WORD), (step, index >> 3, 0, 0))
    return words[index >> 1 & 3] >> 16 * (index & 1) & 0xFFFF
