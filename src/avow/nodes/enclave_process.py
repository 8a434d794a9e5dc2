"""`python -m avow.nodes.enclave_process`: the enclave as a process."""

import argparse
import asyncio
import contextlib
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from avow.methods.tee.attesters import DevelopmentAttester, NitroAttester
from avow.nodes.enclave import Attester, Enclave
from avow.nodes.loaded import Loaded
from avow.nodes.process import Ready, announce, run, until_stopped

_MEASURED = ("avow", "cryptography", "msgspec", "numpy", "onnxruntime", "uvloop", "xllamacpp")


@dataclass(frozen=True, slots=True)
class EnclaveConfig:
    """`address` as wire.py has them; `programs` by name or id; `attester` is development or nitro."""

    home: Path
    address: str
    programs: tuple[str, ...]
    attester: str = "development"
    threads: int = 1
    slots: int = 4


def measured_versions() -> dict[str, str]:
    """What PCR1 of a development enclave is over: Python and the libraries that the answer or its signature depends on."""
    versions = {"python": platform.python_version()}
    for package in _MEASURED:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def development_attester(home: Path, programs: Iterable[bytes]) -> DevelopmentAttester:
    """The attester of a development enclave of this code that runs `programs`; its `measurement` is what a network allows."""
    return DevelopmentAttester(home, programs=programs, versions=measured_versions())


async def serve_enclave(
    config: EnclaveConfig, programs: Mapping[bytes, Loaded] | None = None, ready: Ready = announce
) -> None:
    """Serve until told to stop. `programs` stand in for those that the configuration names (tests, benchmarks)."""
    if programs is None:
        from avow.nodes.programs import load_programs

        programs = await asyncio.to_thread(
            load_programs, config.home, config.programs, threads=config.threads, slots=config.slots
        )
    attester: Attester = NitroAttester() if config.attester == "nitro" else development_attester(config.home, programs)
    enclave = Enclave(programs, attester)
    await enclave.listen(config.address)
    ready(config.address)
    try:
        await until_stopped([])
    finally:
        await enclave.close()
        for loaded in programs.values():
            loaded.engine.close()


def main(programs: Mapping[bytes, Loaded] | None = None) -> None:
    """`programs`: see `serve_enclave`."""
    parser = argparse.ArgumentParser(prog="avow enclave", description="Hold the key, run the engine, sign.")
    parser.add_argument("--home", type=Path, required=True, help="with the models")
    parser.add_argument("--listen", required=True, help="unix:PATH, tcp:HOST:PORT or vsock:CID:PORT")
    parser.add_argument("--program", action="append", default=[], help="name or id; may be repeated")
    parser.add_argument(
        "--attester", choices=["development", "nitro"], default="development", help="who vouches for it"
    )
    parser.add_argument("--threads", type=int, default=1, help="per job")
    parser.add_argument("--slots", type=int, default=4, help="jobs at once")
    given = parser.parse_args()
    config = EnclaveConfig(given.home, given.listen, tuple(given.program), given.attester, given.threads, given.slots)
    run(lambda: serve_enclave(config, programs))


if __name__ == "__main__":
    main()
