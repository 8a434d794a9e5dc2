"""The nodes module: keys, measurements, prices and the beacon behind one Solidity interface."""

from avow.chain.host import Module, bind
from avow.chain.modules import beacon, keys, measurements, prices, substitution
from avow.chain.solidity import load_interface

ADDRESS = bytes.fromhex("0000000000000000000000000000000000000a03")

MODULE: Module = bind(
    ADDRESS,
    load_interface("avow.chain.modules", "nodes.sol"),
    {
        "register": keys.register,
        "rotate": keys.rotate,
        "activate": keys.activate,
        "reattest": keys.reattest,
        "drain": keys.drain,
        "retire": keys.retire,
        "revoke": keys.revoke,
        "compromised": keys.compromised,
        "reportEquivocation": keys.report_equivocation,
        "reportSubstitution": substitution.report_substitution,
        "keyRecord": keys.key_record,
        "keyState": keys.key_state,
        "revocation": keys.revocation,
        "allowMeasurement": measurements.allow_measurement,
        "withdrawMeasurement": measurements.withdraw_measurement,
        "allowedMeasurement": measurements.allowed_measurement,
        "setPrice": prices.set_price,
        "price": prices.price,
        "beacon": beacon.beacon,
    },
)
