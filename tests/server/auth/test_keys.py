"""Keys from files: one algorithm each, chosen by `kid`; and what does not get past them."""

import base64
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.auth import keys as auth_keys
from server.auth.keys import (
    KeyFileError,
    Keys,
    PrivateKey,
    generate,
    public_jwk,
    read_jwks,
    read_signing_key,
    thumbprint,
)
from server.auth.tokens import TokenError, Tokens
from tests.support.access import forged

ED, EC = generate("EdDSA"), generate("ES256")
PAIR: dict[str, PrivateKey] = {"ed": ED, "ec": EC}
ALG = {"ed": "EdDSA", "ec": "ES256"}


def jwk(name: str = "ed", /, **changed: Any) -> dict[str, Any]:
    """The public key `name`, with some members changed, or left out where they are `...`."""
    entry = public_jwk(PAIR[name], kid=name) | changed
    return {member: value for member, value in entry.items() if value is not ...}


def write(folder: Path, *entries: dict[str, Any]) -> Path:
    """A JWKS file."""
    path = folder / "jwks.json"
    path.write_text(json.dumps({"keys": entries}))
    return path


def pem(folder: Path, key: Any, encryption: serialization.KeySerializationEncryption | None = None) -> Path:
    """A PEM file of a private key."""
    path = folder / "key.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            encryption or serialization.NoEncryption(),
        )
    )
    return path


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    """Tokens of a server that takes both keys and signs with the first."""
    return Tokens(Keys.of_files(write(tmp_path, jwk("ed"), jwk("ec")), pem(tmp_path, ED), "ed"))


def signed(key: Any = ED, *, alg: str = "EdDSA", headers: dict[str, Any] | None = None, **claims: Any) -> str:
    """An agent's token of a key."""
    now = int(time.time())
    good = {"iss": "seatrial", "aud": "agent", "sub": "h1", "org": "o", "iat": now, "exp": now + 60, "jti": "j"}
    return jwt.encode(good | claims, key, algorithm=alg, headers={"kid": "ed"} if headers is None else headers)


def refusal(tokens: Tokens, token: str) -> str:
    """With which words a token is refused, as an agent's."""
    with pytest.raises(TokenError) as caught:
        tokens.agent(token)
    assert caught.value.reason == "invalid_token"
    assert token not in str(caught.value)
    return str(caught.value)


