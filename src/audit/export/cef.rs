//! ArcSight Common Event Format, version 0: one line per record. Source: audit.md §5.3.

use std::fmt::Write;

use super::record::Record;

const VENDOR: &str = "hsm-bridge";

pub fn line(record: &Record<'_>, severity: u8, out: &mut Vec<u8>) {
    let service = record.event_source.strip_suffix(".amazonaws.com").unwrap_or(&record.event_source);
    let mut text = String::from("CEF:0");
    let severity = match severity {
        0 | 1 => 1,
        2 => 3,
        3 => 6,
        4 => 8,
        _ => 10,
    };
    let class = format!("{service}:{}", record.event_name);
    for part in [VENDOR, "hsm-bridge", env!("CARGO_PKG_VERSION"), &class, &record.event_name, &severity.to_string()] {
        text.push('|');
        header(&mut text, part);
    }
    text.push('|');
    let mut first = true;
    let mut pair = |name: &str, value: &str| {
        if value.is_empty() {
            return;
        }
        if !std::mem::take(&mut first) {
            text.push(' ');
        }
        text.push_str(name);
        text.push('=');
        extension(&mut text, value);
    };
    let mut number = String::new();
    let _ = write!(number, "{}", record.written().div_euclid(1000));
    pair("rt", &number);
    // `src` is an address; names of services stand in `shost`.
    let address = record.source_ip.parse::<std::net::IpAddr>().is_ok();
    pair(if address { "src" } else { "shost" }, &record.source_ip);
    pair("suser", record.who());
    pair("suid", record.user_identity.principal_id.as_deref().unwrap_or_default());
    pair("act", &record.event_name);
    pair("outcome", if record.error_code.is_some() { "failure" } else { "success" });
    pair("reason", record.error_code.as_deref().unwrap_or_default());
    pair("msg", record.error_message.as_deref().unwrap_or_default());
    pair("requestClientApplication", record.user_agent.as_deref().unwrap_or_default());
    pair("externalId", &record.event_id);
    if let Some(resource) = record.resources.first() {
        pair("cs1Label", "keyArn");
        pair("cs1", &resource.arn);
    }
    if let Some(request) = &record.request_id {
        pair("cs2Label", "requestId");
        pair("cs2", request);
    }
    if let Some(key) = &record.user_identity.access_key_id {
        pair("cs3Label", "accessKeyId");
        pair("cs3", key);
    }
    if let Some(decision) = record.additional.authorization.as_ref().and_then(|it| it.decision.as_ref()) {
        pair("cs4Label", "decision");
        pair("cs4", decision);
    }
    pair("cn1Label", "auditSeq");
    pair("cn1", &record.additional.audit.seq.to_string());
    if let Some(count) = record.additional.count {
        pair("cnt", &count.to_string());
    }
    out.extend_from_slice(text.as_bytes());
    out.push(b'\n');
}

/// RULE CEF: `\` and `|` are escaped in the header, which is one line.
fn header(out: &mut String, value: &str) {
    for char in value.chars() {
        match char {
            '\\' | '|' => out.extend(['\\', char]),
            '\r' | '\n' => out.push(' '),
            char => out.push(char),
        }
    }
}

/// RULE CEF: `\`, `=` and line ends are escaped in an extension's value.
fn extension(out: &mut String, value: &str) {
    for char in value.chars() {
        match char {
            '\\' | '=' => out.extend(['\\', char]),
            '\r' => out.push_str("\\r"),
            '\n' => out.push_str("\\n"),
            char => out.push(char),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        let mut out = String::new();
        header(&mut out, "a|b\\c=d\ne");
        assert_eq!(out, "a\\|b\\\\c=d e");
        let mut out = String::new();
        extension(&mut out, "a|b\\c=d\r\ne");
        assert_eq!(out, "a|b\\\\c\\=d\\r\\ne");
    }
}
