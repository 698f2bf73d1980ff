"""The words of KMS as AWS documents them: which operations, specs and algorithms this version serves. Not taken from our code."""

SERVED = """
CancelKeyDeletion ConnectCustomKeyStore CreateAlias CreateCustomKeyStore CreateGrant CreateKey Decrypt DeleteAlias DeleteCustomKeyStore
DescribeCustomKeyStores DescribeKey DisableKey DisconnectCustomKeyStore EnableKey Encrypt GenerateDataKey
GenerateDataKeyWithoutPlaintext GenerateMac GenerateRandom GetKeyLastUsage GetKeyPolicy GetKeyRotationStatus GetPublicKey
ListAliases ListGrants ListKeyPolicies ListKeys ListResourceTags ListRetirableGrants PutKeyPolicy ReEncrypt RetireGrant
RevokeGrant ScheduleKeyDeletion Sign TagResource UntagResource UpdateAlias UpdateCustomKeyStore UpdateKeyDescription Verify VerifyMac
""".split()

UNSERVED = """
Decapsulate DeleteImportedKeyMaterial DeriveSharedSecret DisableKeyRotation EnableKeyRotation Encapsulate
GenerateDataKeyPair GenerateDataKeyPairWithoutPlaintext GetParametersForImport ImportKeyMaterial ListKeyRotations
ReplicateKey RotateKeyOnDemand UpdatePrimaryRegion
""".split()

KEY_STORES = {name for name in SERVED if "CustomKeyStore" in name}

# Operations whose KeyId may be an alias name or an alias ARN.
TAKES_ALIAS = """
Decrypt DescribeKey Encrypt GenerateDataKey GenerateDataKeyWithoutPlaintext GenerateMac GetPublicKey ReEncrypt Sign Verify VerifyMac
""".split()

RSA_ALGORITHMS = ["RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PKCS1_V1_5_SHA_512", "RSASSA_PSS_SHA_256",
                  "RSASSA_PSS_SHA_384", "RSASSA_PSS_SHA_512"]

SIGNING = {
    "RSA_2048": RSA_ALGORITHMS,
    "RSA_3072": RSA_ALGORITHMS,
    "RSA_4096": RSA_ALGORITHMS,
    "ECC_NIST_P256": ["ECDSA_SHA_256"],
    "ECC_NIST_P384": ["ECDSA_SHA_384"],
    "ECC_NIST_P521": ["ECDSA_SHA_512"],
    "ECC_SECG_P256K1": ["ECDSA_SHA_256"],
    # AWS lists ED25519_PH_SHA_512 too; SoftHSM cannot do the pre-hashed form, and what a token cannot do is not listed.
    "ECC_NIST_EDWARDS25519": ["ED25519_SHA_512"],
}

MACS = {"HMAC_224": ["HMAC_SHA_224"], "HMAC_256": ["HMAC_SHA_256"], "HMAC_384": ["HMAC_SHA_384"], "HMAC_512": ["HMAC_SHA_512"]}

SPECS = ["SYMMETRIC_DEFAULT", *SIGNING, *MACS]


def usage(spec):
    if spec == "SYMMETRIC_DEFAULT":
        return "ENCRYPT_DECRYPT"
    return "GENERATE_VERIFY_MAC" if spec in MACS else "SIGN_VERIFY"


def method(operation):
    """`GenerateDataKey` → `generate_data_key`, boto3's name."""
    from botocore import xform_name

    return xform_name(operation)
