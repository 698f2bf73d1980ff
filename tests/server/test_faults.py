"""tests/pkcs11-faults does what its script says: each fault and each behaviour is shown to happen, by a small program on the module."""

import contextlib
import ctypes
import subprocess
import threading
import time
from ctypes import byref, c_ubyte, c_ulong

import pytest

import cryptoki
from bridge import clean_env
from cryptoki import COUNT_LOW, FINAL_TRY, LOCKED, RW, SERIAL, TO_BE_CHANGED, Mechanism, Oaep, attributes, in_child
from faults import LIBRARY, Faults, rule
from instance import COMMAND, MODULE

TEXT = b"sixteen or more bytes"


class Bench:
    """A token behind the module, and programs that use it."""

    def __init__(self, instance):
        self.instance = instance.make_token()

    def faults(self, *rules, **options):
        self.faults = Faults(self.instance, *rules, **options)
        return self.faults

    def run(self, program):
        return in_child(self.faults.environment, LIBRARY, program)

    def start(self, module):
        """A session that is logged in."""
        assert module.initialize() == "OK"
        session = module.open(module.labelled(self.instance.label))
        assert module.login(session, self.instance.pin) == "OK"
        return session


@pytest.fixture
def bench(make):
    return Bench(make())


def codes(bench, count, function="GenerateRandom"):
    """What so many calls return."""
    def program(module):
        session = bench.start(module)
        place = (c_ubyte * 8)()
        return [getattr(module, function)(session, place, 8) for _ in range(count)]
    return bench.run(program)


@pytest.mark.parametrize("members, expected", [
    ({"nth": 3}, "..x....."), ({"from": 3}, "..xxxxxx"), ({"first": 3}, "xxx....."), ({"every": 3}, "x..x..x."),
    ({"from": 2, "first": 3}, ".xxx...."), ({"from": 3, "every": 2}, "..x.x.x."), ({}, "xxxxxxxx")])
def test_which_calls(bench, members, expected):
    faults = bench.faults(rule("C_GenerateRandom", returns="CKR_DEVICE_ERROR", **members))
    assert codes(bench, 8) == ["DEVICE_ERROR" if one == "x" else "OK" for one in expected]
    assert len(faults.injected()) == expected.count("x") and faults.count("C_GenerateRandom", by="real") == expected.count(".")
    assert faults.count("C_Login") == 1


def test_any_number_and_any_function(bench):
    bench.faults(rule("C_GenerateRandom", returns=0x80001234, first=1), rule("C_Gen*", returns="0x80000005", first=1))
    assert codes(bench, 3) == ["0x80001234", "0x80000005", "OK"]


def test_counted_over_processes(bench):
    faults = bench.faults(rule("C_GenerateRandom", returns="CKR_DEVICE_ERROR", nth=3, name="third", count_over_processes=True))
    assert codes(bench, 2) == ["OK", "OK"]
    assert codes(bench, 2) == ["DEVICE_ERROR", "OK"]
    assert len({call.pid for call in faults.calls()}) == 2


def test_one_token_of_two(bench):
    subprocess.run(["softhsm2-util", "--init-token", "--free", "--label", "other", "--pin", "1234", "--so-pin", "9876543210"],
                   env=clean_env(SOFTHSM2_CONF=str(bench.instance.softhsm_conf)), check=True, capture_output=True, timeout=COMMAND)
    faults = bench.faults(rule("C_GenerateRandom", token="other", returns="CKR_DEVICE_ERROR", nth=2))

    def program(module):
        module.initialize()
        place = (c_ubyte * 8)()
        ours, other = (module.open(module.labelled(label)) for label in (bench.instance.label, "other"))
        answers = [module.GenerateRandom(session, place, 8) for session in (ours, ours, other, ours, other, ours, other)]
        faults.set(rule("C_GetMechanismList", token="other", returns="CKR_TOKEN_NOT_PRESENT"))
        return answers, [module.GetMechanismList(module.labelled(label), None, byref(c_ulong())) for label in (bench.instance.label, "other")]
    assert bench.run(program) == (["OK"] * 4 + ["DEVICE_ERROR", "OK", "OK"], ["OK", "0xe0"])


