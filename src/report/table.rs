//! What a report says: rows under fixed columns, and the facts above them.

use serde::Serialize;
use serde_json::{Map, Value, json};

/// Rows at most; what is more is counted.
pub const MOST_ROWS: usize = 1_000_000;
/// The last column of every report: the record that a row rests on.
pub const SOURCE: &str = "_source_event_id";

#[derive(Debug, Clone)]
pub struct Table {
    pub columns: &'static [&'static str],
    pub rows: Vec<Vec<Value>>,
    /// Rows beyond the bound.
    pub left_out: u64,
}

impl Table {
    pub fn new(columns: &'static [&'static str]) -> Table {
        Table { columns, rows: Vec::new(), left_out: 0 }
    }

    /// `cells`: one for each column but the last; `source`: the eventID.
    pub fn row(&mut self, cells: Vec<Value>, source: Option<&str>) {
        if self.rows.len() >= MOST_ROWS {
            self.left_out += 1;
            return;
        }
        debug_assert_eq!(cells.len() + 1, self.columns.len());
        let mut cells = cells;
        cells.push(source.map_or(Value::Null, |id| json!(id)));
        self.rows.push(cells);
    }

    pub fn object(&self, row: &[Value]) -> Value {
        let members: Map<String, Value> =
            self.columns.iter().zip(row).map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Value::Object(members)
    }
}

/// A cell as one text: lists with semicolons, nothing for null.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join("; "),
        Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

/// What stands above the rows. RULE audit.md §5.1: what makes a list evidence of an audit.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    pub report_id: String,
    /// `R1`
    pub number: &'static str,
    pub name: &'static str,
    pub title: &'static str,
    pub parameters: Value,
    /// For reports on a state: the moment.
    pub as_of: Option<String>,
    pub generated_at: String,
    pub generated_by: String,
    pub generator: String,
    pub source: SourceRange,
    pub rows: u64,
    /// Of the newest checkpoint in the log: size, root, note.
    pub checkpoint: Value,
    pub verification: Value,
    /// `OK`, `TAMPERED` and so on: the heaviest of the log's and of the state snapshot's.
    pub verdict: String,
    pub exit_code: u8,
    /// What a reader has to know.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceRange {
    pub first_seq: Option<u64>,
    pub last_seq: Option<u64>,
    pub records_read: u64,
    pub state_snapshot: Option<String>,
}
