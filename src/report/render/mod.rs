//! A report as files: JSON, JSON lines, CSV, and a page that a browser shows without anything else.

mod html;

use serde_json::{Value, json};

use super::Made;
use super::table::text;
use crate::audit::export::csv;

pub use html::page;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Html,
    Csv,
    Json,
    Jsonl,
}

impl Format {
    pub const ALL: &'static [Format] = &[Format::Html, Format::Csv, Format::Json, Format::Jsonl];

    pub fn name(self) -> &'static str {
        match self {
            Format::Html => "html",
            Format::Csv => "csv",
            Format::Json => "json",
            Format::Jsonl => "jsonl",
        }
    }

    pub fn parse(text: &str) -> Option<Format> {
        Format::ALL.iter().find(|format| format.name().eq_ignore_ascii_case(text)).copied()
    }
}

/// The bytes of one file.
pub fn written(made: &Made, format: Format) -> Vec<u8> {
    match format {
        Format::Html => page(made).into_bytes(),
        Format::Csv => csv(made),
        Format::Json => {
            let rows: Vec<_> = made.table.rows.iter().map(|row| made.table.object(row)).collect();
            let whole = json!({ "report": made.header, "columns": made.table.columns, "rows": rows });
            let mut bytes = serde_json::to_vec_pretty(&whole).unwrap_or_default();
            bytes.push(b'\n');
            bytes
        }
        Format::Jsonl => {
            let mut lines = String::new();
            for row in &made.table.rows {
                lines.push_str(&made.table.object(row).to_string());
                lines.push('\n');
            }
            lines.into_bytes()
        }
    }
}

/// RFC 4180, UTF-8 without a byte order mark, the header first.
fn csv(made: &Made) -> Vec<u8> {
    let mut out = Vec::new();
    csv::line(made.table.columns.iter(), &mut out, |name, out| csv::cell(name, out));
    for row in &made.table.rows {
        csv::line(row.iter(), &mut out, |value, out| match value {
            // A sign begins it, and it is a number.
            Value::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
            value => csv::cell(&text(value), out),
        });
    }
    out
}