def test_before_and_after_the_effect(bench):
    bench.faults(rule("C_GenerateKey", returns="CKR_DEVICE_ERROR", nth=1), rule("C_GenerateKey", returns="CKR_GENERAL_ERROR", when="after", nth=1))

    def program(module):
        session = bench.start(module)
        made = []
        for id in (b"\1", b"\2"):
            template, count = attributes({"TOKEN": True, "VALUE_LEN": 32, "ID": id})
            handle = c_ulong(77)
            rv = module.GenerateKey(session, byref(Mechanism(cryptoki.AES_KEY_GEN, None, 0)), template, count, byref(handle))
            made.append((rv, handle.value, len(module.find(session, ID=id))))
        return made
    # The second one is there, and its handle was thrown away.
    assert bench.run(program) == [("DEVICE_ERROR", 77, 0), ("GENERAL_ERROR", 0, 1)]


def test_a_running_process_is_told_a_new_fault(bench):
    faults = bench.faults()

    def program(module):
        session = bench.start(module)
        place, answers = (c_ubyte * 8)(), []
        for code in ["CKR_DEVICE_ERROR", "CKR_PIN_LOCKED"] * 200:
            faults.set(rule("C_GenerateRandom", returns=code))
            answers.append((code, "CKR_" + module.GenerateRandom(session, place, 8)))
        faults.clear()
        return module.GenerateRandom(session, place, 8), [pair for pair in answers if pair[0] != pair[1]]
    assert bench.run(program) == ("OK", [])


def test_a_hang_ends_with_the_script_and_holds_up_nobody_else(bench):
    faults = bench.faults()

    def program(module):
        session = bench.start(module)
        other, place = module.open(module.labelled(bench.instance.label)), (c_ubyte * 8)()
        faults.set(rule("C_GenerateRandom", hang="until-changed", returns="CKR_DEVICE_ERROR", nth=1))
        answers = []
        thread = threading.Thread(target=lambda: answers.append(module.GenerateRandom(session, place, 8)))
        thread.start()
        faults.wait_for("C_GenerateRandom", "hangs")
        meanwhile = module.GenerateRandom(other, place, 8), module.open(1 << 40), list(answers)
        faults.clear()
        thread.join(30)
        return meanwhile, answers
    (answer, _, waiting), answers = bench.run(program)
    assert answer == "OK" and waiting == [] and answers == ["DEVICE_ERROR"]


@pytest.mark.parametrize("how, status", [("SEGV", "exit -11"), ("KILL", "exit -9"), ("ABRT", "exit -6"), ("exit", "exit 1")])
def test_the_process_dies(bench, how, status):
    faults = bench.faults(rule("C_GenerateRandom", kill=how, nth=2))
    assert codes(bench, 3) == status
    assert [call.result for call in faults.calls("C_GenerateRandom")] == ["CKR_OK", "dies"]


def test_a_delay(bench):
    bench.faults(rule("C_GenerateRandom", delay_ms=300, nth=2))

    def program(module):
        session, place, took = bench.start(module), (c_ubyte * 8)(), []
        for _ in range(2):
            begin = time.monotonic()
            assert module.GenerateRandom(session, place, 8) == "OK"
            took.append(time.monotonic() - begin)
        return took
    assert bench.run(program)[1] >= 0.3


def test_nothing_there(bench):
    bench.faults(rule(["C_GetSlotList", "C_FindObjects"], nothing=True, nth=2))

    def program(module):
        assert module.initialize() == "OK"
        return [len(module.slots()) for _ in range(3)]
    # The real list has the free slot too.
    first, second, third = bench.run(program)
    assert first == third > 0 == second


def test_a_wrong_output(bench):
    bench.faults(rule("C_Encrypt", flip=0, nth=2), rule("C_Decrypt", flip=-1, nth=2))

    def program(module):
        session = bench.start(module)
        key = module.aes(session)
        sealed = [module.encrypt(session, key, TEXT) for _ in range(2)]
        return sealed, [module.decrypt(session, key, sealed[0]) for _ in range(2)], module.decrypt(session, key, sealed[1])
    (right, wrong), (opened, damaged), refused = bench.run(program)
    assert wrong == bytes([right[0] ^ 1]) + right[1:]
    assert opened == TEXT and damaged == TEXT[:-1] + bytes([TEXT[-1] ^ 1])
    assert refused == "GENERAL_ERROR"


