//! What an export or a report made.

use std::io::{self, Write};

use serde_json::Value;

pub fn made(out: &mut impl Write, made: &Value) -> io::Result<()> {
    let text = |name: &str| match made.get(name) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    writeln!(out, "export      {}", text("exportId"))?;
    writeln!(out, "records     {} ({} to {})", text("rows"), text("firstSeq"), text("lastSeq"))?;
    writeln!(out, "tree head   {} records signed, {} of the range not yet", text("checkpointSize"), text("unsigned"))?;
    writeln!(out, "bytes       {}", text("bytes"))?;
    if made.get("out").is_some() {
        writeln!(out, "folder      {}", text("out"))?;
    }
    writeln!(out, "in bucket   {}", text("prefix"))?;
    writeln!(out, "VERIFY.txt in the folder says how to check it.")
}
