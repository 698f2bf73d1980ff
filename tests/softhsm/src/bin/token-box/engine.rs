//! The way to the engine. `testcontainers` speaks the newest version of the engine's interface and does not negotiate;
//! an older engine, as Debian's, refuses that by its number alone. Then requests pass a socket of this program, which
//! names the engine's own version in them.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::{env, thread};

use testcontainers::bollard::API_DEFAULT_VERSION;

/// Where an engine listens if nothing else is said.
const DEFAULT: &str = "/var/run/docker.sock";

/// What `DOCKER_HOST` must be for `testcontainers`. `socket` is a path for a socket of our own.
pub(crate) fn reach(socket: &Path) -> io::Result<String> {
    let host = env::var("DOCKER_HOST").unwrap_or_else(|_| format!("unix://{DEFAULT}"));
    let Some(path) = host.strip_prefix("unix://").map(String::from) else {
        return Ok(host);
    };
    let (theirs, ours) = (version(&path)?, API_DEFAULT_VERSION.to_string());
    if number(&theirs) >= number(&ours) {
        return Ok(host);
    }
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    thread::spawn(move || {
        for near in listener.incoming() {
            let pair = near.and_then(|near| Ok((near, UnixStream::connect(&path)?)));
            let _ = pair.and_then(|(near, far)| relay(near, far, &format!("/v{ours}/"), &format!("/v{theirs}/")));
        }
    });
    Ok(format!("unix://{}", socket.display()))
}

/// `1.41`, from the header that every engine's answer to `/_ping` has.
fn version(path: &str) -> io::Result<String> {
    let mut engine = UnixStream::connect(path)
        .map_err(|error| io::Error::other(format!("no Docker engine answers at `{path}`: {error}")))?;
    engine.write_all(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")?;
    let mut answer = String::new();
    engine.read_to_string(&mut answer)?;
    let header = answer.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("api-version").then(|| value.trim().to_owned())
    });
    header.ok_or_else(|| io::Error::other(format!("`{path}` answers as no engine does: {answer}")))
}

fn number(version: &str) -> Vec<u32> {
    version.split('.').filter_map(|part| part.parse().ok()).collect()
}

fn relay(mut near: UnixStream, mut far: UnixStream, ours: &str, theirs: &str) -> io::Result<()> {
    let (mut answers, mut back) = (far.try_clone()?, near.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut answers, &mut back);
        let _ = back.shutdown(Shutdown::Both);
    });
    let (ours, theirs) = (ours.to_owned(), theirs.to_owned());
    thread::spawn(move || {
        let mut buffer = [0; 64 * 1024];
        while let Ok(count @ 1..) = near.read(&mut buffer) {
            if far.write_all(&renamed(&buffer[..count], &ours, &theirs)).is_err() {
                break;
            }
        }
        let _ = far.shutdown(Shutdown::Both);
    });
    Ok(())
}

/// The client writes a request's head at once, so its line is at the beginning of what was read.
fn renamed(bytes: &[u8], ours: &str, theirs: &str) -> Vec<u8> {
    let after_method = bytes.iter().position(|byte| *byte == b' ').map_or(0, |space| space + 1);
    match bytes[after_method..].strip_prefix(ours.as_bytes()) {
        Some(rest) if after_method > 0 => [&bytes[..after_method], theirs.as_bytes(), rest].concat(),
        _ => bytes.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_request_line_is_renamed() {
        let head = b"POST /v1.53/containers/create?name=/v1.53/ HTTP/1.1\r\n\r\n{\"a\":\" /v1.53/\"}";
        let expected = b"POST /v1.41/containers/create?name=/v1.53/ HTTP/1.1\r\n\r\n{\"a\":\" /v1.53/\"}";
        assert_eq!(renamed(head, "/v1.53/", "/v1.41/"), expected);
        assert_eq!(renamed(b"{\"a\": \"/v1.53/\"}", "/v1.53/", "/v1.41/"), b"{\"a\": \"/v1.53/\"}");
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert!(number("1.41") < number("1.53"));
        assert!(number("1.9") < number("1.41"));
    }
}