@pytest.mark.parametrize("script", ["nonsense = 1", "[[rule]]\nfunction = 'C_Decrpyt'", "[[rule]]\nfunction = 'C_Sign'\nreturn = 'CKR_NO'",
                                    "profile = 'enigma'", "[[rule]]\nfunction = 'C_Sign'\nnth = 1\nevery = 2"])
def test_a_script_that_says_nothing_sensible_ends_the_process(bench, script):
    faults = bench.faults()
    faults.script.write_text(script)
    assert codes(bench, 1) == "exit 97"


@pytest.mark.parametrize("what, answers", [("login", ("OK", "OBJECT_HANDLE_INVALID", "OK")), ("sessions", ("SESSION_HANDLE_INVALID",) * 3),
                                           ("context", ("CRYPTOKI_NOT_INITIALIZED",) * 3)])
def test_what_the_token_loses(bench, what, answers):
    bench.faults(rule("C_GenerateRandom", lose=what, nth=1))

    def program(module):
        session, place = bench.start(module), (c_ubyte * 8)()
        key = module.aes(session)
        lost = module.GenerateRandom(session, place, 8), module.encrypt(session, key, TEXT), module.GenerateRandom(session, place, 8)
        module.Finalize(None)
        session = bench.start(module)
        return lost, len(module.encrypt(session, module.find(session, ID=b"\1")[0], TEXT))
    assert bench.run(program) == (answers, len(TEXT) + 16)


# -- behaviours ------------------------------------------------------------------------------------------------------------

def test_handles_are_permuted_at_every_login(bench):
    """A handle from before names another key of the same kind; a reader that finds again finds the right one."""
    bench.faults(behaviour={"permute_handles": True})
    names = [bytes([at]) for at in range(1, 9)]

    def program(module):
        session = bench.start(module)
        for name in names:
            module.aes(session, id=name)
            module.pair(session, id=name)
        rounds = []
        for begin in range(3):
            if begin:
                module.Finalize(None)
                session = bench.start(module)
            rounds.append({name: module.find(session, ID=name, CLASS=4)[0] for name in names})
            for name, handle in rounds[-1].items():
                assert module.value(session, handle, cryptoki.ID) == name
        stale = {name: module.value(session, handle, cryptoki.ID) for name, handle in rounds[-2].items()}
        module.Logout(session)
        assert module.login(session, bench.instance.pin) == "OK"
        rounds.append({name: module.find(session, ID=name, CLASS=4)[0] for name in names})
        sealed = module.encrypt(session, rounds[-2][names[0]], TEXT)
        opened = {name: module.decrypt(session, handle, sealed) for name, handle in rounds[-1].items()}
        return rounds, stale, [name for name, text in opened.items() if text == TEXT]
    rounds, stale, opened = bench.run(program)
    for before, after in zip(rounds, rounds[1:]):
        assert set(before.values()) == set(after.values())
        assert all(before[name] != after[name] for name in names)
    assert all(found in names and found != name for name, found in stale.items())
    assert len(opened) == 1 and opened != [names[0]]

    def later(module):
        session = bench.start(module)
        return {name: module.find(session, ID=name, CLASS=4)[0] for name in names}
    # Over processes too.
    after = bench.run(later)
    assert set(after.values()) == set(rounds[-1].values()) and all(after[name] != rounds[-1][name] for name in names)


def test_handles_of_what_is_gone_are_given_again(bench):
    bench.faults(behaviour={"permute_handles": True})

    def program(module):
        session = bench.start(module)
        first, second = module.aes(session, id=b"\1"), module.aes(session, id=b"\2")
        assert module.DestroyObject(session, first) == "OK"
        gone = module.value(session, first, cryptoki.ID)
        third = module.aes(session, id=b"\3")
        return first, second, third, gone, module.value(session, first, cryptoki.ID)
    first, second, third, gone, named = bench.run(program)
    assert third == first != second and gone == "OBJECT_HANDLE_INVALID" and named == b"\3"


