"""Keys in an instance's token, made and changed behind the bridge's back with python-pkcs11.

A module's state belongs to a process, so this file runs as a script in a child, never in the tests' own process.
"""

import json
import subprocess
import sys

from instance import COMMAND, MODULE, clean_env


class Keys:
    def __init__(self, instance, label=None, pin=None, serial=None):
        self.instance, self.label, self.pin, self.serial = instance, label or instance.label, pin or instance.pin, serial

    def __call__(self, command, **members):
        request = {"command": command, "module": MODULE, "label": self.label, "serial": self.serial, "pin": self.pin} | members
        done = subprocess.run([sys.executable, __file__], input=json.dumps(request), capture_output=True, text=True, timeout=COMMAND,
                              env=clean_env(SOFTHSM2_CONF=str(self.instance.softhsm_conf)))
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return json.loads(done.stdout)

    def make(self, kind, cka_id, label, **attributes):
        """`kind`: AES:32, GENERIC:32, RSA:2048, EC:secp256r1, ED25519. One purpose, unless `attributes` (of the secret or private key) and
        `public` say otherwise."""
        return self("make", kind=kind, id=cka_id, name=label, attributes=attributes.pop("attributes", {}) | attributes,
                    public=attributes.pop("public", {}))

    def set(self, cka_id, attribute, value, kind=None):
        return self("set", id=cka_id, attribute=attribute, value=value, kind=kind)

    def destroy(self, cka_id, kind=None):
        return self("destroy", id=cka_id, kind=kind)


# -- the child -------------------------------------------------------------------------------------------------------------

def main(request):
    import pkcs11
    from pkcs11 import Attribute, KeyType, ObjectClass
    from pkcs11.util.ec import encode_named_curve_parameters

    uses = ("ENCRYPT", "DECRYPT", "SIGN", "VERIFY", "WRAP", "UNWRAP", "DERIVE")
    public_uses = ("ENCRYPT", "VERIFY", "WRAP")
    private_uses = ("DECRYPT", "SIGN", "UNWRAP", "DERIVE")

    def template(names, true, more):
        found = {name: name in true for name in names}
        return {Attribute[name]: value for name, value in (found | more).items()}

    def make(session):
        name, _, size = request["kind"].partition(":")
        cka_id, label = bytes.fromhex(request["id"]), request["name"]
        more, public = dict(request["attributes"]), dict(request["public"])
        guarded = {"PRIVATE": True, "SENSITIVE": True, "EXTRACTABLE": False}
        if name in ("AES", "GENERIC"):
            true = ("ENCRYPT", "DECRYPT") if name == "AES" else ("SIGN", "VERIFY")
            kind = KeyType.AES if name == "AES" else KeyType.GENERIC_SECRET
            session.generate_key(kind, int(size) * 8, id=cka_id, label=label, store=True, capabilities=0,
                                 template=template(uses, true, guarded | more),
                                 **({} if name == "AES" else {"mechanism": pkcs11.Mechanism.GENERIC_SECRET_KEY_GEN}))
            return
        both = dict(id=cka_id, label=label, store=True, capabilities=0,
                    public_template=template(public_uses, ("VERIFY",), public),
                    private_template=template(private_uses, ("SIGN",), guarded | more))
        if name == "RSA":
            session.generate_keypair(KeyType.RSA, int(size), **both)
        elif name == "EC":
            parameters = session.create_domain_parameters(KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters(size)}, local=True)
            parameters.generate_keypair(**both)

    def found(session):
        wanted = {Attribute.ID: bytes.fromhex(request["id"])}
        if request.get("kind"):
            wanted[Attribute.CLASS] = ObjectClass[request["kind"]]
        return list(session.get_objects(wanted))

    serial = request["serial"] and request["serial"].encode()
    token = pkcs11.lib(request["module"]).get_token(token_label=request["label"], token_serial=serial)
    with token.open(rw=True, user_pin=request["pin"]) as session:
        match request["command"]:
            case "make":
                make(session)
            case "set":
                value = bytes.fromhex(request["value"]) if request["attribute"] == "ID" else request["value"]
                for one in found(session):
                    one[Attribute[request["attribute"]]] = value
            case "destroy":
                for one in found(session):
                    one.destroy()
            case "count":
                return len(found(session))
    return None


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
