//! RFC 4180, UTF-8 without a byte order mark, one row per record. docs/exports.md says what each column is.

use super::record::Record;

pub const COLUMNS: [&str; 37] = [
    "seq",
    "time",
    "event_time",
    "event_source",
    "event_name",
    "event_type",
    "read_only",
    "outcome",
    "error_code",
    "error_message",
    "principal_type",
    "principal_arn",
    "principal_id",
    "user_name",
    "access_key_id",
    "principal_account",
    "invoked_by",
    "source_ip",
    "user_agent",
    "region",
    "recipient_account",
    "resources",
    "request_id",
    "decision",
    "decision_source",
    "policy",
    "statement_id",
    "policy_version",
    "grant_id",
    "token_serial",
    "mechanism",
    "hsm_rv",
    "request_parameters",
    "response_elements",
    "additional_event_data",
    "record_hash",
    "_source_event_id",
];

pub fn header(out: &mut Vec<u8>) {
    out.extend_from_slice(COLUMNS.join(",").as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// `leaf`: the record's hash in the tree, in hex.
pub fn row(record: &Record<'_>, leaf: &str, out: &mut Vec<u8>) {
    let identity = &record.user_identity;
    let additional = &record.additional;
    let authorization = additional.authorization.as_ref();
    let hsm = additional.hsm.as_ref();
    let resources: Vec<&str> = record.resources.iter().map(|resource| resource.arn.as_str()).collect();
    let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    let text = |text: Option<&String>| text.cloned().unwrap_or_default();
    let cells: [String; COLUMNS.len()] = [
        additional.audit.seq.to_string(),
        additional.audit.time.clone(),
        record.event_time.clone(),
        record.event_source.clone(),
        record.event_name.clone(),
        record.event_type.clone(),
        record.read_only.to_string(),
        if record.error_code.is_some() { "failure" } else { "success" }.to_owned(),
        text(record.error_code.as_ref()),
        text(record.error_message.as_ref()),
        text(identity.kind.as_ref()),
        text(identity.arn.as_ref()),
        text(identity.principal_id.as_ref()),
        text(identity.user_name.as_ref()),
        text(identity.access_key_id.as_ref()),
        text(identity.account_id.as_ref()),
        text(identity.invoked_by.as_ref()),
        record.source_ip.clone(),
        text(record.user_agent.as_ref()),
        record.aws_region.clone(),
        record.recipient_account_id.clone(),
        resources.join(" "),
        text(record.request_id.as_ref()),
        text(authorization.and_then(|it| it.decision.as_ref())),
        text(authorization.and_then(|it| it.source.as_ref())),
        text(authorization.and_then(|it| it.policy.as_ref())),
        text(authorization.and_then(|it| it.statement_id.as_ref())),
        number(authorization.and_then(|it| it.policy_version)),
        text(authorization.and_then(|it| it.grant_id.as_ref())),
        text(hsm.and_then(|it| it.token_serial.as_ref())),
        text(hsm.and_then(|it| it.mechanism.as_ref())),
        text(hsm.and_then(|it| it.rv.as_ref())),
        record.request_parameters.map(|it| it.get().to_owned()).unwrap_or_default(),
        record.response_elements.map(|it| it.get().to_owned()).unwrap_or_default(),
        record.additional_event_data.get().to_owned(),
        leaf.to_owned(),
        record.event_id.clone(),
    ];
    line(cells.iter(), out, |value, out| cell(value, out));
}

/// One line of cells, each written by `write`.
pub fn line<T>(cells: impl Iterator<Item = T>, out: &mut Vec<u8>, write: impl Fn(T, &mut Vec<u8>)) {
    for (place, value) in cells.enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write(value, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// One cell, quoted where it has to be. RULE audit.md §5.3: a spreadsheet takes a cell that begins with one of these for a
/// formula, so it begins with an apostrophe instead; callers choose many of these texts.
pub fn cell(value: &str, out: &mut Vec<u8>) {
    let formula = value.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    let quoted = value.contains([',', '"', '\r', '\n']);
    if quoted {
        out.push(b'"');
    }
    if formula {
        out.push(b'\'');
    }
    for byte in value.bytes() {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    if quoted {
        out.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells() {
        for (value, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\tx", "'\tx"),
            ("\rx", "\"'\rx\""),
            ("\nx", "\"'\nx\""),
            ("=HYPERLINK(\"http://x\",\"y\")", "\"'=HYPERLINK(\"\"http://x\"\",\"\"y\"\")\""),
            ("a=b", "a=b"),
            ("", ""),
        ] {
            let mut out = Vec::new();
            cell(value, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{value:?}");
        }
    }
}
