//! `audit tail` and `audit repair`, from the files alone; what `audit export` asks of the server.

use std::path::Path;

use super::Failed;
use super::args::{ExportArguments, TailOptions};
use crate::app::AppError;
use crate::audit;
use crate::audit::repair::Repaired;
use crate::audit::tail::{Filter, Format, Options};
use crate::ops::ExportRequest;

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

pub fn repair(dir: &Path) -> Result<u8, Failed> {
    let repaired = audit::repair::repair(dir).map_err(AppError::from)?;
    match repaired {
        Repaired::Nothing => println!("nothing to repair: the log ends with a complete record"),
        Repaired::Cut { bytes, kept_in, segment } => {
            println!("cut        {bytes} bytes of an unfinished write\nkept in    {kept_in}\nrecorded   {segment}");
        }
        Repaired::Refused(report) => {
            print!("{report}");
            eprintln!("error: not repaired: only what an unfinished write left at the end can be cut");
            return Ok(report.verdict.exit_code());
        }
    }
    Ok(0)
}

pub fn export(options: ExportArguments) -> Result<ExportRequest, Failed> {
    Ok(ExportRequest {
        from: options.from,
        to: options.to,
        formats: options.formats,
        key: options.key,
        principal: options.principal,
        event: options.event,
        errors_only: options.errors,
        ocsf_version: options.ocsf_version,
        // The server runs somewhere else.
        out: Some(super::absolute(options.out)?),
    })
}
