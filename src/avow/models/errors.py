"""What can go wrong between a model's files and a program that may be run."""

from avow.errors import AvowError, InputError, NotFound


class ManifestError(InputError):
    """The manifest is not one that this version accepts."""

    code = "bad_manifest"


class UnknownProgram(NotFound):
    """No such program is in the store or the catalogue."""

    code = "unknown_program"


class DigestMismatch(AvowError):
    """A file is not the one that its digest names."""

    code = "digest_mismatch"


class UnsafeModel(InputError):
    """A model file claims something that a sound file cannot, so no engine may see it."""

    code = "unsafe_model"


class UnsafeArchive(InputError):
    """An archive's member may not be unpacked."""

    code = "unsafe_archive"


class ImportFailed(AvowError):
    """A package could not be fetched from the index."""

    code = "import_failed"
    http_status = 502
