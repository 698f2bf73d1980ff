//! `[[audit_sink]]`: where copies of the log go. Source: audit.md §7.7.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::document::{Document, Section};
use super::{Problem, path, size, small};

/// One sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSink {
    /// Unique; names the cursor's file and the sink in the metrics.
    pub name: String,
    pub target: SinkTarget,
    /// Records of what is about to be done go too.
    pub intents: bool,
    /// A new sink begins with the oldest record, not with the next one.
    pub from_oldest: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkTarget {
    Syslog {
        host: String,
        port: u16,
        /// `None`: plain TCP.
        trust: Option<SinkTrust>,
        max_message_bytes: usize,
        enterprise_number: u32,
    },
    Webhook {
        url: String,
        trust: SinkTrust,
        /// One JSON array instead of lines.
        array: bool,
        secret_file: PathBuf,
        batch_records: usize,
        batch_bytes: usize,
    },
    Otlp {
        url: String,
        trust: SinkTrust,
        authorization_file: Option<PathBuf>,
        batch_records: usize,
        batch_bytes: usize,
    },
}

/// PEM files; read at each connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SinkTrust {
    /// `None`: the system's.
    pub ca: Option<PathBuf>,
    /// Certificates and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

const KINDS: &[(&str, &[&str])] = &[
    ("syslog", &["address", "tls", "max_message_bytes", "enterprise_number"]),
    ("webhook", &["url", "format", "secret_file", "batch_records", "batch_bytes"]),
    ("otlp", &["url", "authorization_file", "batch_records", "batch_bytes"]),
];

pub(super) fn audit_sinks(document: &Document, base_dir: &Path) -> Result<Vec<AuditSink>, Problem> {
    let mut names = BTreeSet::new();
    let mut sinks = Vec::new();
    for section in document.sections("audit_sink") {
        let sink = sink(&section, base_dir)?;
        if !names.insert(sink.name.clone()) {
            return Err(section.problem("name", format_args!("is `{}`: another sink has the same", sink.name)));
        }
        sinks.push(sink);
    }
    Ok(sinks)
}

fn sink(section: &Section<'_>, base_dir: &Path) -> Result<AuditSink, Problem> {
    let name = section.required_text("name")?;
    if name.len() > 64 || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return Err(section.problem("name", "is not a name of at most 64 lower-case letters, digits and `-`"));
    }
    let kind = section.required_text("kind")?;
    let Some((_, own)) = KINDS.iter().find(|(known, _)| *known == kind) else {
        return Err(section.problem("kind", format_args!("is `{kind}`: write `syslog`, `webhook` or `otlp`")));
    };
    for key in KINDS.iter().flat_map(|(_, keys)| keys.iter()) {
        if section.has(key) && !own.contains(key) {
            return Err(section.problem(key, format_args!("is nothing for a sink of kind `{kind}`")));
        }
    }
    let target = match kind {
        "syslog" => syslog(section, base_dir)?,
        "webhook" => SinkTarget::Webhook {
            url: url(section)?,
            trust: trust(section, base_dir)?,
            array: match section.text("format")?.unwrap_or("jsonl") {
                "jsonl" => false,
                "json" => true,
                other => {
                    return Err(section.problem("format", format_args!("is `{other}`: write `jsonl` or `json`")));
                }
            },
            secret_file: base_dir.join(section.required_text("secret_file")?),
            batch_records: size(section, "batch_records", 1..=10_000, 500)?,
            batch_bytes: size(section, "batch_bytes", 1_024..=16 << 20, 1 << 20)?,
        },
        _ => SinkTarget::Otlp {
            url: url(section)?,
            trust: trust(section, base_dir)?,
            authorization_file: path(section, "authorization_file", base_dir)?,
            batch_records: size(section, "batch_records", 1..=10_000, 500)?,
            batch_bytes: size(section, "batch_bytes", 1_024..=16 << 20, 1 << 20)?,
        },
    };
    Ok(AuditSink {
        name: name.to_owned(),
        target,
        intents: section.flag("intents", true)?,
        from_oldest: match section.text("start")?.unwrap_or("oldest") {
            "oldest" => true,
            "now" => false,
            other => return Err(section.problem("start", format_args!("is `{other}`: write `oldest` or `now`"))),
        },
    })
}

fn syslog(section: &Section<'_>, base_dir: &Path) -> Result<SinkTarget, Problem> {
    let tls = section.flag("tls", true)?;
    let trust = trust(section, base_dir)?;
    if !tls && trust != SinkTrust::default() {
        return Err(section.problem("tls", "is `false`: certificates are for TLS"));
    }
    let address = section.required_text("address")?;
    let bad = || section.problem("address", format_args!("is `{address}`: write `host` or `host:port`"));
    // RULE RFC 5425 §4.1: 6514; plain TCP has no port of its own, and 601 is RFC 3195's: it has to be written.
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(bad)?;
            (host, port.strip_prefix(':').or(port.is_empty().then_some("")).ok_or_else(bad)?)
        }
        None => address.split_once(':').unwrap_or((address, "")),
    };
    let port = match port {
        "" if tls => 6514,
        "" => return Err(section.problem("address", "has no port: plain TCP has none by default")),
        port => port.parse().ok().filter(|port| *port > 0).ok_or_else(bad)?,
    };
    if host.is_empty() || host.contains(['/', '@', ' ']) {
        return Err(bad());
    }
    Ok(SinkTarget::Syslog {
        host: host.to_owned(),
        port,
        trust: tls.then_some(trust),
        // RULE RFC 5425 §4.3.1: receivers have to take 2,048 bytes and should take 8,192.
        max_message_bytes: size(section, "max_message_bytes", 2_048..=1 << 20, 8_192)?,
        enterprise_number: small(section, "enterprise_number", 1..=u64::from(u32::MAX), 32_473)?,
    })
}

/// Plain HTTP is for a collector on this host.
fn url(section: &Section<'_>) -> Result<String, Problem> {
    let url = section.required_text("url")?;
    let bad = |why: &str| Err(section.problem("url", format_args!("is no URL that is taken: {why}")));
    let Ok(parsed) = url.parse::<http::Uri>() else { return bad("it does not parse") };
    let (Some(scheme), Some(authority)) = (parsed.scheme_str(), parsed.authority()) else {
        return bad("it names no host");
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let loopback = host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    match scheme {
        _ if authority.as_str().contains('@') => bad("it holds credentials"),
        "https" => Ok(url.to_owned()),
        "http" if loopback => Ok(url.to_owned()),
        _ => bad("write https, or http and a loopback address such as 127.0.0.1"),
    }
}

fn trust(section: &Section<'_>, base_dir: &Path) -> Result<SinkTrust, Problem> {
    let identity = match (path(section, "certificate", base_dir)?, path(section, "key", base_dir)?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => return Err(section.problem("key", "is missing: `certificate` is set")),
        (None, Some(_)) => return Err(section.problem("certificate", "is missing: `key` is set")),
    };
    Ok(SinkTrust { ca: path(section, "ca", base_dir)?, identity })
}
