"""What keeps a watcher from checking or challenging. Codes are stable."""

from avow.errors import AvowError, InputError, NotFound, VerificationError


class ProgramMissing(NotFound):
    """The program is not in the watcher's store: it cannot be run again here."""

    code = "program_missing"


class OpeningWrong(VerificationError):
    """What a node shows of an answer is not what its statement commits to."""

    code = "opening_wrong"


class OtherJournal(AvowError):
    """The journal is another network's."""

    code = "other_journal"


class JournalBusy(AvowError):
    """Another watcher uses this journal."""

    code = "journal_busy"


class OtherNetwork(InputError):
    """A gateway serves another network than the chain that is watched."""

    code = "other_network"


class BondMissing(AvowError):
    """The watcher's account cannot pay a bond: what it found is not challenged, what is withheld is not demanded."""

    code = "bond_missing"