def test_session_numbers_are_used_again(bench):
    bench.faults(behaviour={"lowest_session_numbers": True})

    def program(module):
        first = bench.start(module)
        slot = module.labelled(bench.instance.label)
        second = module.open(slot)
        third = module.open(slot)
        assert module.CloseSession(second) == "OK"
        again = module.open(slot)
        module.Finalize(None)
        return first, second, third, again, bench.start(module)
    assert bench.run(program) == (1, 2, 3, 2, 1)


def test_sessions_are_capped(bench):
    bench.faults(behaviour={"max_sessions": 3, "read_only_sessions": "CKR_SESSION_READ_ONLY"})

    def program(module):
        bench.start(module)
        slot = module.labelled(bench.instance.label)
        opened = [module.open(slot) for _ in range(3)]
        module.CloseSession(opened[0])
        return [module.open(slot, SERIAL)] + opened[2:] + [module.open(slot), module.open(slot)]
    refused, third, fourth, fifth = bench.run(program)
    assert (refused, third, fifth) == ("SESSION_READ_ONLY", "SESSION_COUNT", "SESSION_COUNT") and isinstance(fourth, int)


@pytest.mark.parametrize("everything", [False, True])
def test_an_idle_session_ends(bench, everything):
    bench.faults(behaviour={"idle_session_ms": 400, "idle_ends_everything": everything})

    def program(module):
        place = (c_ubyte * 8)()
        keeper = bench.start(module)
        idle = module.open(module.labelled(bench.instance.label))
        for _ in range(8):
            time.sleep(0.1)
            assert module.GenerateRandom(keeper, place, 8) == "OK"
        answers = [module.GenerateRandom(idle, place, 8), module.GenerateRandom(keeper, place, 8),
                   type(module.open(module.labelled(bench.instance.label))).__name__]
        module.Finalize(None)
        return answers, module.GenerateRandom(bench.start(module), place, 8)
    assert bench.run(program) == ((["DEVICE_ERROR", "DEVICE_ERROR", "str"] if everything
                                   else ["SESSION_HANDLE_INVALID", "OK", "int"]), "OK")


def test_ids_labels_and_attributes(bench):
    bench.faults(behaviour={"id_bytes": 2, "label_bytes": 5, "duplicate_ids": "CKR_ATTRIBUTE_VALUE_INVALID", "refuse": [
        {"functions": ["C_GenerateKeyPair"], "attributes": ["CKA_PRIVATE"], "value": False, "of": ["public"],
         "return": "CKR_TEMPLATE_INCONSISTENT"}]})

    def program(module):
        session = bench.start(module)
        made = [module.aes(session, id=b"\1\2"), module.aes(session, id=b"\1\2\3"), module.aes(session, id=b"\3", label=b"longer"),
                module.aes(session, id=b"\1\2"), module.pair(session, id=b"\1\2"), module.pair(session, id=b"\1\2"),
                module.pair(session, id=b"\5", private=False)]
        return [one if isinstance(one, str) else "made" for one in made]
    assert bench.run(program) == ["made", "ATTRIBUTE_VALUE_INVALID", "ATTRIBUTE_VALUE_INVALID", "ATTRIBUTE_VALUE_INVALID", "made",
                                  "ATTRIBUTE_VALUE_INVALID", "TEMPLATE_INCONSISTENT"]


def test_the_token_is_full(bench):
    bench.faults(behaviour={"max_objects": 2})

    def program(module):
        session = bench.start(module)
        made = [module.aes(session, id=bytes([at])) for at in range(2)]
        refused = [module.aes(session, id=b"\7"), module.pair(session, id=b"\7"), type(module.aes(session, TOKEN=False)).__name__]
        module.DestroyObject(session, made[0])
        return refused, type(module.aes(session, id=b"\7")).__name__
    assert bench.run(program) == (["DEVICE_MEMORY", "DEVICE_MEMORY", "int"], "int")


