//! `reencrypt`: ciphertext blobs under retired keys of an alias are re-encrypted under its current key. An ordinary API client:
//! the service decides what the caller may, and the plaintext never comes here (ReEncrypt).
//!
//! It can be interrupted and run again: a blob names its key, so what is done is recognised without a call.

use std::collections::VecDeque;
use std::io::{BufRead, IsTerminal, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Failed;
use super::args::ReencryptArguments;
use crate::client::{ClientError, Environment, KmsClient};
use crate::ids::{AliasName, KeyId};
use crate::ops::ciphertext::Blob;

/// Larger files hold no blob: one is at most 6,144 bytes, its base64 a third more.
const LARGEST_FILE: u64 = 64 * 1024;

pub struct Options {
    pub alias: AliasName,
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Keys that count as retired though the alias does not say so (strict mode).
    pub from_keys: Vec<KeyId>,
    pub context: Vec<(String, String)>,
    pub dry_run: bool,
    pub parallel: usize,
    /// Files and directories; `-`: one base64 blob per line on standard input.
    pub inputs: Vec<PathBuf>,
    /// With `-`: where the lines go; what it holds already is not done again.
    pub output: Option<PathBuf>,
    pub json: bool,
}

impl From<ReencryptArguments> for Options {
    fn from(given: ReencryptArguments) -> Self {
        Self {
            alias: given.alias,
            endpoint: given.endpoint,
            region: given.region,
            from_keys: given.from_keys,
            context: given.context,
            dry_run: given.dry_run,
            parallel: usize::from(given.parallel),
            inputs: given.inputs,
            output: given.output,
            json: given.json,
        }
    }
}

/// What became of the blobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tally {
    reencrypted: u64,
    current: u64,
    /// The service says that the alias never meant the key of this blob.
    other_keys: u64,
    not_blobs: u64,
    failed: u64,
}

pub async fn run(options: Options) -> Result<u8, Failed> {
    let environment = Environment::read(options.endpoint.as_deref(), options.region.as_deref()).map_err(failed)?;
    let mut client = KmsClient::new(environment.clone());
    let alias = options.alias.as_str();
    let described = client.call("DescribeKey", &json!({ "KeyId": alias })).await.map_err(failed)?;
    let current = described.pointer("/KeyMetadata/KeyId").and_then(Value::as_str).and_then(|id| id.parse().ok());
    let current: KeyId =
        current.ok_or_else(|| Failed::new(76, format!("the answer about `{alias}` names no key id")))?;
    let plan = Arc::new(Plan { current, options });
    let tally = if plan.options.inputs.iter().any(|input| input.as_os_str() == "-") {
        if plan.options.inputs.len() > 1 {
            return Err(Failed::new(super::USAGE, "`-` stands alone: files and directories need a run of their own"));
        }
        stream(&plan, client).await?
    } else {
        files(&plan, &environment).await?
    };
    report(&plan.options, &tally);
    Ok(u8::from(tally.failed > 0))
}

struct Plan {
    current: KeyId,
    options: Options,
}

enum Outcome {
    /// The new blob; nothing in a dry run.
    Reencrypted(Vec<u8>),
    Current,
    OtherKey,
    NotABlob,
}

impl Plan {
    async fn one(&self, client: &mut KmsClient, blob: &[u8]) -> Result<Outcome, ClientError> {
        let Ok(parsed) = Blob::parse(blob) else { return Ok(Outcome::NotABlob) };
        let made_by = parsed.header.key;
        if made_by == self.current {
            return Ok(Outcome::Current);
        }
        // The alias as source: the service refuses a key that the alias never meant, so that blobs of others stay as they are.
        let source = match self.options.from_keys.contains(&made_by) {
            true => made_by.to_string(),
            false => self.options.alias.to_string(),
        };
        let context: serde_json::Map<String, Value> =
            self.options.context.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
        let mut input = json!({
            "CiphertextBlob": STANDARD.encode(blob),
            "SourceKeyId": source,
            "DestinationKeyId": self.options.alias,
            "SourceEncryptionContext": context,
            "DestinationEncryptionContext": context,
        });
        if self.options.dry_run
            && let Some(members) = input.as_object_mut()
        {
            members.insert("DryRun".to_owned(), true.into());
        }
        match client.call("ReEncrypt", &input).await {
            Ok(answer) => {
                let text = answer.get("CiphertextBlob").and_then(Value::as_str).unwrap_or_default();
                match STANDARD.decode(text) {
                    // Under whatever key the alias names now: if it moved on meanwhile, the next run does the rest.
                    Ok(new) if Blob::parse(&new).is_ok() => Ok(Outcome::Reencrypted(new)),
                    _ => Err(ClientError::Refused { code: "an answer without a ciphertext".to_owned(), message: None }),
                }
            }
            Err(error) if error.is("DryRunOperationException") => Ok(Outcome::Reencrypted(Vec::new())),
            Err(error) if error.is("IncorrectKeyException") => Ok(Outcome::OtherKey),
            Err(error) => Err(error),
        }
    }
}

