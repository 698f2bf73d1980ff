//! Where `token pin` finds PINs: the configured source, or a file that the operator names.

use std::path::Path;

use crate::config::PinSource;
use crate::ops::ReadPin;
use crate::secret::SecretString;

/// The default token's source.
pub(super) struct Configured(pub(super) PinSource);

impl ReadPin for Configured {
    fn configured(&self) -> Result<SecretString, String> {
        read(&self.0)
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