def test_mechanisms(bench):
    bench.faults(behaviour={"hide_mechanisms": ["CKM_AES_GCM"], "oaep_hashes": ["CKM_SHA256"], "no_rsa_pkcs_encryption": True})

    def program(module):
        session = bench.start(module)
        slot, count = module.labelled(bench.instance.label), c_ulong()
        module.GetMechanismList(slot, None, byref(count))
        listed = (c_ulong * count.value)()
        module.GetMechanismList(slot, listed, byref(count))
        public, _ = module.pair(session, mechanism=cryptoki.RSA_KEY_PAIR_GEN)
        sha1 = Oaep(0x220, 1, 1, None, 0)
        oaep = Mechanism(cryptoki.RSA_OAEP, ctypes.cast(byref(sha1), ctypes.c_void_p), ctypes.sizeof(sha1))
        return (cryptoki.AES_GCM in list(listed), module.encrypt(session, module.aes(session), TEXT),
                module.EncryptInit(session, byref(Mechanism(cryptoki.RSA_PKCS, None, 0)), public), module.EncryptInit(session, byref(oaep), public))
    assert bench.run(program) == (False, "MECHANISM_INVALID", "MECHANISM_INVALID", "MECHANISM_PARAM_INVALID")


def test_gcm_has_a_limit(bench):
    bench.faults(behaviour={"gcm_max_bytes": 64})

    def program(module):
        session = bench.start(module)
        key = module.aes(session)
        # The session is of use after each.
        return [module.encrypt(session, key, bytes(65)), module.decrypt(session, key, bytes(65)),
                module.decrypt(session, key, module.encrypt(session, key, bytes(48)))]
    assert bench.run(program) == ["DATA_LEN_RANGE", "ENCRYPTED_DATA_LEN_RANGE", bytes(48)]


def test_wrong_pins_lock_the_token_over_processes(bench):
    faults = bench.faults(behaviour={"pin_tries": 3})

    def try_pin(pin):
        def program(module):
            module.initialize()
            slot = module.labelled(bench.instance.label)
            answer = module.login(module.open(slot), pin)
            return answer, module.token(slot)[1] & (COUNT_LOW | FINAL_TRY | LOCKED)
        return bench.run(program)
    right = bench.instance.pin
    assert try_pin("wrong") == ("PIN_INCORRECT", COUNT_LOW)
    assert try_pin("wrong") == ("PIN_INCORRECT", COUNT_LOW | FINAL_TRY)
    assert try_pin(right) == ("OK", 0)
    for _ in range(3):
        last = try_pin("wrong")
    assert last == ("PIN_INCORRECT", LOCKED)
    assert try_pin(right) == ("PIN_LOCKED", LOCKED)
    assert faults.count("C_Login") == 7 and faults.calls("C_Login")[-1].by == "pin_tries"


def test_an_expired_pin_is_changed(bench):
    bench.faults(behaviour={"pin_expired": True})

    def program(module):
        module.initialize()
        slot = module.labelled(bench.instance.label)
        session, old, new = module.open(slot), bench.instance.pin, "another-pin"
        before = module.login(session, old), module.token(slot)[1] & TO_BE_CHANGED
        assert module.SetPIN(session, old.encode(), len(old), new.encode(), len(new)) == "OK"
        return before, module.login(session, new), module.token(slot)[1] & TO_BE_CHANGED
    assert bench.run(program) == (("PIN_EXPIRED", TO_BE_CHANGED), "OK", 0)


def test_a_library_that_looks_only_once(bench):
    bench.faults(behaviour={"objects_frozen": True, "slots_frozen": True, "second_initialize_ok": True, "accelerator_slot": True})

    def program(module):
        session = bench.start(module)
        module.aes(session, id=b"\1")
        slots = module.slots()
        for elsewhere in (["pkcs11-tool", "--module", MODULE, "--token-label", bench.instance.label, "--login", "--pin", bench.instance.pin,
                           "--keygen", "--key-type", "AES:32", "--id", "07"],
                          ["softhsm2-util", "--init-token", "--free", "--label", "later", "--pin", "1234", "--so-pin", "9876543210"]):
            subprocess.run(elsewhere, env=clean_env(SOFTHSM2_CONF=str(bench.instance.softhsm_conf)), check=True, capture_output=True,
                           timeout=COMMAND)
        early = module.find(session, ID=b"\7"), len(module.find(session, ID=b"\1")), module.slots() == slots
        second = module.initialize()
        accelerator = module.open(slots[0])
        refused = module.token(slots[0])[0], module.login(accelerator, bench.instance.pin)
        module.Finalize(None)
        session = bench.start(module)
        return early, second, refused, len(module.find(session, ID=b"\7")), len(module.slots()) - len(slots)
    early, second, refused, found, more = bench.run(program)
    assert early == ([], 1, True) and second == "OK" and refused == ("accelerator", "USER_TYPE_INVALID")
    assert (found, more) == (1, 1)