// --- files and directories ---

async fn files(plan: &Arc<Plan>, environment: &Environment) -> Result<Tally, Failed> {
    let mut paths = VecDeque::new();
    for input in &plan.options.inputs {
        collect(input, &mut paths).map_err(|e| Failed::new(66, format!("reading `{}`: {e}", input.display())))?;
    }
    let bar = super::progress::bar(paths.len() as u64);
    let queue = Arc::new(Mutex::new(paths));
    let tally = Arc::new(Mutex::new(Tally::default()));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..plan.options.parallel {
        let (plan, queue, tally, bar) = (plan.clone(), queue.clone(), tally.clone(), bar.clone());
        let mut client = KmsClient::new(environment.clone());
        workers.spawn(async move {
            while let Some(path) = next(&queue) {
                let outcome = file(&plan, &mut client, &path).await;
                if let Err(error) = &outcome {
                    bar.suspend(|| eprintln!("error: `{}`: {error}", path.display()));
                }
                lock(&tally).count(outcome.ok());
                bar.inc(1);
            }
        });
    }
    while workers.join_next().await.is_some() {}
    bar.finish_and_clear();
    let tally = lock(&tally).clone();
    Ok(tally)
}

/// Regular files below, in a fixed order; links are not followed.
fn collect(path: &Path, into: &mut VecDeque<PathBuf>) -> std::io::Result<()> {
    let kind = std::fs::symlink_metadata(path)?;
    if kind.is_dir() {
        let mut entries =
            std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        entries.sort();
        return entries.iter().try_for_each(|entry| collect(entry, into));
    }
    if kind.is_file() {
        into.push_back(path.to_owned());
    }
    Ok(())
}

async fn file(plan: &Plan, client: &mut KmsClient, path: &Path) -> Result<Outcome, String> {
    let metadata = std::fs::metadata(path).map_err(|e| e.to_string())?;
    if metadata.len() > LARGEST_FILE {
        return Ok(Outcome::NotABlob);
    }
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    let (form, blob) = Form::of(&bytes);
    let outcome = plan.one(client, &blob).await.map_err(|e| e.to_string())?;
    if let Outcome::Reencrypted(new) = &outcome
        && !plan.options.dry_run
    {
        replace(path, &form.write(new), metadata.permissions().mode()).map_err(|e| e.to_string())?;
    }
    Ok(outcome)
}

/// How a file holds its blob.
enum Form {
    Binary,
    /// Base64, with what follows it (a line end).
    Text(String),
}

impl Form {
    fn of(bytes: &[u8]) -> (Form, Vec<u8>) {
        if let Ok(text) = std::str::from_utf8(bytes)
            && let trimmed = text.trim_end()
            && let Ok(blob) = STANDARD.decode(trimmed)
        {
            return (Form::Text(text.get(trimmed.len()..).unwrap_or_default().to_owned()), blob);
        }
        (Form::Binary, bytes.to_vec())
    }

    fn write(&self, blob: &[u8]) -> Vec<u8> {
        match self {
            Form::Binary => blob.to_vec(),
            Form::Text(end) => format!("{}{end}", STANDARD.encode(blob)).into_bytes(),
        }
    }
}

/// Whole or not at all, with the old file's mode: a blob that is lost is plaintext that is lost.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".hsm-bridge-{}", std::process::id()));
    let new = PathBuf::from(name);
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode & 0o7777)))
        .and_then(|()| std::fs::rename(&new, path))
        .and_then(|()| match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => std::fs::File::open(dir)?.sync_all(),
            _ => std::fs::File::open(".")?.sync_all(),
        });
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    written
}

// --- standard input ---

