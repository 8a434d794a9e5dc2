/** Who asked: an EIP-712 signature of the requester's Ethereum account over the request commitment. */
import { secp256k1 } from "@noble/curves/secp256k1.js";
import { keccak_256 } from "@noble/hashes/sha3.js";
import { AvowError, big, concat, equal, fromBig, utf8, type Bytes } from "./bytes.js";

const bad = (detail: string): AvowError => new AvowError("bad_requester", detail);
const HALF_ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n / 2n;

function eip155(chainId: string): bigint {
  if (!/^avow-[0-9a-f]{16}$/.test(chainId)) throw new AvowError("bad_encoding", "not a chain id: avow- and 16 hex digits");
  return BigInt(`0x${chainId.slice(5)}`) >> 12n;
}

/** What the requester signs (EIP-712, "encode"). */
function digest(chainId: string, request: Bytes, method: string, nonce: Bytes): Uint8Array {
  const named = (text: string): Uint8Array => keccak_256(utf8(text));
  const separator = keccak_256(
    concat(named("EIP712Domain(string name,string version,uint256 chainId)"), named("Avow"), named("1"), big(eip155(chainId), 32)),
  );
  const struct = keccak_256(
    concat(named("InferenceRequest(bytes32 request,string method,bytes nonce)"), request, named(method), keccak_256(nonce)),
  );
  return keccak_256(concat(Uint8Array.of(0x19, 0x01), separator, struct));
}

/** Throws bad_requester unless `address` signed this request for this chain, method and nonce. */
export function verifyRequester(address: Bytes, signature: Bytes, chainId: string, request: Bytes, method: string, nonce: Bytes): void {
  const recovery = signature[64]! - 27;
  if (signature.length !== 65 || (recovery !== 0 && recovery !== 1)) throw bad("a requester's signature is 65 bytes and ends in 27 or 28");
  const s = fromBig(signature.slice(32, 64));
  if (!(s > 0n && s <= HALF_ORDER)) throw bad("the signature's s is not in the lower half");
  const message = digest(chainId, request, method, nonce);
  let found: Uint8Array;
  try {
    const compact = concat(Uint8Array.of(recovery), signature.slice(0, 64));
    const point = secp256k1.Point.fromBytes(secp256k1.recoverPublicKey(compact, message, { prehash: false }));
    found = keccak_256(point.toBytes(false).slice(1)).slice(-20);
  } catch {
    throw bad("no key can have made this signature");
  }
  if (!equal(found, address)) throw bad("the stated address did not sign this request");
}