class TestTokens:
    """Whose signature counts."""

    def test_each_key_is_found_by_its_kid(self, tokens: Tokens) -> None:
        """A token signed by either key is taken; the server's own carry the kid of its signing key."""
        for kid, key in PAIR.items():
            assert tokens.agent(signed(key, alg=ALG[kid], headers={"kid": kid})).host == "h1"
        minted = tokens.mint_agent(org="o", host="h2", seconds=60)

        assert tokens.agent(minted).host == "h2"
        assert jwt.get_unverified_header(minted) == {"alg": "EdDSA", "kid": "ed", "typ": "JWT"}

    def test_unknown_and_missing_kids(self, tokens: Tokens) -> None:
        """Row 2: a kid that is not in the file, none, or one that is no text is refused though the signature is good."""
        for headers in ({"kid": "other"}, {"kid": ""}, {}):
            assert "kid" in refusal(tokens, signed(headers=headers))
        head = base64.urlsafe_b64encode(b'{"alg":"EdDSA","typ":"JWT","kid":["ed"]}').rstrip(b"=").decode()
        refusal(tokens, head + signed()[signed().index(".") :])

    def test_the_key_says_the_algorithm(self, tokens: Tokens) -> None:
        """Row 2: with another key's kid, or another algorithm in the header, the signature does not count."""
        refusal(tokens, signed(EC, alg="ES256", headers={"kid": "ed"}))
        refusal(tokens, signed(ED, headers={"kid": "ec"}))
        refusal(tokens, signed("", alg="none", headers={"kid": "ed"}))

    @pytest.mark.parametrize("kid", ["ed", "ec"])
    def test_public_bytes_are_no_secret(self, tokens: Tokens, kid: str) -> None:
        """Row 2: an HS256 token signed with the bytes of a public key, in any form, is refused."""
        public = PAIR[kid].public_key()
        forms = [
            public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
            public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
            json.dumps(jwk(kid)).encode(),
            jwk(kid)["x"].encode(),
        ]
        now = int(time.time())
        claims = {"iss": "seatrial", "aud": "agent", "sub": "h1", "org": "o", "iat": now, "exp": now + 60, "jti": "j"}
        for secret in forms:
            refusal(tokens, forged(secret, {"alg": "HS256", "typ": "JWT", "kid": kid}, claims))
        # The forgery itself is sound: the secret's owner would take it.
        assert (
            Tokens(Keys.of_secret("s" * 32)).agent(forged(b"s" * 32, {"alg": "HS256", "typ": "JWT"}, claims)).host
            == "h1"
        )

    def test_unknown_critical_headers_and_other_types(self, tokens: Tokens) -> None:
        """Rows 2, 3: a critical header that we do not know, and a typ that is not JWT or missing, refuse the token."""
        refusal(tokens, signed(headers={"kid": "ed", "crit": ["x"], "x": 1}))
        refusal(tokens, signed(headers={"kid": "ed", "crit": ["exp"], "exp": 1}))
        for typ in ("at+jwt", None, "jwt2"):
            refusal(tokens, signed(headers={"kid": "ed", "typ": typ}))

    @pytest.mark.parametrize(
        "claims",
        [
            {"iss": "x"},
            {"aud": "user"},
            {"aud": ["agent", "user"]},
            {"aud": ["agent"]},
            {"exp": 1},
            {"nbf": 4e9},
            {"iat": 4e9},
            {"iat": True},
            {"exp": 4e9},
            {"jti": ""},
            {"jti": "a\x00b"},
            {"jti": 5},
        ],
        ids=str,
    )
    def test_claims_are_checked_all_the_same(self, tokens: Tokens, claims: dict[str, Any]) -> None:
        """Row 3: times, audience, issuer and id are checked with key files as with a secret."""
        refusal(tokens, signed(**claims))

    def test_a_restricted_key_is_good_for_its_audience_only(self, tmp_path: Path) -> None:
        """A key of an identity provider that may speak for users cannot make an agent."""
        jwks = write(tmp_path, jwk("ed"), jwk("ec", seatrial_aud="user"))
        tokens = Tokens(Keys.of_files(jwks, pem(tmp_path, ED), "ed"))
        kid = {"kid": "ec"}

        assert tokens.user(signed(EC, alg="ES256", headers=kid, aud="user", role="viewer")).role == "viewer"
        assert "audience agent" in refusal(tokens, signed(EC, alg="ES256", headers=kid))

    def test_the_secret_knows_no_kid(self) -> None:
        """Row 2: with one secret a token that names a key is refused, and so is one of another algorithm."""
        secret = "a-secret-of-the-tests-that-is-long-enough"
        tokens = Tokens(Keys.of_secret(secret))

        assert tokens.agent(signed(secret, alg="HS256", headers={})).host == "h1"
        refusal(tokens, signed(secret, alg="HS256", headers={"kid": "k"}))
        refusal(tokens, signed(ED, headers={}))

    def test_an_endless_token_is_refused_unread(self, tokens: Tokens) -> None:
        """A token that is longer than any of ours is not decoded."""
        assert "at most 8192 characters" in refusal(tokens, signed() + "A" * 10_000)


