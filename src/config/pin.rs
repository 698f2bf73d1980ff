//! Where the PIN comes from: a file, systemd's credentials directory, or the environment. Never the configuration itself.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{ConfigError, Problem};
use crate::secret::SecretString;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinSource {
    File(PathBuf),
    /// Name of a file in `$CREDENTIALS_DIRECTORY` (systemd's `LoadCredential=`).
    Credential(String),
    /// Name of an environment variable. The weakest: every process of the same user can read it in `/proc`.
    Environment(String),
}

/// PKCS#11 tokens take PINs far shorter than this.
const MAX_PIN_BYTES: usize = 4096;

impl PinSource {
    /// The PIN, read anew each time, without the line end that editors add.
    pub fn read(&self) -> Result<SecretString, ConfigError> {
        self.read_from(|name| std::env::var_os(name))
    }

    /// What an administrator should change about this source; empty when there is nothing.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings_from(|name| std::env::var_os(name))
    }

    fn read_from(&self, variable: impl Fn(&str) -> Option<OsString>) -> Result<SecretString, ConfigError> {
        let pin = match self {
            Self::Environment(name) => {
                let value = variable(name).ok_or_else(|| {
                    pin_problem(format!("the environment variable `{name}` of `token.pin_env` is not set"))
                })?;
                Zeroizing::new(value.into_encoded_bytes())
            }
            Self::File(_) | Self::Credential(_) => {
                let path = self.path(variable)?;
                read_file(&path)
                    .map_err(|e| pin_problem(format!("cannot read the PIN from `{}`: {e}", path.display())))?
            }
        };
        self.checked(pin)
    }

    fn warnings_from(&self, variable: impl Fn(&str) -> Option<OsString>) -> Vec<String> {
        if let Self::Environment(name) = self {
            return vec![format!(
                "the PIN comes from the environment variable `{name}`, which other processes of this user can read: \
                 `token.pin_credential` or `token.pin_file` is safer"
            )];
        }
        let Ok(path) = self.path(variable) else { return Vec::new() };
        let Ok(metadata) = std::fs::metadata(&path) else { return Vec::new() };
        let mode = metadata.permissions().mode() & 0o777;
        // systemd's own directory is closed to others, and it marks credentials 0440.
        if mode & 0o077 == 0 || matches!(self, Self::Credential(_)) {
            return Vec::new();
        }
        vec![format!(
            "the PIN file `{}` has mode {mode:04o}, others than its owner may use it: run `chmod 600`",
            path.display()
        )]
    }

    fn path(&self, variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, ConfigError> {
        match self {
            Self::File(path) => Ok(path.clone()),
            Self::Credential(name) => match variable("CREDENTIALS_DIRECTORY") {
                Some(directory) => Ok(Path::new(&directory).join(name)),
                None => Err(pin_problem(format!(
                    "`token.pin_credential` is set, but CREDENTIALS_DIRECTORY is not: start the service by a systemd unit \
                     with `LoadCredential={name}:…`, or use `token.pin_file`"
                ))),
            },
            Self::Environment(name) => Err(pin_problem(format!("the environment variable `{name}` is no file"))),
        }
    }

    fn checked(&self, mut pin: Zeroizing<Vec<u8>>) -> Result<SecretString, ConfigError> {
        if pin.ends_with(b"\n") {
            pin.pop();
        }
        if pin.ends_with(b"\r") {
            pin.pop();
        }
        let refuse = |what: &str| Err(pin_problem(format!("the PIN from {self} {what}")));
        if pin.is_empty() {
            return refuse("is empty");
        }
        if pin.iter().any(|byte| matches!(byte, 0 | b'\n' | b'\r')) {
            return refuse("has more than one line, or a zero byte");
        }
        if pin.len() > MAX_PIN_BYTES {
            return refuse("is longer than 4096 bytes");
        }
        if std::str::from_utf8(&pin).is_err() {
            return refuse("is not UTF-8 text");
        }
        // The buffer itself moves into the secret: no copy stays behind.
        let text =
            String::from_utf8(std::mem::take(&mut *pin)).map_err(|_| pin_problem("the PIN is not UTF-8".into()))?;
        Ok(SecretString::new(text))
    }
}

impl std::fmt::Display for PinSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "file `{}`", path.display()),
            Self::Credential(name) => write!(f, "credential `{name}`"),
            Self::Environment(name) => write!(f, "environment variable `{name}`"),
        }
    }
}

/// Where marks of rejected PINs are by default: one place for all instances of the service's user on this host.
pub(super) fn default_marks() -> PathBuf {
    default_marks_from(|name| std::env::var_os(name), Path::is_dir)
}

