"""Errors of exact programs."""

from avow.errors import AvowError, InputError


class BadProgram(InputError):
    """The bytes, or what was built, are not an exact program. `operator` names the operator at fault, or is −1."""

    code = "bad_program"

    def __init__(self, detail: str = "", *, hint: str = "", operator: int = -1) -> None:
        super().__init__(detail, hint=hint, operator=operator)
        self.operator = operator


class BadRun(InputError):
    """What a program was asked to run on does not fit it: inputs, number of steps or parameters."""

    code = "bad_run"


class NotOpened(AvowError):
    """An operator asked for a value that was not opened to it."""

    code = "not_opened"
    http_status = 400


class Undefined(AvowError):
    """An operator has no value on these inputs: one of them, or the program, is not within its bounds."""

    code = "undefined"
    http_status = 400