@pytest.mark.parametrize("profile, expected", [
    ("cloudhsm", {"read only": "SESSION_READ_ONLY", "twice": "ATTRIBUTE_VALUE_INVALID", "public": "ATTRIBUTE_VALUE_INVALID",
                  "given IV": "MECHANISM_PARAM_INVALID"}),
    ("luna", {"given IV": "MECHANISM_PARAM_INVALID", "RSA PKCS": "MECHANISM_INVALID"}),
    ("nshield", {"given IV": "MECHANISM_PARAM_INVALID", "weak": "TEMPLATE_INCONSISTENT"}),
    ("yubihsm", {"long id": "ATTRIBUTE_VALUE_INVALID", "given IV": "MECHANISM_INVALID", "17 sessions": "SESSION_COUNT"})])
def test_profiles(bench, profile, expected):
    bench.faults(profile=profile)

    def program(module):
        session = bench.start(module)
        slot = module.labelled(bench.instance.label)
        key = module.aes(session, id=b"\1")
        public, _ = module.pair(session, id=b"\2", mechanism=cryptoki.RSA_KEY_PAIR_GEN)
        return {
            "read only": module.open(slot, SERIAL), "twice": module.aes(session, id=b"\1"), "public": module.pair(session, id=b"\4", private=False),
            "given IV": module.encrypt(session, key, TEXT), "RSA PKCS": module.EncryptInit(session, byref(Mechanism(cryptoki.RSA_PKCS, None, 0)), public),
            "weak": module.aes(session, id=b"\5", SENSITIVE=False), "long id": module.aes(session, id=bytes(16)),
            "17 sessions": [module.open(slot, RW | SERIAL) for _ in range(17)][-1]}
    answers = bench.run(program)
    assert {name: answer for name, answer in answers.items() if isinstance(answer, str) and answer != "OK"} == expected


def test_pkcs11_tool_works_through_it(bench):
    faults = bench.faults(behaviour={"permute_handles": True, "lowest_session_numbers": True, "slots_frozen": True})

    def tool(*arguments):
        done = subprocess.run(["pkcs11-tool", "--module", str(LIBRARY), "--token-label", bench.instance.label, "--login", "--pin",
                               bench.instance.pin, *arguments], env=clean_env(**faults.environment), capture_output=True, text=True, timeout=COMMAND)
        assert done.returncode == 0, done.stderr
        return done.stdout
    tool("--keypairgen", "--key-type", "EC:prime256v1", "--id", "01", "--label", "pair", "--usage-sign")
    tool("--keygen", "--key-type", "AES:32", "--id", "02", "--label", "secret")
    listed = tool("--list-objects")
    assert listed.count("label:") == 3 and "secret" in listed
    tool("--test")
    with contextlib.ExitStack() as stack:
        text, signature = (stack.enter_context(open(bench.instance.root / name, "wb")) for name in ("text", "signature"))
        text.write(bytes(32))
        text.flush()
        tool("--sign", "--mechanism", "ECDSA", "--id", "01", "--input-file", text.name, "--output-file", signature.name)
    assert (bench.instance.root / "signature").stat().st_size == 64


def test_many_threads(bench):
    """Half of the calls fail, and each thread gets its own answers."""
    bench.faults(rule("C_GenerateRandom", returns="CKR_DEVICE_ERROR", every=2), behaviour={"permute_handles": True})

    def program(module):
        session = bench.start(module)
        slot, key = module.labelled(bench.instance.label), module.aes(session)
        counts, wrong = [], []

        def work(at):
            own, place, text = module.open(slot), (c_ubyte * 8)(), bytes([at]) * 40
            counts.append(sum(module.GenerateRandom(own, place, 8) == "OK" for _ in range(200)))
            wrong.extend(1 for _ in range(100) if module.decrypt(own, key, module.encrypt(own, key, text)) != text)
        threads = [threading.Thread(target=work, args=(at,)) for at in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return sum(counts), len(counts), wrong
    assert bench.run(program) == (800, 8, [])
