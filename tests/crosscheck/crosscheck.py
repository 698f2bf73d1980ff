"""scripts/crosscheck: KMS and the token behind it, checked against each other by programs that are not hsm-bridge."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "clients"))

import botocore.exceptions  # noqa: E402
from cryptography.hazmat.backends.openssl import backend  # noqa: E402

import adopted  # noqa: E402
import blobs  # noqa: E402
import every_key  # noqa: E402
import later  # noqa: E402
import macs  # noqa: E402
import objects  # noqa: E402
import randomness  # noqa: E402
import signatures  # noqa: E402
from bridge import Bridge, binary, clean_env  # noqa: E402
from table import FAILED, Table  # noqa: E402
from target import CannotRun, Target  # noqa: E402

CANNOT_RUN = 2

GROUPS = {
    "objects": lambda target, table, _: objects.run(target, table),
    "signatures": lambda target, table, _: signatures.run(target, table),
    "macs": lambda target, table, _: macs.run(target, table),
    "ciphertexts": lambda target, table, _: blobs.run(target, table),
    "random": lambda target, table, args: randomness.run(target, table, args.spy_log),
    "adopted": lambda target, table, _: adopted.run(target, table),
    "later": lambda target, table, _: later.run(target, table),
}

EPILOG = """\
Credentials are those of any AWS client: AWS_ACCESS_KEY_ID and so on. The flags' defaults are the variables that
`hsm-bridge dev --env-file FILE` exports. Needs pkcs11-tool, openssl and the token's PIN: run it where the token is.

exit codes: 0 all judges agree; 1 one does not; 2 it could not be asked"""


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(CANNOT_RUN))
    bridge = None
    try:
        if args.dev:
            bridge = dev()
        target = Target(environment(args, bridge), args.custom_store)
        return check(target, args)
    except CannotRun as reason:
        print(f"crosscheck: {reason}", file=sys.stderr)
        return CANNOT_RUN
    except KeyboardInterrupt:
        return CANNOT_RUN
    finally:
        if bridge:
            bridge.close()


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/crosscheck", description="Checks KMS and the PKCS#11 token behind it against each "
                                     "other, with programs that are not hsm-bridge, and prints a table.", epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dev", action="store_true", help="start an instance of its own, on a SoftHSM token")
    parser.add_argument("--endpoint", metavar="URL", help="of KMS [AWS_ENDPOINT_URL_KMS, AWS_ENDPOINT_URL]")
    parser.add_argument("--module", metavar="FILE", help="the token's PKCS#11 module [HSM_BRIDGE_PKCS11_MODULE]")
    parser.add_argument("--token-label", metavar="LABEL", help="[HSM_BRIDGE_TOKEN_LABEL]")
    parser.add_argument("--pin-file", metavar="FILE", help="[HSM_BRIDGE_PIN_FILE]")
    parser.add_argument("--custom-store", metavar="cks-…", help="the keys of this custom key store; --token-label names its token")
    parser.add_argument("--keys", action="store_true", help="check every existing key too")
    parser.add_argument("--key", metavar="KEY-ID", action="append", default=[], help="of the existing keys this one; may be repeated")
    parser.add_argument("--only", metavar="GROUP,…", help=f"of {', '.join(GROUPS)}, keys")
    parser.add_argument("--spy-log", metavar="FILE", help="log of pkcs11-spy below the server: C_GenerateRandom is counted")
    args = parser.parse_args()
    named = args.only.split(",") if args.only else list(GROUPS)
    unknown = [name for name in named if name not in (*GROUPS, "keys")]
    if unknown:
        parser.error(f"no such group: {', '.join(unknown)}")
    args.keys = args.keys or bool(args.key) or "keys" in named
    args.groups = [name for name in named if name in GROUPS]
    if args.custom_store and not args.token_label:
        # The variable names the default key store's token.
        parser.error("--custom-store needs --token-label")
    return args


def dev():
    if not binary().is_file():
        raise CannotRun(f"{binary()} does not exist: build it, or name it in HSM_BRIDGE_BIN")
    bridge = Bridge()
    try:
        return bridge.start()
    except BaseException as error:
        bridge.close()
        if isinstance(error, AssertionError):
            raise CannotRun(error) from None
        raise


def environment(args, bridge):
    """The variables of a person who has sourced the file of `hsm-bridge dev`, with the flags over them."""
    if bridge:
        # Nothing that points elsewhere is left.
        env = clean_env(**bridge.env, HSM_BRIDGE_BIN=str(binary()))
        for name in [name for name in os.environ if name not in env]:
            del os.environ[name]
        os.environ.update(env)
    env = dict(os.environ)
    if args.custom_store and not args.pin_file and env.get("HSM_BRIDGE_CUSTOM_PIN_FILE"):
        env["HSM_BRIDGE_PIN_FILE"] = env["HSM_BRIDGE_CUSTOM_PIN_FILE"]
    env["AWS_ENDPOINT_URL"] = args.endpoint or env.get("AWS_ENDPOINT_URL_KMS") or env.get("AWS_ENDPOINT_URL", "")
    for name, value in (("HSM_BRIDGE_PKCS11_MODULE", args.module), ("HSM_BRIDGE_TOKEN_LABEL", args.token_label),
                        ("HSM_BRIDGE_PIN_FILE", args.pin_file)):
        if value:
            env[name] = value
    return env


def check(target, args):
    for program in ("pkcs11-tool", "openssl"):
        if shutil.which(program) is None:
            raise CannotRun(f"{program} is not installed")
    target.session  # noqa: B018  # logs in, or says why not
    try:
        target.kms.list_keys(Limit=1)
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise CannotRun(f"{target.endpoint}: {error}") from None
    table = Table(sys.stdout)
    table.heading(heading(target))
    try:
        # First, so that a red key does not hide behind a long list.
        if args.keys:
            group(table, "keys", lambda: every_key.run(target, table, args.key))
        for name in args.groups:
            group(table, name, lambda name=name: GROUPS[name](target, table, args))
    finally:
        for left in target.delete_throw_away_keys():
            print(f"crosscheck: not scheduled for deletion: {left}", file=sys.stderr)
        target.close()
    table.finish()
    if table.silent and not table.judged:
        raise CannotRun("nothing was judged")
    return int(table.failed > 0)


def group(table, name, run):
    """What goes wrong between two rows is a failed row too."""
    try:
        run()
    except CannotRun:
        raise
    except Exception as error:  # noqa: BLE001
        table.add(f"{name}: broken off", "", FAILED, f"{type(error).__name__}: {error}")


def heading(target):
    token = target.token
    where = f", custom key store {target.custom_store}" if target.custom_store else ""
    return [
        f"KMS    {target.endpoint}{where}",
        f"token  {token.label}: {token.manufacturer_id} {token.model}, serial {bytes(token.serial).decode(errors='replace')}",
        f"judges pkcs11-tool of {said('opensc-tool', '--info')}; python-pkcs11 {version('python-pkcs11')}; python-cryptography "
        f"{version('cryptography')} ({backend.openssl_version_text()}); openssl: {said('openssl', 'version')}",
        f"run    {target.run_id}; its own keys are tagged hsm-bridge:crosscheck and scheduled for deletion at the end",
    ]


def said(*command):
    """A program's version, the first line of what it says; pkcs11-tool itself does not tell."""
    if shutil.which(command[0]) is None:
        return "unknown version"
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    lines = (done.stdout + done.stderr).splitlines()
    return lines[0].partition(" [")[0].partition(" (")[0] if lines else "unknown version"


if __name__ == "__main__":
    sys.exit(main())