class TestFiles:
    """What the start of the server says of its key files."""

    @pytest.mark.parametrize(
        ("entry", "words"),
        [
            (jwk(kid=...), "keys[0]: kid = None: expected a name"),
            (jwk(alg=...), "keys[0]: alg = None: expected one of EdDSA, ES256"),
            (jwk(alg="HS256", kty="oct", k="c2VjcmV0"), "alg = 'HS256': expected one of EdDSA, ES256"),
            (jwk(alg="none"), "alg = 'none'"),
            (jwk(alg="RS256"), "alg = 'RS256'"),
            (jwk(alg="ES256"), "keys[0]: Not an Elliptic curve key"),
            (jwk("ec", alg="EdDSA"), "keys[0]: Not an Octet Key Pair"),
            (jwk(crv="X25519"), "keys[0]: Invalid curve: X25519"),
            (jwk(x="AA"), "keys[0]: Invalid key parameter"),
            (jwk("ec", y="AA"), "keys[0]: Coords should be 32 bytes"),
            (jwk("ec", y=jwk("ec")["x"]), "keys[0]: "),
            (jwk(seatrial_aud="admin"), "seatrial_aud = 'admin': expected one of agent, user, or none"),
            (jwk(use="enc"), "use or key_ops: expected a key that verifies signatures"),
            (jwk(key_ops=["sign"]), "use or key_ops"),
            (jwk(key_ops=5), "use or key_ops"),
            (jwk(d="AAAA"), "keys[0]: holds a private key (d): expected public keys only"),
        ],
    )
    def test_a_bad_key_is_named(self, tmp_path: Path, entry: dict[str, Any], words: str) -> None:
        """Each key that cannot be used is told with file, place, value and what was expected."""
        path = write(tmp_path, entry)

        with pytest.raises(KeyFileError) as caught:
            read_jwks(path)
        assert str(caught.value).startswith(f"jwt_keys = {path}: ")
        assert words in str(caught.value)

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "{}", '{"keys": []}', '{"keys": 5}', '{"keys": [5]}', "[" * 200_000]
    )
    def test_what_is_no_jwks(self, tmp_path: Path, text: str) -> None:
        """A file of another form is refused with the form that was expected."""
        (tmp_path / "jwks.json").write_text(text)

        with pytest.raises(KeyFileError, match=r"jwt_keys = .*expected"):
            read_jwks(tmp_path / "jwks.json")

    def test_other_curves_and_kids_twice(self, tmp_path: Path) -> None:
        """Ed448 is not EdDSA here, P-384 not ES256, and a kid names one key."""
        x = base64.urlsafe_b64encode(ed448.Ed448PrivateKey.generate().public_key().public_bytes_raw()).rstrip(b"=")
        with pytest.raises(KeyFileError, match="crv = 'Ed448': expected Ed25519 for EdDSA, P-256 for ES256"):
            read_jwks(write(tmp_path, jwk(crv="Ed448", x=x.decode())))
        p384 = jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True)
        with pytest.raises(KeyFileError, match="crv = 'P-384'"):
            read_jwks(write(tmp_path, p384 | {"kid": "k", "alg": "ES256"}))
        with pytest.raises(KeyFileError, match=r"keys\[1\]: kid = 'ed': expected each kid once"):
            read_jwks(write(tmp_path, jwk(), jwk()))

    def test_unreadable_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file that is not there, is a folder, or is far too large is named with its setting."""
        with pytest.raises(KeyFileError, match=r"jwt_keys = .*none: No such file or directory: expected a JWKS file"):
            read_jwks(tmp_path / "none")
        with pytest.raises(KeyFileError, match=r"jwt_signing_key = .*Is a directory: expected an unencrypted PEM"):
            read_signing_key(tmp_path)
        monkeypatch.setattr(auth_keys, "MAX_FILE_BYTES", 10)
        with pytest.raises(KeyFileError, match="more than 10 bytes"):
            read_jwks(write(tmp_path, jwk()))

    def test_bad_private_keys(self, tmp_path: Path) -> None:
        """A public, encrypted, RSA or P-384 key, or rubbish, cannot sign."""
        expected = "expected an unencrypted PEM private key, Ed25519 or P-256"
        encryption = serialization.BestAvailableEncryption(b"x")
        rubbish = tmp_path / "rubbish.pem"
        rubbish.write_bytes(
            ED.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        for path in (pem(tmp_path, ED, encryption), rubbish):
            with pytest.raises(KeyFileError, match=expected):
                read_signing_key(path)
        for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
            with pytest.raises(KeyFileError, match=expected):
                read_signing_key(pem(tmp_path, key))

    def test_signing_must_be_possible(self, tmp_path: Path) -> None:
        """A kid that is not in the file, is another key's, or is for users only stops the start."""
        path = pem(tmp_path, ED)
        for entries, kid, words in (
            ([jwk()], "x", "jwt_signing_kid = 'x': expected a kid of jwt_keys = .*, which has ed"),
            ([jwk(), jwk("ec")], "ec", "jwt_signing_key = .*: does not belong to the public key of kid 'ec'"),
            ([public_jwk(generate("EdDSA"), kid="ed")], "ed", "does not belong to the public key of kid 'ed'"),
            ([jwk(seatrial_aud="user")], "ed", "restricted to seatrial_aud 'user'.*expected 'agent'"),
        ):
            with pytest.raises(KeyFileError, match=words):
                Keys.of_files(write(tmp_path, *entries), path, kid)

    def test_thumbprints_are_those_of_the_standard(self) -> None:
        """The name of an unnamed key is its RFC 7638 thumbprint: the one of RFC 8037, appendix A.3."""
        key = Ed25519PrivateKey.from_private_bytes(
            base64.urlsafe_b64decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
        )

        assert thumbprint(key) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
