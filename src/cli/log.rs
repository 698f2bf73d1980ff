//! `audit tail` and `audit verify`, from the files alone; what `audit export` asks of the server.

use std::io::Write;
use std::path::Path;

use super::Failed;
use super::args::{ExportArguments, TailOptions};
use crate::audit::tail::{Filter, Format, Options};
use crate::audit::verify::{self, Progress};
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

pub fn verify(dir: &Path, trail: Option<String>, json: bool) -> Result<u8, Failed> {
    let options = verify::Options { trail_arn: trail };
    let mut shown = 0;
    let mut progress = |now: Progress| {
        // A line for every tenth of a large log.
        let tenth = (now.bytes * 10).checked_div(now.total).unwrap_or(10);
        if now.total > 256 << 20 && tenth > shown {
            shown = tenth;
            eprintln!("{} % of {} MiB", tenth * 10, now.total >> 20);
        }
    };
    let report = verify::directory(dir, &options, &mut progress);
    let text = if json {
        serde_json::to_string(&report).map_err(|e| Failed::new(74, e.to_string()))? + "\n"
    } else {
        report.to_string()
    };
    // The verdict counts, whether or not the reader wants the whole text.
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failed::new(74, error.to_string())),
        _ => Ok(report.verdict.exit_code()),
    }
}
