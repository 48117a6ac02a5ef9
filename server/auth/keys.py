"""Keys of the tokens: one secret for development, or public keys by `kid` and a private key to sign with.

A key has exactly one algorithm, and it is the key that says which: the header of a token is only compared. So neither `alg`
tricks nor a public key's bytes used as a secret lead anywhere. The files are read once, at the start.
"""

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm

from server.errors import SeatrialError

Audience = Literal["agent", "user"]
AUDIENCES: tuple[Audience, ...] = ("agent", "user")
PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey
PublicKey = Ed25519PublicKey | EllipticCurvePublicKey
ALGORITHMS = ("EdDSA", "ES256")
"""Of keys in a file. `EdDSA` is Ed25519 here."""
PEM_FILE, JWKS_FILE = "signing-key.pem", "jwks.json"
MAX_FILE_BYTES = 1024 * 1024
_MAX_KID = 200


class KeyFileError(SeatrialError):
    """A key, or the file of one, cannot be used; the sentence names the setting, what it holds, and what was expected."""


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """What checks signatures, with its one algorithm."""

    kid: str | None
    algorithm: str
    key: PublicKey | str
    audience: Audience | None = None
    """The only audience it is good for; None: any."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What signs tokens, with its one algorithm."""

    kid: str | None
    algorithm: str
    key: PrivateKey | str


class Keys:
    """The keys that tokens are checked with, and the one that signs; without it nothing can be minted."""

    def __init__(self, verifying: Sequence[VerifyingKey], signing: SigningKey | None) -> None:
        self._by_kid: Mapping[str | None, VerifyingKey] = {key.kid: key for key in verifying}
        self.signing = signing

    @classmethod
    def of_secret(cls, secret: str) -> "Keys":
        """HS256 with one secret, for development. Its tokens carry no `kid`."""
        return cls([VerifyingKey(None, "HS256", secret)], SigningKey(None, "HS256", secret))

    @classmethod
    def of_files(cls, jwks: Path, signing_key: Path, signing_kid: str) -> "Keys":
        """Public keys by `kid`, and the private key that mints agents' tokens.

        Raises:
            KeyFileError: a file cannot be read or used, or what is signed would not be accepted here.
        """
        keys = cls(read_jwks(jwks), read_signing_key(signing_key, signing_kid))
        keys._check_signing(jwks, signing_key, signing_kid)
        return keys

    def find(self, kid: str | None) -> VerifyingKey | None:
        """The key with this `kid`; a token without one belongs to the secret."""
        return self._by_kid.get(kid)

    def _check_signing(self, jwks: Path, path: Path, kid: str) -> None:
        public = self.find(kid)
        if public is None:
            known = ", ".join(str(known) for known in self._by_kid)
            raise KeyFileError(f"jwt_signing_kid = {kid!r}: expected a kid of jwt_keys = {jwks}, which has {known}")
        if public.audience not in {None, "agent"}:
            raise KeyFileError(
                f"jwt_signing_kid = {kid!r}: restricted to seatrial_aud {public.audience!r} in jwt_keys = {jwks}:"
                " expected 'agent', or no restriction"
            )
        signing = self.signing
        if signing is None or _public_bytes(signing.key) != _public_bytes(public.key):
            raise KeyFileError(
                f"jwt_signing_key = {path}: does not belong to the public key of kid {kid!r} in jwt_keys = {jwks}"
            )


def read_jwks(path: Path) -> list[VerifyingKey]:
    """The public keys of a JWKS file (RFC 7517): each with `kid` and `alg`, and perhaps `seatrial_aud`.

    Raises:
        KeyFileError: it cannot be read, or holds what is not such a key.
    """
    place = f"jwt_keys = {path}"
    try:
        document = json.loads(_read(path, "jwt_keys", "a JWKS file"))
    except (ValueError, RecursionError):
        raise KeyFileError(f'{place}: expected JSON, {{"keys": [...]}}') from None
    found = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(found, list) or not found:
        raise KeyFileError(f'{place}: expected {{"keys": [...]}} with at least one key')
    keys = [_verifying_key(entry, f"{place}: keys[{index}]") for index, entry in enumerate(found)]
    for index, key in enumerate(keys):
        if key.kid in {other.kid for other in keys[:index]}:
            raise KeyFileError(f"{place}: keys[{index}]: kid = {key.kid!r}: expected each kid once")
    return keys


def read_signing_key(path: Path, kid: str | None = None) -> SigningKey:
    """A private key from a PEM file: Ed25519 or P-256, not encrypted. Without `kid`: its thumbprint.

    Raises:
        KeyFileError: it cannot be read, or holds another kind of key.
    """
    expected = "an unencrypted PEM private key, Ed25519 or P-256"
    data = _read(path, "jwt_signing_key", expected)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFileError(f"jwt_signing_key = {path}: expected {expected}") from None
    if not isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey) or _algorithm(key) is None:
        raise KeyFileError(f"jwt_signing_key = {path}: {type(key).__name__.strip('_')}: expected {expected}")
    algorithm = _algorithm(key)
    assert algorithm is not None  # noqa: S101 - checked above
    return SigningKey(kid or thumbprint(key), algorithm, key)


