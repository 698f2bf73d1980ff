//! The published SigV4 vectors (AWS CRT's signing test suite), as they come inside the source package of `aws-sigv4`: the
//! signed requests are read as a server gets them, and canonical request, string to sign and signature must be theirs.
//!
//! Known deviations are rows below; a row that no longer deviates is an error.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use hsm_bridge::authn::query::parse_query;
use hsm_bridge::authn::sigv4::authorization::parse_authorization;
use hsm_bridge::authn::sigv4::canonical::{
    Host, canonical_query, canonical_request, canonical_uri, sha256, string_to_sign,
};
use hsm_bridge::authn::sigv4::date::Timestamp;
use hsm_bridge::authn::sigv4::derive::SigningKey;
use hsm_bridge::authn::sigv4::scope::Scope;
use hsm_bridge::authn::sigv4::signed_headers::check_signed_headers;
use hsm_bridge::authn::sigv4::{Claim, Form};

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// Vector, form, what of it is not as published, why.
const DEVIATIONS: &[(&str, Form, What, &str)] = &[
    (
        "post-sts-header-after",
        Form::Header,
        What::SignedHeaders,
        "the session token is added unsigned, which is refused",
    ),
    ("post-sts-header-after", Form::Query, What::All, "the session token is added unsigned, which is refused"),
    (
        "double-encode-path",
        Form::Header,
        What::All,
        "its files contradict each other: signed on 2015-08-30 and, in the canonical request, 2021-05-11; its path is \
         checked by itself",
    ),
];

/// The parts of a vector that deviate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    All,
    SignedHeaders,
}

#[test]
fn the_published_vectors() {
    let suite = suite();
    let mut names: Vec<String> =
        suite.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() >= 40, "{} vectors in {}", names.len(), suite.display());

    let (mut checked, mut deviated) = (0, BTreeSet::new());
    for name in &names {
        let folder = suite.join(name);
        for (form, prefix) in [(Form::Header, "header"), (Form::Query, "query")] {
            if !folder.join(format!("{prefix}-signed-request.txt")).exists() {
                assert!(form == Form::Query && name.starts_with("double-"), "{name} has no {prefix} form");
                continue;
            }
            let deviation = DEVIATIONS.iter().find(|row| row.0 == name && row.1 == form);
            let outcome = Vector::read(&folder, prefix, form).check(deviation.map(|row| row.2));
            match (deviation, outcome) {
                (None, Ok(())) => checked += 1,
                (None, Err(text)) => panic!("{name} ({prefix}): {text}"),
                (Some(row), Err(_)) => drop(deviated.insert((row.0, prefix))),
                (Some(row), Ok(())) => panic!("{name} ({prefix}) is as published; its row must go: {}", row.3),
            }
        }
    }
    assert_eq!(deviated.len(), DEVIATIONS.len());
    assert!(checked >= 75, "{checked} checked");
}

#[test]
fn the_path_of_double_encode_path() {
    let vector = suite().join("double-encode-path");
    let request = read(&vector.join("request.txt"));
    let path = request.split(' ').nth(1).unwrap();
    let canonical = read(&vector.join("header-canonical-request.txt"));
    assert_eq!(canonical.lines().nth(1), Some(canonical_uri(path, true).as_str()));
}

struct Vector {
    form: Form,
    request: Request,
    normalize: bool,
    canonical_request: String,
    string_to_sign: Option<String>,
    signature: Option<String>,
}

impl Vector {
    fn read(folder: &Path, prefix: &str, form: Form) -> Self {
        let optional = |name: String| folder.join(&name).exists().then(|| read(&folder.join(name)));
        let context: Option<serde_json::Value> =
            optional("context.json".to_owned()).map(|text| serde_json::from_str(&text).unwrap());
        if let Some(context) = &context {
            assert_eq!(context["credentials"]["secret_access_key"], SECRET);
        }
        Self {
            form,
            request: Request::parse(&read(&folder.join(format!("{prefix}-signed-request.txt")))),
            normalize: context.is_none_or(|context| context["normalize"].as_bool().unwrap()),
            canonical_request: read(&folder.join(format!("{prefix}-canonical-request.txt"))),
            string_to_sign: optional(format!("{prefix}-string-to-sign.txt")),
            signature: optional(format!("{prefix}-signature.txt")),
        }
    }

