"""The attestation roots that hardware vendors publish.

A reader pins roots in the trust policy, a chain in its genesis; here stands what the vendors publish, so that a root
can be called hardware or not.
A development enclave's root is never here: each network makes its own.
"""

import base64

AWS_NITRO_ROOT_G1 = base64.b64decode(
    "MIICETCCAZagAwIBAgIRAPkxdWgbkK/hHUbMtOTn+FYwCgYIKoZIzj0EAwMwSTELMAkGA1UEBhMCVVMxDzANBgNVBAoMBkFtYXpvbjEMMAoGA1UE"
    "CwwDQVdTMRswGQYDVQQDDBJhd3Mubml0cm8tZW5jbGF2ZXMwHhcNMTkxMDI4MTMyODA1WhcNNDkxMDI4MTQyODA1WjBJMQswCQYDVQQGEwJVUzEP"
    "MA0GA1UECgwGQW1hem9uMQwwCgYDVQQLDANBV1MxGzAZBgNVBAMMEmF3cy5uaXRyby1lbmNsYXZlczB2MBAGByqGSM49AgEGBSuBBAAiA2IABPwC"
    "VOumCMHzaHDimtqQvkY4MpJzbolL//Zy2YlES1BR5TSksfbb48C8WBoyt7F2Bw7eEtaaP+ohG2bnUs990d0JX28TcPQXCEPZ3BABIeTPYwEoCWZE"
    "h8l5YoQwTcU/9KNCMEAwDwYDVR0TAQH/BAUwAwEB/zAdBgNVHQ4EFgQUkCW1DdkFR+eWw5b6cp3PmanfS5YwDgYDVR0PAQH/BAQDAgGGMAoGCCqG"
    "SM49BAMDA2kAMGYCMQCjfy+Rocm9Xue4YnwWmNJVA44fA0P5W2OpYow9OYCVRaEevL8uO1XYru5xtMPWrfMCMQCi85sWBbJwKKXdS6BptQFuZbT7"
    "3o/gBh1qUxl/nNr12UO8Yfwr6wPLb+6NIwLz3/Y="
)
"""CN=aws.nitro-enclaves, C=US, O=Amazon, OU=AWS, valid 2019-10-28 to 2049-10-28, DER; published by AWS as
AWS_NitroEnclaves_Root-G1 ("Attestation process", §2.1)."""

AWS_NITRO_ROOT_G1_SHA256 = bytes.fromhex("641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b")

HARDWARE_ROOTS = frozenset({AWS_NITRO_ROOT_G1_SHA256})
"""SHA-256 of each vendor root's DER."""
