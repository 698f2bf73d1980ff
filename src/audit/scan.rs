//! Counts over the whole log. Used after a store was restored: uses that the restored store does not know are still here.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use super::files;
use super::verify::line::Line;
use super::verify::lines::{Lines, Next};

/// How often each resource was used with success by one of the operations `names`: records of type `AwsApiCall` without
/// `errorCode`. A ReEncrypt counts for its destination, the last of its resources. `dir` is the trail's directory.
/// Streams; lines that do not parse are passed over, for `audit verify` to find.
pub fn successes(dir: &Path, names: &[&str]) -> io::Result<HashMap<String, u64>> {
    let journal = dir.join("journal");
    let mut counts = HashMap::new();
    for name in files::segments(&journal, false)? {
        let mut lines = Lines::new(BufReader::with_capacity(128 * 1024, File::open(journal.join(name))?));
        while let Next::Line(bytes) = lines.next()? {
            let Ok(line) = Line::parse(bytes) else {
                continue;
            };
            if line.event_type != "AwsApiCall" || line.error_code.is_some() {
                continue;
            }
            if names.contains(&&*line.event_name)
                && let Some(resource) = line.resources.into_iter().next_back()
            {
                *counts.entry(resource.arn).or_insert(0) += 1;
            }
        }
    }
    Ok(counts)
}