/// One line in, one line out, in order. A line that is no blob, or that failed, goes out as it came.
async fn stream(plan: &Plan, mut client: KmsClient) -> Result<Tally, Failed> {
    let told = |e: std::io::Error| Failed::new(74, e.to_string());
    let mut skip = 0;
    let mut out: Box<dyn Write + Send> = match &plan.options.output {
        None => Box::new(std::io::stdout()),
        Some(path) => {
            let (file, done) =
                resume(path).map_err(|e| Failed::new(74, format!("the output `{}`: {e}", path.display())))?;
            skip = done;
            Box::new(file)
        }
    };
    let mut tally = Tally::default();
    for line in std::io::stdin().lock().lines().skip(skip) {
        let line = line.map_err(told)?;
        let outcome = match STANDARD.decode(line.trim()) {
            Ok(blob) => plan.one(&mut client, &blob).await.map_err(|e| e.to_string()),
            Err(_) => Ok(Outcome::NotABlob),
        };
        match &outcome {
            Ok(Outcome::Reencrypted(new)) if !plan.options.dry_run => writeln!(out, "{}", STANDARD.encode(new)),
            _ => writeln!(out, "{line}"),
        }
        .map_err(told)?;
        if let Err(error) = &outcome {
            eprintln!("error: line {}: {error}", skip as u64 + tally.all() + 1);
        }
        tally.count(outcome.ok());
    }
    out.flush().map_err(told)?;
    Ok(tally)
}

/// Opens the output of an interrupted run behind its last complete line; says how many it has.
fn resume(path: &Path) -> std::io::Result<(std::fs::File, usize)> {
    use std::io::{Read, Seek, SeekFrom};
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    file.set_len(whole as u64)?;
    file.seek(SeekFrom::End(0))?;
    let lines = text.iter().filter(|byte| **byte == b'\n').count();
    Ok((file, lines))
}

// --- the end ---

impl Tally {
    fn count(&mut self, outcome: Option<Outcome>) {
        match outcome {
            Some(Outcome::Reencrypted(_)) => self.reencrypted += 1,
            Some(Outcome::Current) => self.current += 1,
            Some(Outcome::OtherKey) => self.other_keys += 1,
            Some(Outcome::NotABlob) => self.not_blobs += 1,
            None => self.failed += 1,
        }
    }

    fn all(&self) -> u64 {
        self.reencrypted + self.current + self.other_keys + self.not_blobs + self.failed
    }
}

/// On standard error where standard output carries the blobs.
fn report(options: &Options, tally: &Tally) {
    let Tally { reencrypted, current, other_keys, not_blobs, failed } = tally;
    let text = if options.json {
        json!({
            "alias": options.alias, "dryRun": options.dry_run, "reencrypted": reencrypted, "current": current,
            "otherKeys": other_keys, "notCiphertexts": not_blobs, "failed": failed,
        })
        .to_string()
    } else {
        let done = if options.dry_run { "would be re-encrypted" } else { "re-encrypted" };
        format!(
            "{reencrypted} {done}, {current} under the current key, {other_keys} under keys that {} never pointed to, \
             {not_blobs} no ciphertexts, {failed} failed",
            options.alias
        )
    };
    let piped = options.inputs.iter().any(|input| input.as_os_str() == "-") && options.output.is_none();
    if piped || (std::io::stderr().is_terminal() && !options.json) {
        eprintln!("{text}");
    } else {
        println!("{text}");
    }
}

fn failed(error: ClientError) -> Failed {
    let code = match &error {
        ClientError::Configuration(_) => super::USAGE,
        ClientError::Connection { .. } => 69,
        ClientError::Refused { .. } => 1,
    };
    Failed::new(code, error.to_string())
}

fn next(queue: &Mutex<VecDeque<PathBuf>>) -> Option<PathBuf> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}

fn lock(tally: &Mutex<Tally>) -> std::sync::MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_its_form() {
        let blob = vec![0xff, 0, 1, 2];
        let (form, found) = Form::of(&blob);
        assert_eq!((found, form.write(&[9])), (blob.clone(), vec![9]));
        for end in ["", "\n", "\r\n"] {
            let text = format!("{}{end}", STANDARD.encode(&blob));
            let (form, found) = Form::of(text.as_bytes());
            assert_eq!((found, form.write(&[9])), (blob.clone(), format!("CQ=={end}").into_bytes()));
        }
    }

    #[test]
    fn an_interrupted_output_goes_on_behind_its_last_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let (_, done) = resume(&path).unwrap();
        assert_eq!(done, 0);
        std::fs::write(&path, "a\nb\nhal").unwrap();
        let (mut file, done) = resume(&path).unwrap();
        assert_eq!(done, 2);
        file.write_all(b"c\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a\nb\nc\n");
    }

    #[test]
    fn a_file_is_replaced_with_its_mode_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blob");
        std::fs::write(&path, "old").unwrap();
        replace(&path, b"new", 0o100640).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