def generate(algorithm: str) -> PrivateKey:
    """A new private key.

    Raises:
        ValueError: there is no such algorithm.
    """
    match algorithm:
        case "EdDSA":
            return Ed25519PrivateKey.generate()
        case "ES256":
            return generate_private_key(SECP256R1())
    raise ValueError(f"algorithm = {algorithm!r}: expected one of {', '.join(ALGORITHMS)}")


def public_jwk(key: PrivateKey, *, kid: str | None = None, audience: str | None = None) -> dict[str, str]:
    """The entry of a JWKS file for a key that we sign with."""
    entry = _jwk(key) | {"kid": kid or thumbprint(key), "alg": str(_algorithm(key)), "use": "sig"}
    return entry | ({"seatrial_aud": audience} if audience else {})


def thumbprint(key: PrivateKey) -> str:
    """The RFC 7638 thumbprint of the public key, SHA-256: what names a key that nobody named."""
    members = json.dumps(_jwk(key), sort_keys=True, separators=(",", ":"))
    return base64.urlsafe_b64encode(hashlib.sha256(members.encode()).digest()).rstrip(b"=").decode()


def write_pair(folder: Path, key: PrivateKey, *, kid: str | None = None, audience: str | None = None) -> None:
    """Write `signing-key.pem` (mode 0600) and `jwks.json` into a folder, which is made.

    Raises:
        FileExistsError: one of them is there already; nothing is overwritten.
        OSError: they cannot be written.
    """
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    document = {"keys": [public_jwk(key, kid=kid, audience=audience)]}
    folder.mkdir(parents=True, exist_ok=True)
    if (jwks := folder / "jwks.json").exists():
        raise FileExistsError(f"{jwks}: exists already")
    with os.fdopen(os.open(folder / PEM_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    with jwks.open("x") as file:
        json.dump(document, file, indent=2)
        file.write("\n")


def _verifying_key(entry: Any, place: str) -> VerifyingKey:
    if not isinstance(entry, dict):
        raise KeyFileError(f"{place}: expected an object")
    kid, algorithm, audience = entry.get("kid"), entry.get("alg"), entry.get("seatrial_aud")
    if not isinstance(kid, str) or not 0 < len(kid) <= _MAX_KID:
        raise KeyFileError(f"{place}: kid = {kid!r}: expected a name of 1 to {_MAX_KID} characters")
    if algorithm not in ALGORITHMS:
        raise KeyFileError(f"{place}: alg = {algorithm!r}: expected one of {', '.join(ALGORITHMS)}")
    if audience is not None and audience not in AUDIENCES:
        raise KeyFileError(f"{place}: seatrial_aud = {audience!r}: expected one of {', '.join(AUDIENCES)}, or none")
    operations = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise KeyFileError(f"{place}: use or key_ops: expected a key that verifies signatures")
    if "d" in entry:
        raise KeyFileError(f"{place}: holds a private key (d): expected public keys only")
    try:
        reader = OKPAlgorithm if algorithm == "EdDSA" else ECAlgorithm
        key = reader.from_jwk(entry)
    except (jwt.InvalidKeyError, ValueError, TypeError) as error:
        raise KeyFileError(f"{place}: {error}") from None
    if not isinstance(key, Ed25519PublicKey | EllipticCurvePublicKey) or _algorithm(key) != algorithm:
        raise KeyFileError(f"{place}: crv = {entry.get('crv')!r}: expected Ed25519 for EdDSA, P-256 for ES256")
    return VerifyingKey(kid, algorithm, key, audience)


def _algorithm(key: PrivateKey | PublicKey) -> str | None:
    if isinstance(key, Ed25519PrivateKey | Ed25519PublicKey):
        return "EdDSA"
    return "ES256" if isinstance(key.curve, SECP256R1) else None


def _jwk(key: PrivateKey) -> dict[str, str]:
    """The required members of the public key, which are also those of its thumbprint."""
    if isinstance(key, Ed25519PrivateKey):
        return dict(OKPAlgorithm.to_jwk(key.public_key(), as_dict=True))
    return dict(ECAlgorithm.to_jwk(key.public_key(), as_dict=True))


def _public_bytes(key: PrivateKey | PublicKey | str) -> bytes:
    if isinstance(key, str):
        return key.encode()
    public = key.public_key() if isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey) else key
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _read(path: Path, field: str, expected: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"{field} = {path}: {error.strerror}: expected {expected}") from None
    if len(data) > MAX_FILE_BYTES:
        raise KeyFileError(f"{field} = {path}: more than {MAX_FILE_BYTES} bytes: expected {expected}")
    return data
