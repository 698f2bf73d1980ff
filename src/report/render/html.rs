//! One report as one page: no script, nothing fetched, everything escaped.

use std::fmt::Write;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::Made;
use super::super::table::text;

/// Rows on a page; the other formats have all of them.
const SHOWN: usize = 20_000;

const STYLE: &str = "\
:root{color-scheme:light}body{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:110rem;padding:0 1.5rem;\
color:#1a1a1a;background:#fff}h1{font-size:1.5rem;margin:0 0 .3rem}h2{font-size:1.1rem;margin:1.6rem 0 .4rem}\
.verdict{padding:.8rem 1rem;border-radius:.3rem;border:1px solid;margin:1rem 0;font-weight:600}\
.good{background:#e7f6ea;border-color:#2c7a3f;color:#144d23}.bad{background:#fde8e8;border-color:#b42318;color:#7a130c}\
.verdict ul{font-weight:400;margin:.4rem 0 0}dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:0}\
dt{color:#555}dd{margin:0;overflow-wrap:anywhere}.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;\
font-size:12.5px}caption{text-align:left;padding:.3rem 0;color:#444}th,td{border:1px solid #d5d5d5;padding:.3rem .45rem;\
text-align:left;vertical-align:top;overflow-wrap:anywhere;white-space:pre-wrap;min-width:4rem;max-width:34rem}\
thead th{background:#f3f4f6;white-space:nowrap}tbody tr:nth-child(even){background:#fafafa}\
@media print{body{margin:0;max-width:none;font-size:10px}table{font-size:8px}thead{display:table-header-group}\
tr{break-inside:avoid}.wide{overflow:visible}@page{size:A4 landscape;margin:12mm}}";

pub fn page(made: &Made) -> String {
    let header = &made.header;
    let mut out = String::new();
    let title = format!("{} {}", header.number, header.title);
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{1}'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{0}</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n<main>\n<h1>{0}</h1>\n",
        escaped(&title),
        STANDARD.encode(digest::digest(&digest::SHA256, STYLE.as_bytes()))
    );
    verdict(&mut out, made);
    facts(&mut out, made);
    if !header.notes.is_empty() {
        out.push_str("<h2>Notes</h2>\n<ul>\n");
        for note in &header.notes {
            let _ = writeln!(out, "<li>{}</li>", escaped(note));
        }
        out.push_str("</ul>\n");
    }
    table(&mut out, made);
    out.push_str("</main>\n</body>\n</html>\n");
    out
}

fn verdict(out: &mut String, made: &Made) {
    let header = &made.header;
    let good = header.exit_code == 0;
    let class = if good { "good" } else { "bad" };
    let told = match good {
        true => "The log that this report was made from verifies.",
        false => "The log that this report was made from does NOT verify. Do not rely on this report.",
    };
    let _ = write!(
        out,
        "<section class=\"verdict {class}\" role=\"status\">Verification: {} (exit code {}). {told}",
        escaped(&header.verdict),
        header.exit_code
    );
    let findings = header.verification.get("findings").and_then(Value::as_array);
    if let Some(findings) = findings.filter(|findings| !findings.is_empty()) {
        out.push_str("<ul>");
        for finding in findings {
            let member = |name: &str| finding.get(name).map(text).unwrap_or_default();
            let what = format!("{}: {} line {}: {}", member("verdict"), member("file"), member("line"), member("what"));
            let _ = write!(out, "<li>{}</li>", escaped(&what));
        }
        out.push_str("</ul>");
    }
    out.push_str("</section>\n");
    let unproven = header.verification.get("notProven").and_then(Value::as_array);
    if let Some(unproven) = unproven.filter(|texts| !texts.is_empty()) {
        out.push_str("<details><summary>What the verification does not prove</summary><ul>");
        for what in unproven {
            let _ = write!(out, "<li>{}</li>", escaped(&text(what)));
        }
        out.push_str("</ul></details>\n");
    }
}

fn facts(out: &mut String, made: &Made) {
    let header = &made.header;
    let member = |name: &str| header.parameters.get(name).map(text).unwrap_or_default();
    let range = match (header.source.first_seq, header.source.last_seq) {
        (Some(first), Some(last)) => format!("{first} to {last}"),
        _ => "none".to_owned(),
    };
    let head = header.verification.get("head").map(text).unwrap_or_default();
    let mut rows = vec![
        ("Report", format!("{} ({})", header.name, header.number)),
        ("Report id", header.report_id.clone()),
        ("Period", format!("{} to {}", member("from"), member("to"))),
    ];
    if let Some(as_of) = &header.as_of {
        rows.push(("As of", as_of.clone()));
    }
    for name in ["key", "principal"] {
        if !member(name).is_empty() {
            rows.push((if name == "key" { "Key" } else { "Principal" }, member(name)));
        }
    }
    rows.push(("Trail", header.verification.get("trail").map(text).unwrap_or_default()));
    rows.push(("Records read", format!("{} (seq {range})", header.source.records_read)));
    if let Some(snapshot) = &header.source.state_snapshot {
        rows.push(("State snapshot", snapshot.clone()));
    }
    rows.push(("Head of the log", head));
    if !header.checkpoint.is_null() {
        rows.push(("Checkpoint", text(&header.checkpoint)));
    }
    rows.push(("Rows", header.rows.to_string()));
    rows.push(("Made", format!("{} by {}", header.generated_at, header.generated_by)));
    rows.push(("Made with", header.generator.clone()));
    out.push_str("<dl>\n");
    for (name, value) in rows {
        let _ = writeln!(out, "<dt>{name}</dt><dd>{}</dd>", escaped(&value));
    }
    out.push_str("</dl>\n");
}

fn table(out: &mut String, made: &Made) {
    let table = &made.table;
    let shown = table.rows.len().min(SHOWN);
    let _ = write!(
        out,
        "<h2>Rows</h2>\n<div class=\"wide\"><table>\n<caption>{}: {} of {} rows</caption>\n<thead><tr>",
        escaped(made.header.title),
        shown,
        table.rows.len()
    );
    for name in table.columns {
        let _ = write!(out, "<th scope=\"col\">{}</th>", escaped(name));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in table.rows.iter().take(SHOWN) {
        out.push_str("<tr>");
        for value in row {
            let _ = write!(out, "<td>{}</td>", escaped(&text(value)));
        }
        out.push_str("</tr>\n");
    }
    if table.rows.is_empty() {
        let _ = writeln!(out, "<tr><td colspan=\"{}\">There is nothing to report.</td></tr>", table.columns.len());
    }
    out.push_str("</tbody>\n</table></div>\n");
}

/// Also what steers a terminal or turns the direction of text is shown as a mark.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(char),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            char if char.is_control() => out.push('\u{fffd}'),
            char => out.push(char),
        }
    }
    out
}
