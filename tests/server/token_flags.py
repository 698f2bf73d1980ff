"""The token's flags as pkcs11-tool shows them."""

import re
import subprocess

from bridge import clean_env
from instance import COMMAND, MODULE


def pin_flags(instance):
    done = subprocess.run(["pkcs11-tool", "--module", MODULE, "-L"], capture_output=True, text=True, timeout=COMMAND, check=True,
                          env=clean_env(SOFTHSM2_CONF=str(instance.softhsm_conf)))
    slots = done.stdout.split("\nSlot ")
    (mine,) = [slot for slot in slots if re.search(rf"token label\s*: {instance.label}\s*$", slot, re.MULTILINE)]
    return re.search(r"token flags\s*: (.*)", mine).group(1)
