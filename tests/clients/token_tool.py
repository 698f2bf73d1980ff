"""What another PKCS#11 program sees of the token: python-pkcs11 and pkcs11-tool on the bridge's own token.

A module's state belongs to a process, so python-pkcs11 runs in a child (this file as a script), never in the tests' own process.
"""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

TIMEOUT = 60


def key_id_hex(key):
    """CKA_ID of a KMS key: the 16 bytes of its UUID."""
    return uuid.UUID(key).hex


def token(bridge, command, *, key=None, raw_id=None, algorithm=None, message=b"", iv=b"", aad=b""):
    """Runs one command of this script on the bridge's token; gives what it found."""
    request = {"command": command, "id": raw_id or (key_id_hex(key) if key else None), "algorithm": algorithm,
               "message": message.hex(), "iv": iv.hex(), "aad": aad.hex()}
    done = subprocess.run([sys.executable, __file__], input=json.dumps(request), capture_output=True, text=True, timeout=TIMEOUT,
                          env=bridge.tool_env())
    assert done.returncode == 0, f"{command}: {done.stderr}"
    answer = json.loads(done.stdout)
    return bytes.fromhex(answer["bytes"]) if isinstance(answer, dict) and "bytes" in answer else answer


def pkcs11_tool(bridge, *args, check=True, cwd=None):
    # OpenSC 0.23 takes the first token whose label begins with --token-label: where there are several, `slot` names one.
    slot = getattr(bridge, "slot", None)
    command = ["pkcs11-tool", "--module", bridge.env["HSM_BRIDGE_PKCS11_MODULE"], "--token-label", bridge.env["HSM_BRIDGE_TOKEN_LABEL"],
               "--login", "--pin", "env:TOKEN_PIN", *([] if slot is None else ["--slot", str(slot)]), *map(str, args)]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, cwd=cwd,
                          env=bridge.tool_env(TOKEN_PIN=bridge.pin))
    if check:
        assert done.returncode == 0, f"{command}\n{done.stdout.decode(errors='replace')}\n{done.stderr.decode(errors='replace')}"
    return done


def listed_objects(bridge):
    """`pkcs11-tool -O`, each object with its lines as a dictionary; `kind` is the first line."""
    objects = []
    for line in pkcs11_tool(bridge, "-O").stdout.decode().splitlines():
        if line and not line.startswith((" ", "\t")):
            objects.append({"kind": line.strip()})
        elif ":" in line and objects:
            name, _, value = line.strip().partition(":")
            objects[-1][name.strip()] = value.strip()
    return objects


# -- the child -------------------------------------------------------------------------------------------------------------

def main():
    import pkcs11
    from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, ObjectClass

    request = json.load(sys.stdin)
    wanted = bytes.fromhex(request["id"]) if request["id"] else None
    library = pkcs11.lib(os.environ["HSM_BRIDGE_PKCS11_MODULE"])
    found = library.get_token(token_label=os.environ["HSM_BRIDGE_TOKEN_LABEL"])
    pin = Path(os.environ["HSM_BRIDGE_PIN_FILE"]).read_text().strip("\r\n")
    with found.open(user_pin=pin) as session:
        match request["command"]:
            case "hmac":
                key = session.get_key(object_class=ObjectClass.SECRET_KEY, id=wanted)
                mechanism = {"HMAC_SHA_224": Mechanism.SHA224_HMAC, "HMAC_SHA_256": Mechanism.SHA256_HMAC,
                             "HMAC_SHA_384": Mechanism.SHA384_HMAC, "HMAC_SHA_512": Mechanism.SHA512_HMAC}[request["algorithm"]]
                return {"bytes": key.sign(bytes.fromhex(request["message"]), mechanism=mechanism).hex()}
            case "gcm-open" | "gcm-make" as command:
                key = session.get_key(object_class=ObjectClass.SECRET_KEY, key_type=KeyType.AES, id=wanted)
                message, iv, aad = (bytes.fromhex(request[name]) for name in ("message", "iv", "aad"))
                parameters = GCMParams(b"", aad, 128)
                # The constructor refuses an IV of 16 bytes.
                parameters.nonce = iv
                how = {"mechanism": Mechanism.AES_GCM, "mechanism_param": parameters}
                return {"bytes": (key.decrypt if command == "gcm-open" else key.encrypt)(message, **how).hex()}
            case "secrets":
                # What each value of each private or secret object with this CKA_ID gives: the error's name, or the value.
                outcome = []
                for kind in (ObjectClass.SECRET_KEY, ObjectClass.PRIVATE_KEY):
                    for key in session.get_objects({Attribute.CLASS: kind, Attribute.ID: wanted}):
                        rsa = key[Attribute.KEY_TYPE] == KeyType.RSA and kind == ObjectClass.PRIVATE_KEY
                        parts = [Attribute.PRIVATE_EXPONENT, Attribute.PRIME_1, Attribute.PRIME_2] if rsa else [Attribute.VALUE]
                        for part in parts:
                            try:
                                value = key[part]
                                outcome.append([kind.name, part.name, f"read {len(value)} bytes"])
                            except pkcs11.exceptions.PKCS11Error as error:
                                outcome.append([kind.name, part.name, type(error).__name__])
                return outcome
            case "flags":
                flags = [Attribute.TOKEN, Attribute.PRIVATE, Attribute.SENSITIVE, Attribute.ALWAYS_SENSITIVE, Attribute.EXTRACTABLE,
                         Attribute.NEVER_EXTRACTABLE, Attribute.LOCAL]
                outcome = []
                for kind in (ObjectClass.SECRET_KEY, ObjectClass.PRIVATE_KEY):
                    for key in session.get_objects({Attribute.CLASS: kind, Attribute.ID: wanted} if wanted else {Attribute.CLASS: kind}):
                        outcome.append({"class": kind.name, "label": key.label, "id": bytes(key.id).hex()}
                                       | {flag.name: key[flag] for flag in flags})
                return outcome
    raise SystemExit(f"no such command: {request['command']}")


if __name__ == "__main__":
    print(json.dumps(main()))
