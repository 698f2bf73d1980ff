"""An OIDC issuer for tests: keys, a JWKS, and tokens shaped as AD FS and Kubernetes make them, with python-cryptography alone.

As a module: `Issuer`. As a program:

    oidc_issuer.py cases DIR            the fixtures of `src/authn/federation/` (tests/fixtures/oidc): tokens with what each must give
    oidc_issuer.py serve DIR            discovery document and JWKS on a loopback port, whose URL is printed; DIR/jwks.json is what it
                                        serves, read anew for each request
"""

import base64
import http.server
import json
import sys
import threading
import time
from pathlib import Path

from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

HASHES = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def number(value, length=None):
    return b64(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


class Key:
    """One signing key. `kind`: RSA-2048, RSA-1024 …, P-256, P-384, Ed25519."""

    def __init__(self, kid, kind="RSA-2048", **members):
        self.kid, self.kind, self.members = kid, kind, members
        if kind.startswith("RSA-"):
            self.private = rsa.generate_private_key(65537, int(kind[4:]))
        elif kind == "Ed25519":
            self.private = ed25519.Ed25519PrivateKey.generate()
        else:
            self.private = ec.generate_private_key({"P-256": ec.SECP256R1, "P-384": ec.SECP384R1}[kind]())

    def jwk(self):
        public = self.private.public_key()
        if self.kind.startswith("RSA-"):
            numbers = public.public_numbers()
            made = {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}
        elif self.kind == "Ed25519":
            raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
            made = {"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}
        else:
            numbers, length = public.public_numbers(), (public.curve.key_size + 7) // 8
            made = {"kty": "EC", "crv": self.kind, "x": number(numbers.x, length), "y": number(numbers.y, length)}
        if self.kid is not None:
            made["kid"] = self.kid
        return {**made, "use": "sig", **self.members}

    def public_pem(self):
        return self.private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def sign(self, algorithm, message):
        if algorithm == "EdDSA":
            return self.private.sign(message)
        digest = HASHES[algorithm[2:]]()
        if algorithm.startswith("RS"):
            return self.private.sign(message, padding.PKCS1v15(), digest)
        if algorithm.startswith("PS"):
            return self.private.sign(message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
        r, s = decode_dss_signature(self.private.sign(message, ec.ECDSA(digest)))
        length = (self.private.curve.key_size + 7) // 8
        return r.to_bytes(length, "big") + s.to_bytes(length, "big")


def compact(header, claims, signature):
    """`signature`: bytes, or what makes them of the signing input."""
    raw = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    message = ".".join(map(b64, raw)).encode()
    return message.decode() + "." + b64(signature(message) if callable(signature) else signature)


def adfs_claims(issuer, client_id, *, now, user="alice", domain="CORP", **more):
    """An id_token of AD FS 2016 and later; its access tokens name another issuer (`http://…/adfs/services/trust`)."""
    return {
        "aud": client_id, "iss": issuer, "iat": now, "nbf": now, "exp": now + 3600, "auth_time": now - 5,
        "sub": b64(hashes_of(f"{user}{client_id}")), "upn": f"{user}@corp.example", "unique_name": f"{domain}\\{user}",
        "sid": "S-1-5-21-1004336348-1177238915-682003330-1104", "pwd_url": f"{issuer}/portal/updatepassword/",
        "appid": client_id, "apptype": "Confidential", "scp": "openid",
        "authmethod": "urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport", "ver": "1.0", **more,
    }


def kubernetes_claims(issuer, audience, *, now, namespace="payments", account="api", **more):
    """A projected service-account token."""
    return {
        "aud": audience if isinstance(audience, list) else [audience], "iss": issuer, "iat": now, "nbf": now, "exp": now + 3607,
        "jti": "4b8a5c3e-4f4e-4a1d-9f2e-2f6d1a5d7c11", "sub": f"system:serviceaccount:{namespace}:{account}",
        "kubernetes.io": {
            "namespace": namespace, "node": {"name": "worker-1", "uid": "0a7d9d6c-8b3e-4b0a-9a44-6d3c6f0b7a01"},
            "pod": {"name": f"{account}-5d8f7c9b6-x2x4z", "uid": "6f2c8a10-2a27-4a8b-8a5e-1b1f4b9f0c02"},
            "serviceaccount": {"name": account, "uid": "c1f6a7be-9d35-4c8f-8e57-6a1d2b3c4d03"}, "warnafter": now + 3607,
        },
        **more,
    }


def hashes_of(text):
    digest = hashes.Hash(hashes.SHA256())
    digest.update(text.encode())
    return digest.finalize()


class Issuer:
    """One issuer with its keys. `url` is what its tokens name in `iss`."""

    def __init__(self, url, keys=None):
        self.url, self.keys = url, keys or [Key("k1")]

    def jwks(self):
        return {"keys": [key.jwk() for key in self.keys]}

    def write_jwks(self, path):
        Path(path).write_text(json.dumps(self.jwks(), indent=1) + "\n")
        return path

    def token(self, claims, *, key=None, algorithm="RS256", header=None):
        key = key or self.keys[0]
        head = {"typ": "JWT", "alg": algorithm, **({} if key.kid is None else {"kid": key.kid}), **(header or {})}
        return compact(head, claims, lambda message: key.sign(algorithm, message))

    def adfs(self, client_id, *, now=None, **claims):
        key = self.keys[0]
        return self.token(adfs_claims(self.url, client_id, now=now or int(time.time()), **claims), header={"x5t": key.kid})

    def kubernetes(self, audience="sts.amazonaws.com", *, now=None, **claims):
        return self.token(kubernetes_claims(self.url, audience, now=now or int(time.time()), **claims))


class Server:
    """Discovery document and JWKS of one issuer on a loopback port; `url` is the issuer's. `requests` are the paths that were asked."""

    def __init__(self, jwks, port=0, **discovery):
        self.jwks, self.discovery, self.requests = jwks, discovery, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append(self.path)
                if self.path == "/.well-known/openid-configuration":
                    body = {"issuer": outer.url, "jwks_uri": outer.url + "/keys", **outer.discovery}
                elif self.path == "/keys":
                    body = outer.jwks() if callable(outer.jwks) else outer.jwks
                else:
                    return self.send_error(404)
                data = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


# -- the fixtures of src/authn/federation ----------------------------------------------------------------------------------

NOW = 1_800_000_000
ACCOUNT, OTHER_ACCOUNT = "111122223333", "444455556666"
ADFS, KUBERNETES, PLAIN = "https://adfs.example/adfs", "https://kubernetes.default.svc.cluster.local", "https://issuer.example/id/X"
CLIENT = "5f1c9d2e-8a4b-4c8e-9b57-0d1e2f3a4b5c"

NOT_A_JWT = "The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)"
NO_KEY = ("Couldn't retrieve verification key from your identity provider, please reference AssumeRoleWithWebIdentity documentation "
          "for requirements")


def cases():
    """Providers and cases. A case has `token`, `now`, `account`, and either `code` and `message` or `gives`."""
    rsa_a, rsa_b, small = Key("rsa-a", alg="RS256"), Key("rsa-b"), Key("small", "RSA-1024")
    p256, p384, ed = Key("p256", "P-256"), Key("p384", "P-384"), Key("ed", "Ed25519")
    twin_a, twin_b, encrypting, ec_enc = Key("twin"), Key("twin", "P-256"), Key("enc", use="enc"), Key("ops", key_ops=["encrypt"])
    only_ps = Key("only-ps", alg="PS256")
    nobody = Key("rsa-a")
    adfs_key = Key("eS6VbQ0OdLwVYBmFkW1tD0w0v9c", alg="RS256")
    x5c = {"x5t": adfs_key.kid, "x5c": [base64.b64encode(b"not a certificate").decode()]}
    adfs_key.members.update(x5c)
    adfs, kubernetes = Issuer(ADFS, [adfs_key]), Issuer(KUBERNETES, [Key("k8s-1"), Key("k8s-ec", "P-256")])
    plain = Issuer(PLAIN, [rsa_a, rsa_b, small, p256, p384, ed, twin_a, twin_b, encrypting, ec_enc, only_ps])
    other = Issuer(PLAIN, [Key("rsa-a")])

    every = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
    unknown = [{"kty": "AKP", "alg": "ML-DSA-65", "kid": "pq", "pub": "AAAA"}, {"kty": "oct", "kid": "oct", "k": b64(b"secret" * 8)},
               {"kty": "EC", "crv": "secp256k1", "kid": "k1", "x": "AA", "y": "AA"}, {"kty": 7}, "no key", {"kid": "empty"}]
    plain_jwks = plain.jwks()
    plain_jwks["keys"][0:0] = unknown
    providers = [
        {"account": ACCOUNT, "url": ADFS, "client_ids": [CLIENT, f"microsoft:identityserver:{CLIENT}", "urn:microsoft:userinfo"],
         "algorithms": ["RS256"], "jwks": adfs.jwks()},
        {"account": ACCOUNT, "url": KUBERNETES, "client_ids": ["sts.amazonaws.com"], "algorithms": ["RS256", "ES256"],
         "jwks": kubernetes.jwks()},
        {"account": ACCOUNT, "url": PLAIN, "client_ids": ["app", "azp-app"], "algorithms": every, "jwks": plain_jwks},
        # The same issuer's name in another account: other keys, other clients, other algorithms.
        {"account": OTHER_ACCOUNT, "url": PLAIN, "client_ids": ["other-app"], "algorithms": ["RS384"], "jwks": other.jwks()},
    ]
    made = []

    def case(name, token, *, now=NOW, account=ACCOUNT, **expected):
        made.append({"name": name, "account": account, "now": now, "token": token, **expected})

    def gives(issuer, subject, audiences, account=ACCOUNT, **keys):
        name = issuer.removeprefix("https://")
        return {"provider_arn": f"arn:aws:iam::{account}:oidc-provider/{name}", "issuer": issuer, "subject": subject,
                "audiences": audiences, "claims": {f"{name}:{key}": value if isinstance(value, list) else [value]
                                                   for key, value in keys.items()}}

    def refused(name, token, message, code="InvalidIdentityToken", **more):
        case(name, token, code=code, message=message, **more)

    def claims(**more):
        whole = {"iss": PLAIN, "sub": "alice", "aud": "app", "iat": NOW, "exp": NOW + 600, **more}
        return {name: value for name, value in whole.items() if value is not ...}

    good = gives(PLAIN, "alice", ["app"], sub="alice", aud="app", oaud="app")

    # AD FS and Kubernetes
    shape = adfs_claims(ADFS, CLIENT, now=NOW)
    exposed = ["upn", "unique_name", "sid", "pwd_url", "appid", "apptype", "scp", "authmethod", "ver"]
    for audience in (CLIENT, f"microsoft:identityserver:{CLIENT}", "urn:microsoft:userinfo"):
        kept = {**{name: shape[name] for name in exposed}, "appid": audience}
        kept["sub"] = adfs_claims(ADFS, audience, now=NOW)["sub"]
        case(f"AD FS, audience {audience}", adfs.adfs(audience, now=NOW),
             gives=gives(ADFS, kept["sub"], [audience], aud=audience, oaud=audience, **kept))
    refused("AD FS, another client", adfs.adfs("another-client", now=NOW), "Incorrect token audience")
    trust = adfs_claims("http://adfs.example/adfs/services/trust", CLIENT, now=NOW)
    refused("AD FS, an access token names another issuer", adfs.token(trust),
            "No OpenIDConnect provider found in your account for http://adfs.example/adfs/services/trust")
    subject = "system:serviceaccount:payments:api"
    for key, algorithm in zip(kubernetes.keys, ("RS256", "ES256")):
        token = kubernetes.token(kubernetes_claims(KUBERNETES, "sts.amazonaws.com", now=NOW), key=key, algorithm=algorithm)
        case(f"Kubernetes, {algorithm}", token,
             gives=gives(KUBERNETES, subject, ["sts.amazonaws.com"], sub=subject, aud="sts.amazonaws.com", oaud="sts.amazonaws.com"))
    two = ["https://kubernetes.default.svc", "sts.amazonaws.com"]
    case("Kubernetes, two audiences", kubernetes.kubernetes(two, now=NOW),
         gives=gives(KUBERNETES, subject, two, sub=subject, aud=two, oaud=two))
    refused("Kubernetes, the API server's audience alone", kubernetes.kubernetes(two[:1], now=NOW), "Incorrect token audience")

    # every algorithm
    for algorithm, key in [("RS256", rsa_a), ("RS256", rsa_b), ("RS384", rsa_b), ("RS512", rsa_b), ("PS256", rsa_b), ("PS384", rsa_b),
                           ("PS512", rsa_b), ("ES256", p256), ("ES384", p384), ("EdDSA", ed), ("PS256", only_ps)]:
        case(f"{algorithm} with {key.kid}", plain.token(claims(), key=key, algorithm=algorithm), gives=good)

    # algorithms refused
    message = "the token's algorithm is not one that its provider is registered with"
    refused("ES256 for a provider of RS256", Issuer(ADFS).token(shape, key=p256, algorithm="ES256"), NOT_A_JWT, cause=message)
    for name in ("none", "None", "NONE", "nOnE"):
        refused(f"alg {name}, no signature", compact({"alg": name, "typ": "JWT"}, claims(), b""), NOT_A_JWT)
    refused("alg none beside a good signature", compact({"alg": "none", "kid": "rsa-b"}, claims(), lambda m: rsa_b.sign("RS256", m)),
            NOT_A_JWT)
    jwk_text = json.dumps(rsa_b.jwk()).encode()
    for what, secret in [("PEM", rsa_b.public_pem()), ("JWK", jwk_text), ("modulus", unb64(rsa_b.jwk()["n"])), ("nothing", b""),
                         ("oct key of the set", b"secret" * 8)]:
        def mac(m, secret=secret):
            made_mac = hmac.HMAC(secret, hashes.SHA256())
            made_mac.update(m)
            return made_mac.finalize()
        for kid in ("rsa-b", "oct"):
            refused(f"HS256 with the {what} as secret, kid {kid}", compact({"alg": "HS256", "kid": kid}, claims(), mac), NOT_A_JWT,
                    cause=message)
    refused("RS256 on a key whose alg is PS256", plain.token(claims(), key=only_ps, algorithm="RS256"), NO_KEY)
    refused("the header says ES256, the kid is RSA's", plain.token(claims(), key=p256, algorithm="ES256", header={"kid": "rsa-b"}),
            NO_KEY)
    refused("the header says ES384, the kid is P-256's", plain.token(claims(), key=p384, algorithm="ES384", header={"kid": "p256"}),
            NO_KEY)
    refused("the header says RS384 over an RS256 signature",
            compact({"alg": "RS384", "kid": "rsa-b"}, claims(), lambda m: rsa_b.sign("RS256", m)), NOT_A_JWT, cause="signature")
    refused("an algorithm that is none", compact({"alg": "XX999", "kid": "rsa-b"}, claims(), b"x"), NOT_A_JWT)
    refused("no alg", compact({"kid": "rsa-b"}, claims(), lambda m: rsa_b.sign("RS256", m)), NOT_A_JWT)

    # keys
    refused("unknown kid", plain.token(claims(), key=rsa_b, header={"kid": "rsa-new"}), NO_KEY)
    for kid in ("../../../../dev/null", "' OR 1=1 --", "\u0000", "rsa-b\n", "RSA-B", "", "k" * 4000):
        refused(f"kid injection {kid[:30]!r}", plain.token(claims(), key=rsa_b, header={"kid": kid}), NO_KEY)
    refused("a kid that is no text", plain.token(claims(), key=rsa_b, header={"kid": 7}), NOT_A_JWT)
    refused("somebody else's key under a known kid", plain.token(claims(), key=nobody), NOT_A_JWT, cause="signature")
    refused("the key in the header", plain.token(claims(), key=nobody, header={"jwk": nobody.jwk()}), NOT_A_JWT, cause="signature")
    refused("the key behind a URL in the header", plain.token(claims(), key=nobody, header={"jku": "https://evil.example/keys"}),
            NOT_A_JWT, cause="signature")
    refused("RSA with 1024 bits", plain.token(claims(), key=small), NO_KEY)
    refused("a key for encryption", plain.token(claims(), key=encrypting), NO_KEY)
    refused("a key whose operations are others", plain.token(claims(), key=ec_enc), NO_KEY)
    case("a kid twice, RSA", plain.token(claims(), key=twin_a), gives=good)
    case("a kid twice, EC", plain.token(claims(), key=twin_b, algorithm="ES256"), gives=good)
    no_kid = compact({"alg": "RS256"}, claims(), lambda m: rsa_b.sign("RS256", m))
    case("no kid", no_kid, gives=good)
    refused("no kid and nobody's key", compact({"alg": "RS256"}, claims(), lambda m: nobody.sign("RS256", m)), NO_KEY)
    refused("crit", plain.token(claims(), key=rsa_b, header={"crit": ["exp"], "exp": NOW}), NOT_A_JWT, cause="crit")

    # the claims
    def signed(**more):
        return plain.token(claims(**more), key=rsa_b)

    def expired(now, exp):
        return f"Token expired: current date/time {now} must be before the expiration date/time {exp}"

    case("expired for 59 seconds", signed(exp=NOW - 59), gives=good)
    for seconds in (60, 61, 86_400):
        refused(f"expired for {seconds} seconds", signed(exp=NOW - seconds), expired(NOW, NOW - seconds), "ExpiredTokenException")
    case("exp with a fraction", signed(exp=NOW + 0.5), gives=good)
    refused("exp 0", signed(exp=0), expired(NOW, 0), "ExpiredTokenException")
    refused("exp below 0", signed(exp=-1), expired(NOW, -1), "ExpiredTokenException")
    for exp in (str(NOW + 600), None, True, [NOW + 600], {"a": 1}, 1e300):
        refused(f"exp is {exp!r}", signed(exp=exp), NOT_A_JWT)
    refused("no exp", signed(exp=...), "Missing a required claim: exp")
    rejected = "the token is not valid yet"
    for name in ("nbf", "iat"):
        case(f"{name} in 60 seconds", signed(**{name: NOW + 60}), gives=good)
        refused(f"{name} in 61 seconds", signed(**{name: NOW + 61}), None, "IDPRejectedClaim", cause=rejected)
        refused(f"{name} is text", signed(**{name: str(NOW)}), NOT_A_JWT)
    case("no iat", signed(iat=...), gives=good)
    refused("no sub", signed(sub=...), "Missing a required claim: sub")
    for sub in ("", 7, None, ["alice"], "s" * 256):
        refused(f"sub is {str(sub)[:8]!r}", signed(sub=sub), NOT_A_JWT)
    refused("no aud", signed(aud=...), "Missing a required claim: aud")
    refused("no aud, azp is a client", signed(aud=..., azp="app"), "Missing a required claim: aud")
    for aud in ("", "App", "app ", "application", [], ["x", "y"]):
        refused(f"aud is {aud!r}", signed(aud=aud), "Incorrect token audience")
    for aud in (7, None, ["app", 7], {"app": 1}):
        refused(f"aud is {aud!r}", signed(aud=aud), NOT_A_JWT)
    case("aud beside azp", signed(azp="somebody"),
         gives=gives(PLAIN, "alice", ["app"], sub="alice", aud="somebody", oaud="app", azp="somebody"))
    case("azp alone is a client", signed(aud=["x", "y"], azp="azp-app"),
         gives=gives(PLAIN, "alice", ["x", "y"], sub="alice", aud="azp-app", oaud=["x", "y"], azp="azp-app"))
    refused("neither aud nor azp", signed(aud="x", azp="y"), "Incorrect token audience")
    case("amr and other claims", signed(amr=["pwd", "mfa"], groups=["a", "b"], email="a@b.example", email_verified=True, age=7,
                                        nested={"a": "b"}, mixed=["a", 1], nothing=None, oaud="app2"),
         gives=gives(PLAIN, "alice", ["app"], sub="alice", aud="app", oaud="app", amr=["pwd", "mfa"], groups=["a", "b"],
                     email="a@b.example", email_verified="true"))
    refused("a claim that is `sub` in other letters", signed(SUB="root"), NOT_A_JWT, cause="case")
    refused("two claims that differ in case", signed(team="a", Team="b"), NOT_A_JWT, cause="case")

    # the issuer
    for issuer in (PLAIN + "/", PLAIN.upper(), PLAIN.replace("https", "http"), "https://issuer.example", "issuer.example/id/X"):
        refused(f"issuer {issuer}", signed(iss=issuer), f"No OpenIDConnect provider found in your account for {issuer}")
    refused("no issuer", signed(iss=...), "Missing a required claim: iss")
    for issuer in ("", 7, [PLAIN], "https://a b", "https://ä.example", "https://x/" + "x" * 250, "https://x/<script>"):
        refused(f"issuer {str(issuer)[:20]!r}", signed(iss=issuer), NOT_A_JWT)
    case("the other account's issuer of the same name", other.token(claims(aud="other-app"), algorithm="RS384"), account=OTHER_ACCOUNT,
         gives=gives(PLAIN, "alice", ["other-app"], OTHER_ACCOUNT, sub="alice", aud="other-app", oaud="other-app"))
    refused("the other account's token here", other.token(claims(), algorithm="RS384", header={"kid": "rsa-b"}), NOT_A_JWT,
            cause="signature")
    refused("this account's token there", plain.token(claims(aud="other-app"), key=rsa_b, algorithm="RS384", header={"kid": "rsa-a"}),
            NOT_A_JWT, account=OTHER_ACCOUNT, cause="signature")
    refused("an account without providers", signed(), f"No OpenIDConnect provider found in your account for {PLAIN}",
            account="777788889999")

    # the form
    header, payload, signature = signed().split(".")
    changed = b64(json.dumps(claims(sub="root")).encode())
    refused("another payload", f"{header}.{changed}.{signature}", NOT_A_JWT, cause="signature")
    refused("no signature", f"{header}.{payload}.", NOT_A_JWT, cause="signature")
    refused("cut", signed()[:-8], NOT_A_JWT)
    for name, token in [("empty", ""), ("dots", ".."), ("one part", payload), ("two parts", f"{header}.{payload}"),
                        ("four parts", f"{header}.{payload}.{signature}.x"), ("five parts", f"{header}..{payload}.x.{signature}"),
                        ("padding", f"{header}.{payload}=.{signature}"), ("white space", f" {header}.{payload}.{signature}"),
                        ("a line end", f"{header}.{payload}.{signature}\n"), ("an opaque token", "ya29.A0ARrdaM")]:
        refused(name, token, NOT_A_JWT)
    twice = b'{"iss":"%s","sub":"alice","sub":"root","aud":"app","exp":%d}' % (PLAIN.encode(), NOW + 600)
    refused("a claim twice", plain.token(twice, key=rsa_b), NOT_A_JWT)
    refused("claims that are a list", plain.token([], key=rsa_b), NOT_A_JWT)
    refused("claims too deep", plain.token(b"[" * 5000 + b"]" * 5000, key=rsa_b), NOT_A_JWT)
    # A list is no condition key when it is mixed: the filling is not among what the case gives.
    sized = (signed(pad=["x" * length, 0]) for length in range(14_300, 14_900))
    longest = next(token for token in sized if len(token) == 20_000)
    case("20,000 characters", longest, gives=good)
    refused("20,001 characters", longest + "A", NOT_A_JWT, cause="20,000")
    return {"now": NOW, "providers": providers, "cases": made}


def main():
    match sys.argv[1:]:
        case ["cases", folder]:
            Path(folder).mkdir(parents=True, exist_ok=True)
            Path(folder, "cases.json").write_text(json.dumps(cases(), indent=1) + "\n")
        case ["serve", folder]:
            with Server(lambda: json.loads(Path(folder, "jwks.json").read_text())) as server:
                print(server.url, flush=True)
                threading.Event().wait()
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
