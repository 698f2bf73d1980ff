//! The wall clock when the service last ran and trusted it: one number in `<state>/clock`, for `ClockWatch`.

use std::path::Path;

use super::AppError;

const NAME: &str = "clock";

/// `None`: a new instance. A file that is no number counts as a jump, so that nothing is destroyed because of it.
pub fn read(state_dir: &Path) -> Result<Option<i64>, AppError> {
    match std::fs::read_to_string(state_dir.join(NAME)) {
        Ok(text) => Ok(Some(text.trim().parse().unwrap_or(0))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(AppError::Io(format!("cannot read `{}`: {error}", state_dir.join(NAME).display()))),
    }
}

/// Replaced whole; losing the newest value in a power cut only makes the watch more careful.
pub fn write(state_dir: &Path, now: i64) -> std::io::Result<()> {
    let new = state_dir.join("clock.new");
    std::fs::write(&new, format!("{now}\n"))?;
    std::fs::rename(new, state_dir.join(NAME))
}
