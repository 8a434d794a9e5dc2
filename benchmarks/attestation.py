"""What it costs to verify an attestation document: cold, with a new leaf under known authorities, and as often as a receipt is read."""

from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from avow.methods.tee import certificates, verify
from avow.methods.tee.attesters import DevelopmentAttester
from avow.methods.tee.attesters.development import wall_clock_ms
from avow.methods.tee.document import parse_frame, parse_payload
from avow.methods.tee.verify import verify_attestation
from benchmarks.report import Benchmark, cpu_us, main
from tests.methods.tee import builder


def forget() -> None:
    certificates.load_certificate.cache_clear()
    certificates._issued.cache_clear()
    verify._signed.cache_clear()


def run() -> Benchmark:
    benchmark = Benchmark("attestation", "Verification of one attestation document (CPU time)")
    key = ec.generate_private_key(ec.SECP384R1())
    signature, public, algorithm = (
        key.sign(bytes(4096), ec.ECDSA(hashes.SHA384())),
        key.public_key(),
        ec.ECDSA(hashes.SHA384()),
    )
    floor = cpu_us(lambda: public.verify(signature, bytes(4096), algorithm), calls=50)
    peer = "one ES384 verification"
    benchmark.add("one ES384 verification", floor, "us")
    with TemporaryDirectory() as home:
        development = DevelopmentAttester(Path(home), programs=(bytes(32),), versions={})
        document, now_ms = development.attest(bytes(65), bytes(32)), wall_clock_ms()
    shapes = (
        (
            "Nitro's chain of five",
            builder.document(public_key=bytes(65), user_data=bytes(32)),
            builder.roots(),
            builder.NOW_MS,
        ),
        ("development's chain of two", document, [development.root], now_ms),
    )
    for shape, document, roots, at_ms in shapes:

        def check(document=document, roots=roots, at_ms=at_ms):
            verify_attestation(document, roots=roots, now_ms=at_ms)

        def cold(check=check):
            forget()
            check()

        def another(check=check):
            verify._signed.cache_clear()
            check()

        spent = cpu_us(cold, calls=25)
        benchmark.add(f"{shape}: nothing known", spent, "us", peer=peer, ratio=spent / floor)
        spent = cpu_us(another, calls=50)
        benchmark.add(f"{shape}: another document of a known leaf", spent, "us", peer=peer, ratio=spent / floor)
        spent = cpu_us(check)
        benchmark.add(f"{shape}: the same document again", spent, "us", bar=500, peer=peer, ratio=spent / floor)
        spent = cpu_us(lambda document=document: parse_payload(parse_frame(document).payload))
        benchmark.add(f"{shape}: parsing alone", spent, "us", peer=peer, ratio=spent / floor)
    return benchmark


if __name__ == "__main__":
    main(run)
