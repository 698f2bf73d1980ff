//! `hsm-bridge audit report` and HsmBridge.AuditReport: the newest state where one is needed, the pass over the log on a thread
//! of its own, the signature, the files.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::Office;
use crate::app::{audit_directory, now_ms, state_snapshots};
use crate::audit::{self, KeyUse};
use crate::ops::{AuditAnswer, Context, OpError, ReportRequest};
use crate::report::{self, Format, Name, Query, ReportError, folder};

const DAY_MS: i64 = 86_400_000;
/// Of reports on what is not used any more.
const UNUSED_DAYS: i64 = 90;

pub(super) async fn answer(office: &Office, request: &ReportRequest, ctx: &Context) -> Result<AuditAnswer, OpError> {
    let services = office.services()?;
    let (query, formats) = query(office, request, ctx)?;
    let _one_at_a_time = office.reporting.lock().await;
    if query.report.needs_state() && query.as_of >= ctx.now {
        state_snapshots::make(&services, &office.config).await.map_err(internal)?;
    }
    let query = Query { as_of: query.as_of.min(now_ms()), ..query };
    let dir = audit_directory(&office.config);
    let durable = services.journal.durable();
    let asked = query.clone();
    let made = {
        let dir = dir.clone();
        tokio::task::spawn_blocking(move || report::run(&dir, &asked, durable)).await.map_err(internal)?
    };
    let made = made.map_err(|error| match error {
        ReportError::Refused(why) => OpError::Validation(why),
        ReportError::Io(error) => internal(error),
    })?;
    let mut files = folder::files(&made, &formats);
    let region = services.ops.locality().region.as_str();
    let text = folder::text_to_sign(&files).into_bytes();
    let signed = services.signer.sign(KeyUse::Digest, text).await.map_err(internal)?;
    files.push(folder::result_sign(&files, region, ctx.now, &signed));
    let out = match &request.out {
        Some(out) => out.clone(),
        None => dir.join(object_folder(office, &made.header.report_id, ctx.now)),
    };
    let written = {
        let (out, files) = (out.clone(), files.clone());
        tokio::task::spawn_blocking(move || write(&out, &files)).await.map_err(internal)?
    };
    written.map_err(|error| OpError::Validation(format!("writing the report to `{}`: {error}", out.display())))?;
    let header = &made.header;
    let listed: Vec<_> = files.iter().map(|file| json!({ "name": file.name, "sha256": file.sha256 })).collect();
    Ok(AuditAnswer::Made(json!({
        "reportId": header.report_id,
        "report": header.name,
        "number": header.number,
        "parameters": header.parameters,
        "asOf": header.as_of,
        "firstSeq": header.source.first_seq,
        "lastSeq": header.source.last_seq,
        "rows": header.rows,
        "verdict": header.verdict,
        "exitCode": header.exit_code,
        "notes": header.notes,
        "out": out,
        "files": listed,
    })))
}

fn query(office: &Office, request: &ReportRequest, ctx: &Context) -> Result<(Query, Vec<Format>), OpError> {
    let wrong = |what: String| OpError::Validation(what);
    let name = Name::parse(&request.name).ok_or_else(|| {
        let known: Vec<&str> = Name::ALL.iter().map(|name| name.name()).collect();
        wrong(format!("`{}` is no report: one of {} is wanted", request.name, known.join(", ")))
    })?;
    let mut formats = Vec::new();
    for text in &request.formats {
        let format = Format::parse(text)
            .ok_or_else(|| wrong(format!("`{text}` is no format of reports: html, csv, json or jsonl is wanted")))?;
        if !formats.contains(&format) {
            formats.push(format);
        }
    }
    if formats.is_empty() {
        formats = vec![Format::Html, Format::Csv];
    }
    let to = request.to.unwrap_or(ctx.now);
    let from = request.from.unwrap_or(to.saturating_sub(if name.is_of_changes() { 30 * DAY_MS } else { 365 * DAY_MS }));
    if from > to {
        return Err(wrong("the period ends before it begins".to_owned()));
    }
    let audit = &office.config.audit;
    let here = &office.config.server.locality;
    let query = Query {
        report: name,
        from,
        to,
        as_of: request.as_of.unwrap_or(to),
        key: request.key.clone(),
        principal: request.principal.clone(),
        rotation_days: i64::from(office.config.rotation.max_age_days),
        unused_days: UNUSED_DAYS,
        now: ctx.now,
        generated_by: ctx.principal.to_string(),
        trail: Some(format!("arn:aws:cloudtrail:{}:{}:trail/{}", here.region, here.account, audit.trail)),
    };
    Ok((query, formats))
}

/// Where AWS puts results of queries.
fn object_folder(office: &Office, id: &str, now: i64) -> PathBuf {
    let mut folder = PathBuf::from("bucket");
    if let Some(prefix) = &office.config.audit.key_prefix {
        folder.push(prefix);
    }
    let account = &office.config.server.locality.account;
    let day: String = report::date(now).chars().take(10).collect();
    folder.push(format!("AWSLogs/{account}/CloudTrail-Lake/Query/{}/{id}", day.replace('-', "/")));
    folder
}

/// The signature last: what is there without it is unfinished.
fn write(out: &Path, files: &[folder::File]) -> std::io::Result<()> {
    for file in files {
        audit::place(out, &file.name, &file.bytes)?;
    }
    Ok(())
}

fn internal(error: impl std::fmt::Display) -> OpError {
    OpError::Internal(format!("the report: {error}"))
}
