"""The AWS Encryption SDK over two Regions: two bridges, the data key of each message wrapped under a key of both."""

import boto3
import pytest
from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
from aws_cryptographic_material_providers.mpl.models import (
    CreateAwsKmsDiscoveryKeyringInput, CreateAwsKmsKeyringInput, CreateAwsKmsMultiKeyringInput, DiscoveryFilter)
from aws_cryptographic_material_providers.mpl.references import IClientSupplier
from aws_encryption_sdk import CommitmentPolicy, EncryptionSDKClient
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError

from page import block
from rotation import key_of, rotate
from steady import SteadyBridge

REGIONS = ("eu-central-1", "eu-west-1")
CONTEXT = {"tenant": "blue", "purpose": "test"}
MESSAGE = b"message " * 5000

# How the SDK says that no key could be reached: a keyring over several, one of one key, and the client below them.
FAILS = ("No Configured Keyring was able|Child keyring failed to encrypt|Unable to decrypt data key|KMSInternalException|"
         "Could not connect")

SDK = EncryptionSDKClient(commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)
PROVIDERS = AwsCryptographicMaterialProviders(config=MaterialProvidersConfig())


@pytest.fixture(scope="module")
def pair():
    made = [SteadyBridge(region=region) for region in REGIONS]
    yield made
    for bridge in made:
        bridge.close()


@pytest.fixture
def both_live(pair):
    """A bridge of each Region. Tests kill them; the next test gets them back."""
    for bridge in pair:
        if not bridge.alive():
            bridge.start()
    return pair


class Regions(IClientSupplier):
    """Which client speaks to which Region. `tells` makes of a refused connection an answer that the keyrings understand: they
    go on to their next key after a ClientError, and after nothing else."""

    def __init__(self, *bridges, tells=True):
        self.clients = {bridge.region: bridge.new_client() for bridge in bridges}
        for client in self.clients.values() if tells else ():
            client.meta.events.register("after-call-error.kms", unreachable)

    def get_client(self, param):
        return self.clients[param.region]


def unreachable(exception, **_):
    if isinstance(exception, BotoCoreError):
        raise ClientError({"Error": {"Code": "KMSInternalException", "Message": str(exception)}}, "kms") from exception


def over(regions, first, *others):
    """A keyring over keys of several Regions. Its first key makes the data key."""
    return PROVIDERS.create_aws_kms_multi_keyring(
        CreateAwsKmsMultiKeyringInput(generator=first, kms_key_ids=list(others), client_supplier=regions))


def of_one(bridge, key_id):
    return PROVIDERS.create_aws_kms_keyring(CreateAwsKmsKeyringInput(kms_key_id=key_id, kms_client=bridge.new_client()))


def discovery(bridge):
    return PROVIDERS.create_aws_kms_discovery_keyring(CreateAwsKmsDiscoveryKeyringInput(
        kms_client=bridge.new_client(), discovery_filter=DiscoveryFilter(partition="aws", account_ids=[bridge.account])))


def encrypt(keyring):
    ciphertext, header = SDK.encrypt(source=MESSAGE, keyring=keyring, encryption_context=CONTEXT)
    assert MESSAGE[:40] not in ciphertext
    return ciphertext, header


def opens(ciphertext, keyring):
    plaintext, header = SDK.decrypt(source=ciphertext, keyring=keyring)
    assert CONTEXT.items() <= header.encryption_context.items()
    return plaintext == MESSAGE


def test_two_regions_of_which_one_dies(both_live):
    here, there = both_live
    assert (here.region, there.region) == REGIONS
    one, two = here.key_arn(here.new_key()), there.key_arn(there.new_key())
    assert one.split(":")[3:4] + two.split(":")[3:4] == list(REGIONS)
    both = over(Regions(here, there), one, two)

    marks = here.mark(), there.mark()
    ciphertext, header = encrypt(both)
    assert {wrapped.key_provider.key_info.decode() for wrapped in header.encrypted_data_keys} == {one, two}
    # One data key, made here and wrapped there.
    assert [r["requestParameters"].get("numberOfBytes") for r in here.records("GenerateDataKey", since=marks[0])] == [32]
    assert [r["eventName"] for r in there.records("GenerateDataKey", "Encrypt", since=marks[1])] == ["Encrypt"]
    assert opens(ciphertext, both)
    # Readers may know one Region only.
    assert opens(ciphertext, of_one(here, one)) and opens(ciphertext, of_one(there, two))
    assert opens(ciphertext, discovery(here)) and opens(ciphertext, discovery(there))

    here.kill()
    mark = there.mark()
    assert opens(ciphertext, both)
    (record,) = there.records("Decrypt", since=mark)
    assert record["requestParameters"]["keyId"] == two
    assert record["requestParameters"]["encryptionContext"].items() >= CONTEXT.items()
    assert "aws-crypto-public-key" in record["requestParameters"]["encryptionContext"]
    # A reader of that Region needs nothing special, and neither does one that tries it first.
    assert opens(ciphertext, of_one(there, two)) and opens(ciphertext, discovery(there))
    assert opens(ciphertext, over(Regions(here, there, tells=False), two, one))
    # Nothing is written under one Region alone.
    for keyring in (both, over(Regions(here, there), two, one)):
        with pytest.raises(Exception, match=FAILS):
            encrypt(keyring)

    here.start()
    there.kill()
    assert opens(ciphertext, both) and opens(ciphertext, over(Regions(here, there), two, one))
    assert opens(ciphertext, of_one(here, one)) and opens(ciphertext, discovery(here))

    here.kill()
    for keyring in (both, of_one(here, one), of_one(there, two), discovery(here), discovery(there)):
        with pytest.raises(Exception, match=FAILS):
            SDK.decrypt(source=ciphertext, keyring=keyring)

    there.start()
    assert opens(ciphertext, both)


