"""What can go wrong with a network of validators on one machine."""

from avow.errors import AvowError, InputError, Unavailable


class NetworkExists(InputError):
    """There is a network in this folder."""

    code = "network_exists"


class UnknownValidator(InputError):
    """No validator of this network has this name."""

    code = "unknown_validator"


class NotUp(Unavailable):
    """No process runs this network."""

    code = "not_up"


class AlreadyUp(AvowError):
    """Another process runs this network."""

    code = "already_up"
    http_status = 409


class NotRelayed(InputError):
    """This network's validators reach each other directly: nothing stands between them that could part them."""

    code = "not_relayed"


class ControlFault(InputError):
    """The network's process cannot do what it was asked."""

    code = "control_fault"
