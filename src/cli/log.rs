//! `audit tail`: from the files alone.

use std::path::Path;

use super::Failed;
use super::args::TailOptions;
use crate::audit::tail::{Filter, Format, Options};

pub fn tail(dir: &Path, options: &TailOptions) -> Result<u8, Failed> {
    let wanted = Options {
        follow: options.follow,
        since_seq: options.since,
        last: options.last,
        format: if options.json { Format::Json } else { Format::Human },
        filter: Filter {
            event: options.event.clone(),
            resource: options.resource.clone(),
            caller: options.caller.clone(),
            errors_only: options.errors,
        },
        ..Options::default()
    };
    // Ends with the process: SIGINT, or a reader that went away.
    match crate::audit::tail::tail(dir, &wanted, &|| false, &mut std::io::stdout().lock()) {
        Ok(_) => Ok(0),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(0),
        Err(error) => Err(Failed::new(74, format!("reading the log in `{}`: {error}", dir.display()))),
    }
}