def test_a_refused_connection_ends_a_keyring_that_is_told_nothing(both_live):
    """What the SDK for Python does by itself, and why docs/clients.md has a handler in its snippet."""
    here, there = both_live
    one, two = here.key_arn(here.new_key()), there.key_arn(there.new_key())
    plain = over(Regions(here, there, tells=False), one, two)
    ciphertext, _ = encrypt(plain)
    here.kill()
    with pytest.raises(EndpointConnectionError):
        SDK.decrypt(source=ciphertext, keyring=plain)
    assert opens(ciphertext, over(Regions(here, there), one, two))


def test_a_message_under_one_key_dies_with_its_bridge(both_live):
    """So that the tests above are not green for another reason."""
    here, there = both_live
    one, two = here.key_arn(here.new_key()), there.key_arn(there.new_key())
    both = over(Regions(here, there), one, two)
    ciphertext, _ = encrypt(of_one(here, one))
    assert opens(ciphertext, both)
    here.kill()
    with pytest.raises(Exception, match=FAILS):
        SDK.decrypt(source=ciphertext, keyring=both)


def test_a_rotation(either):
    """Messages name the key by its ARN, so they are opened in both modes by readers who name that, or none."""
    first = either.new_key()
    alias = either.new_alias(first, "alias/esdk")
    writer = of_one(either, either.alias_arn(alias))
    before, header = encrypt(writer)
    (wrapped,) = header.encrypted_data_keys
    assert wrapped.key_provider.key_info.decode() == either.key_arn(first)

    second = rotate(either, alias)
    mark = either.mark()
    after, _ = encrypt(writer)
    assert opens(before, of_one(either, either.key_arn(first))) and opens(before, discovery(either))
    assert opens(after, of_one(either, either.key_arn(second)))
    assert [key_of(r) for r in either.records("GenerateDataKey", "Decrypt", since=mark)] == [second, first, first, second]
    with pytest.raises(Exception, match="Unable to decrypt data key"):
        SDK.decrypt(source=before, keyring=of_one(either, either.key_arn(second)))


def test_the_page(both_live, monkeypatch):
    """The snippet of docs/clients.md, as it stands."""
    here, there = both_live
    keys = [bridge.key_arn(bridge.new_key()) for bridge in (here, there)]
    # The page's operator has one access key for both.
    by_endpoint = {bridge.endpoint: bridge for bridge in (here, there)}
    stock = boto3.client

    def client(service, **options):
        bridge = by_endpoint[options["endpoint_url"]]
        return stock(service, aws_access_key_id=bridge.access_key, aws_secret_access_key=bridge.secret_key, **options)

    monkeypatch.setattr(boto3, "client", client)
    text = block("python encryption-sdk", **{
        "https://kms.eu-central-1.example.com": here.endpoint, "https://kms.eu-west-1.example.com": there.endpoint,
        "arn:aws:kms:eu-central-1:111122223333:key/0d4f4a39-0f2b-4c0f-8a44-0c4d6a1b2c3d": keys[0],
        "arn:aws:kms:eu-west-1:111122223333:key/7e1b8a52-93c4-4d6e-a5f0-1b2c3d4e5f60": keys[1]})
    names = {}
    exec(compile(text, "docs/clients.md", "exec"), names)
    assert names["plaintext"] == b"hello"
    here.kill()
    plaintext, _ = names["sdk"].decrypt(source=names["ciphertext"], keyring=names["keyring"])
    assert plaintext == b"hello"
