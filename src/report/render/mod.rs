//! A report as files: JSON, JSON lines, CSV, and a page that a browser shows without anything else.

mod html;

use serde_json::json;

use super::Made;
use super::table::text;

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
        Format::Csv => csv(made).into_bytes(),
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
fn csv(made: &Made) -> String {
    let mut out = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = String>| {
        out.push_str(&cells.map(|cell| quoted(&cell)).collect::<Vec<_>>().join(","));
        out.push_str("\r\n");
    };
    line(&mut made.table.columns.iter().map(|name| (*name).to_owned()));
    for row in &made.table.rows {
        line(&mut row.iter().map(|value| if value.is_number() { text(value) } else { harmless(text(value)) }));
    }
    out
}

/// RULE audit.md §5.3: a text that a spreadsheet would compute gets an apostrophe in front.
fn harmless(cell: String) -> String {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{cell}") } else { cell }
}

fn quoted(cell: &str) -> String {
    if cell.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}
