import pytest

from avow.chain.errors import Code
from avow.chain.modules import registry
from tests.chain.harness import PROGRAM, account, refused

OTHER = b"\x11" * 32


def publish(chain, who, name, program=PROGRAM):
    return chain.do(who, registry.ADDRESS, "publish", name, program)[0]


def test_names_have_one_owner_and_versions_in_order(chain):
    assert publish(chain, "operator", "llama") == 1
    assert publish(chain, "operator", "llama", OTHER) == 2
    assert chain.view(registry.ADDRESS, "resolve", "llama") == [OTHER, 2, account("operator")]
    assert chain.view(registry.ADDRESS, "versionOf", "llama", 1) == [PROGRAM, False]
    result = chain.send("stranger", registry.ADDRESS, "publish", "llama", PROGRAM)
    assert refused(result) == (Code.NAME_TAKEN, None)


def test_a_withdrawn_version_is_skipped(chain):
    publish(chain, "operator", "llama")
    publish(chain, "operator", "llama", OTHER)
    chain.do("operator", registry.ADDRESS, "withdraw", "llama", 2)
    assert chain.view(registry.ADDRESS, "resolve", "llama") == [PROGRAM, 1, account("operator")]
    chain.do("operator", registry.ADDRESS, "withdraw", "llama", 1)
    assert chain.view(registry.ADDRESS, "resolve", "llama") == [bytes(32), 0, account("operator")]
    again = chain.send("operator", registry.ADDRESS, "withdraw", "llama", 1)
    assert refused(again) == (Code.PROGRAM_UNKNOWN, None)
    assert publish(chain, "operator", "llama") == 3


def test_nobody_can_withdraw_what_others_offer(chain):
    """A squatter publishes another's program under a name of their own, and withdraws it there."""
    publish(chain, "stranger", "squat")
    publish(chain, "operator", "llama")
    chain.do("stranger", registry.ADDRESS, "withdraw", "squat", 1)
    assert chain.view(registry.ADDRESS, "program", PROGRAM)[0] == 1
    result = chain.send("stranger", registry.ADDRESS, "withdraw", "llama", 1)
    assert refused(result) == (Code.NOT_AUTHORISED, None)
    chain.do("operator", registry.ADDRESS, "withdraw", "llama", 1)
    offers, from_height = chain.view(registry.ADDRESS, "program", PROGRAM)
    assert offers == 0
    assert from_height == 2


def test_a_name_can_change_hands(chain):
    publish(chain, "operator", "llama")
    chain.do("operator", registry.ADDRESS, "transferName", "llama", account("stranger"))
    assert refused(chain.send("operator", registry.ADDRESS, "publish", "llama", OTHER)) == (Code.NAME_TAKEN, None)
    assert publish(chain, "stranger", "llama", OTHER) == 2
    nobody = chain.send("stranger", registry.ADDRESS, "transferName", "llama", bytes(20))
    assert refused(nobody) == (Code.OUT_OF_RANGE, None)
    unknown = chain.send("stranger", registry.ADDRESS, "transferName", "other", account("operator"))
    assert refused(unknown) == (Code.NAME_UNKNOWN, None)


@pytest.mark.parametrize("name", ["", "Llama", "a" * 65, "-a", "a b", "ä", "a\n", "a/b"])
def test_names_have_one_form(chain, name):
    assert refused(chain.send("operator", registry.ADDRESS, "publish", name, PROGRAM)) == (Code.NAME_INVALID, None)


def test_names_that_are_prefixes_of_each_other_do_not_meet(chain):
    for name in ("a", "aa", "a.1"):
        publish(chain, "operator", name)
    assert chain.view(registry.ADDRESS, "versionOf", "aa", 1) == [PROGRAM, False]
    assert chain.view(registry.ADDRESS, "program", PROGRAM)[0] == 3
    assert chain.view(registry.ADDRESS, "program", OTHER) == [0, 0]
    assert chain.view(registry.ADDRESS, "resolve", "nothing") == [bytes(32), 0, bytes(20)]