/// RULE XDG Base Directory Specification: a path in `XDG_STATE_HOME` that is not absolute is to be ignored. A service's user often
/// has a home that does not exist, or `/`.
fn default_marks_from(variable: impl Fn(&str) -> Option<OsString>, exists: impl Fn(&Path) -> bool) -> PathBuf {
    let directory = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    directory("XDG_STATE_HOME")
        .or_else(|| {
            let home = directory("HOME").filter(|home| home.parent().is_some() && exists(home));
            home.map(|home| home.join(".local/state"))
        })
        .unwrap_or_else(|| PathBuf::from("/var/lib"))
        .join("hsm-bridge/pin-marks")
}

/// One buffer of full size from the start: a growing one would leave parts of the PIN in freed memory.
fn read_file(path: &Path) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let limit = MAX_PIN_BYTES + 3;
    // `read_to_end` may probe with a small buffer on the stack when the vector is full, so there is room to spare.
    let mut buffer = Zeroizing::new(Vec::with_capacity(limit + 64));
    file.take(limit as u64).read_to_end(&mut buffer)?;
    Ok(buffer)
}

fn pin_problem(what: String) -> ConfigError {
    ConfigError::new(Problem::Pin(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(contents: &[u8], mode: u32) -> (tempfile::TempDir, PinSource) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pin");
        std::fs::write(&path, contents).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (directory, PinSource::File(path))
    }

    #[test]
    fn the_line_end_is_trimmed_and_nothing_else() {
        for (contents, pin) in [
            ("12345", "12345"),
            ("12345\n", "12345"),
            ("12345\r\n", "12345"),
            (" 12 \n", " 12 "),
            ("cu:p w\n", "cu:p w"),
        ] {
            let (_directory, source) = file(contents.as_bytes(), 0o600);
            assert_eq!(source.read().unwrap().expose(), pin);
        }
    }

    #[test]
    fn bad_contents_are_refused_and_not_shown() {
        for contents in [&b""[..], b"\n", b"canary\n\n", b"canary\nx", b"canary\0", b"canary\xff", &[b'9'; 5000]] {
            let (_directory, source) = file(contents, 0o600);
            let shown = source.read().unwrap_err().to_string();
            assert!(!shown.contains("canary") && !shown.contains("999"), "{shown}");
        }
        assert!(PinSource::File("/".into()).read().is_err());
        assert!(PinSource::File("/does/not/exist".into()).read().unwrap_err().to_string().contains("/does/not/exist"));
    }

    #[test]
    fn a_readable_file_is_warned_about() {
        for (mode, count) in [(0o600, 0), (0o400, 0), (0o640, 1), (0o604, 1), (0o660, 1)] {
            let (_directory, source) = file(b"12345", mode);
            assert_eq!(source.warnings().len(), count, "{mode:o}");
        }
        assert_eq!(PinSource::Environment("PIN".into()).warnings().len(), 1);
    }

    #[test]
    fn where_marks_are_by_default() {
        for (state, home, expected) in [
            (Some("/x"), Some("/home/b"), "/x/hsm-bridge/pin-marks"),
            (None, Some("/home/b"), "/home/b/.local/state/hsm-bridge/pin-marks"),
            (Some("x"), Some("/home/b"), "/home/b/.local/state/hsm-bridge/pin-marks"),
            (Some(""), Some("/nonexistent"), "/var/lib/hsm-bridge/pin-marks"),
            (None, Some("/"), "/var/lib/hsm-bridge/pin-marks"),
            (None, Some(""), "/var/lib/hsm-bridge/pin-marks"),
            (None, None, "/var/lib/hsm-bridge/pin-marks"),
        ] {
            let variable = |name: &str| match name {
                "XDG_STATE_HOME" => state.map(OsString::from),
                _ => home.map(OsString::from),
            };
            let found = default_marks_from(variable, |path| path != Path::new("/nonexistent"));
            assert_eq!(found, Path::new(expected), "{state:?} {home:?}");
        }
    }

    #[test]
    fn credentials_and_environment() {
        let (directory, _) = file(b"12345\n", 0o440);
        let at = directory.path().as_os_str().to_owned();
        let credential = PinSource::Credential("pin".into());
        let lookup = |name: &str| (name == "CREDENTIALS_DIRECTORY").then(|| at.clone());
        assert_eq!(credential.read_from(lookup).unwrap().expose(), "12345");
        assert!(credential.warnings_from(lookup).is_empty());
        let shown = credential.read_from(|_| None).unwrap_err().to_string();
        assert!(shown.contains("LoadCredential=pin"), "{shown}");

        let environment = PinSource::Environment("BRIDGE_PIN".into());
        let lookup = |name: &str| (name == "BRIDGE_PIN").then(|| OsString::from("6789"));
        assert_eq!(environment.read_from(lookup).unwrap().expose(), "6789");
        assert!(environment.read_from(|_| None).unwrap_err().to_string().contains("BRIDGE_PIN"));
    }
}
