"""What can go wrong between the application and CometBFT."""

from avow.consensus.errors import ConsensusError
from avow.errors import InputError, Unavailable


class CometBFTMissing(Unavailable):
    """The program is not installed, or is none of the versions that this code speaks with."""

    code = "cometbft_missing"


class ProtocolFault(InputError):
    """Bytes on the ABCI socket are no request that this code knows."""

    code = "abci_protocol"


class CometBFTFailed(ConsensusError):
    """CometBFT does not start, or ends again and again."""

    code = "cometbft_failed"


class RpcFailed(Unavailable):
    """CometBFT's RPC does not answer, or with an error."""

    code = "cometbft_rpc"


class BadConfiguration(InputError):
    """A file of CometBFT's configuration cannot be used."""

    code = "bad_configuration"
