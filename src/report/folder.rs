//! The files of one report, with a manifest of them and a signature that `aws cloudtrail verify-query-results
//! --local-export-path` and OpenSSL check. Source: audit.md §2.9, §7.8.

use aws_lc_rs::digest;
use serde_json::{Value, json};

use super::Made;
use super::render::{Format, written};
use crate::audit::Signed;
use crate::audit::export::result_sign::{self, Listed};

pub const MANIFEST: &str = "manifest.json";

/// One file of the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub name: String,
    pub bytes: Vec<u8>,
    pub sha256: String,
}

impl File {
    fn new(name: String, bytes: Vec<u8>) -> File {
        let sha256 = hex::encode(digest::digest(&digest::SHA256, &bytes));
        File { name, bytes, sha256 }
    }

    fn listed(&self) -> Listed<'_> {
        Listed { name: &self.name, sha256: &self.sha256 }
    }
}

/// The report in each format, and the manifest last.
pub fn files(made: &Made, formats: &[Format]) -> Vec<File> {
    let name = |format: &Format| format!("{}.{}", made.header.name, format.name());
    let mut files: Vec<File> = formats.iter().map(|format| File::new(name(format), written(made, *format))).collect();
    let listed: Vec<Value> = files
        .iter()
        .map(|file| json!({ "name": file.name, "bytes": file.bytes.len(), "sha256": file.sha256 }))
        .collect();
    let manifest = json!({
        "version": 1,
        "report": made.header,
        "columns": made.table.columns,
        "csv": "RFC 4180, UTF-8. A cell that begins with = + - @, a tab or a line end has an apostrophe in front.",
        "files": listed,
    });
    let mut bytes = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
    bytes.push(b'\n');
    files.push(File::new(MANIFEST.to_owned(), bytes));
    files
}

/// What the trail's digest key signs.
pub fn text_to_sign(files: &[File]) -> String {
    result_sign::text_to_sign(files.iter().map(File::listed))
}

/// `result_sign.json`. `now`: milliseconds since the epoch.
pub fn result_sign(files: &[File], region: &str, now: i64, signed: &Signed) -> File {
    let bytes = result_sign::bytes(files.iter().map(File::listed), region, now.div_euclid(1000), signed);
    File::new(result_sign::NAME.to_owned(), bytes)
}
