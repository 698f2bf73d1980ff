//! Where `token pin` finds PINs: the configured source, or a file that the operator names.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::PinSource;
use crate::ops::ReadPin;
use crate::secret::SecretString;

/// The default token's source, and those of further tokens with the same keys that have one of their own.
pub(super) struct Configured {
    pub(super) first: PinSource,
    pub(super) members: BTreeMap<String, PinSource>,
}

impl ReadPin for Configured {
    fn configured(&self, member: Option<&str>) -> Result<SecretString, String> {
        read(member.and_then(|name| self.members.get(name)).unwrap_or(&self.first))
    }

    fn file(&self, path: &Path) -> Result<SecretString, String> {
        read(&PinSource::File(path.to_owned()))
    }
}

fn read(source: &PinSource) -> Result<SecretString, String> {
    for warning in source.warnings() {
        tracing::warn!("{warning}");
    }
    source.read().map_err(|error| error.to_string())
}