    fn check(&self, deviation: Option<What>) -> Result<(), String> {
        let request = &self.request;
        let all: Vec<(&str, &[u8])> =
            request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let claim = self.claim().map_err(|error| error.to_string())?;
        let scope = Scope::parse(&claim.credential).map_err(|error| error.to_string())?;
        let date = Timestamp::parse(&claim.date).map_err(|error| error.to_string())?;
        let headers_are_signed = check_signed_headers(&claim.signed_headers, &all).map_err(|error| error.to_string());
        if deviation != Some(What::SignedHeaders) {
            headers_are_signed.clone()?;
        }

        let canonical = canonical_request(
            &request.method,
            &canonical_uri(&request.path, self.normalize),
            &canonical_query(&request.query, self.form),
            &all,
            Host::LowerCase,
            &claim.signed_headers,
            sha256(request.body.as_bytes()).as_str(),
        );
        same("canonical request", &self.canonical_request, &String::from_utf8(canonical.clone()).unwrap())?;
        let to_sign = string_to_sign(date.as_str(), scope.region, scope.service, &canonical);
        if let Some(published) = &self.string_to_sign {
            same("string to sign", published.trim_end(), &to_sign)?;
        }
        if let Some(published) = &self.signature {
            same("signature in the request", published, &claim.signature)?;
        }
        let key = SigningKey::derive(SECRET, scope.day, scope.region, scope.service);
        if !key.verify(&to_sign, &claim.signature) {
            return Err("the signature does not verify".to_owned());
        }
        headers_are_signed
    }

    fn claim(&self) -> Result<Claim<'_>, hsm_bridge::authn::AuthnError> {
        let header = |name: &str| {
            self.request.headers.iter().find(|(present, _)| present == name).map(|(_, value)| value.as_str())
        };
        match self.form {
            Form::Header => {
                let authorization = header("authorization").unwrap();
                parse_authorization(authorization.as_bytes(), header("x-amz-date").map(Into::into), None)
            }
            Form::Query => parse_query(&self.request.query, None),
        }
    }
}

fn same(what: &str, published: &str, ours: &str) -> Result<(), String> {
    if published == ours { Ok(()) } else { Err(format!("{what}: published\n{published}\n\nours\n{ours}")) }
}

struct Request {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    /// As far as the suite needs it: lines that begin with a blank continue the header before them (RFC 7230 §3.2.4: with one
    /// space), a path may hold blanks.
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
        let mut lines = head.lines();
        let first = lines.next().unwrap();
        let (method, target) = first.split_once(' ').unwrap();
        let target = target.strip_suffix(" HTTP/1.1").unwrap_or(target);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut headers: Vec<(String, String)> = Vec::new();
        for line in lines {
            if line.starts_with([' ', '\t']) {
                let value = &mut headers.last_mut().unwrap().1;
                value.push(' ');
                value.push_str(line.trim());
            } else {
                let (name, value) = line.split_once(':').unwrap();
                headers.push((name.to_lowercase(), value.to_owned()));
            }
        }
        Self { method: method.into(), path: path.into(), query: query.into(), headers, body: body.into() }
    }
}

/// The folder of the vectors in the source of the development dependency, wherever cargo keeps it.
fn suite() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let host = Command::new(&cargo).arg("-vV").output().unwrap();
    let host = String::from_utf8(host.stdout).unwrap();
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--filter-platform", host, "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let package =
        metadata["packages"].as_array().unwrap().iter().find(|package| package["name"] == "aws-sigv4").unwrap();
    let folder =
        Path::new(package["manifest_path"].as_str().unwrap()).with_file_name("aws-signing-test-suite").join("v4");
    assert!(folder.is_dir(), "the package of aws-sigv4 has no vectors in {}", folder.display());
    folder
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
