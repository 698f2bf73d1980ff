//! Names of the objects in a trail's bucket. RULE audit.md §2.1: name, folder and content say the same.

use super::tree::Hash;

/// What an object is, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// `minute`: `YYYYMMDDTHHMM`.
    Log {
        minute: String,
        unique: String,
    },
    /// `second`: `YYYYMMDDTHHMMSS`, the end of its time.
    Digest {
        second: String,
    },
    /// `….meta` beside a digest.
    Sidecar,
    /// Part of an export.
    Export,
    Unknown,
}

impl Kind {
    pub fn of(object: &str) -> Kind {
        Kind::parse(object).unwrap_or(Kind::Unknown)
    }

    fn parse(object: &str) -> Option<Kind> {
        if object.ends_with(".meta") {
            let digest = object.strip_suffix(".meta")?;
            // An export has copies of digests, with theirs.
            return match Kind::of(digest) {
                Kind::Digest { .. } => Some(Kind::Sidecar),
                Kind::Export => Some(Kind::Export),
                _ => None,
            };
        }
        // [prefix/]AWSLogs/<account>/<kind>/<region>/YYYY/MM/DD/<name>
        let (_, rest) = match object.strip_prefix("AWSLogs/") {
            Some(rest) => ("", rest),
            None => object.split_once("/AWSLogs/")?,
        };
        let parts: Vec<&str> = rest.split('/').collect();
        if matches!(parts.as_slice(), [_, "CloudTrail-Lake", "Query", ..]) {
            return Some(Kind::Export);
        }
        let [account, kind, region, year, month, day, name] = parts.as_slice() else { return None };
        let rest = name.strip_suffix(".json.gz")?.strip_prefix(account)?.strip_prefix('_')?;
        let rest = rest.strip_prefix(kind)?.strip_prefix('_')?.strip_prefix(region)?.strip_prefix('_')?;
        let in_folder = |time: &str| time.get(..8) == Some(&format!("{year}{month}{day}"));
        match *kind {
            "CloudTrail" => {
                let (time, unique) = rest.split_once('_')?;
                let minute = time.strip_suffix('Z').filter(|time| is_time(time, 13) && in_folder(time))?;
                let base32 = |byte: u8| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte);
                (unique.len() == 16 && unique.bytes().all(base32))
                    .then(|| Kind::Log { minute: minute.to_owned(), unique: unique.to_owned() })
            }
            "CloudTrail-Digest" => {
                let (trail_and_region, time) = rest.rsplit_once('_')?;
                trail_and_region.strip_suffix(region)?.strip_suffix('_').filter(|trail| !trail.is_empty())?;
                let second = time.strip_suffix('Z').filter(|time| is_time(time, 15) && in_folder(time))?;
                Some(Kind::Digest { second: second.to_owned() })
            }
            _ => None,
        }
    }
}

fn is_time(text: &str, length: usize) -> bool {
    text.len() == length
        && text.bytes().enumerate().all(|(at, byte)| if at == 8 { byte == b'T' } else { byte.is_ascii_digit() })
}

/// `2026-03-04T09:20:00Z` as names have it: `20260304T092000`.
pub(super) fn compact(time: &str) -> String {
    time.chars().filter(|char| char.is_ascii_digit() || *char == 'T').collect()
}

/// The part of a log file's name that its first line decides: 16 characters of base32 (RFC 4648 §6).
pub(super) fn unique(leaf: &Hash) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bits = leaf.iter().take(10).fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
    let digit = |place: u32| ALPHABET.get((bits >> (75 - 5 * place) & 31) as usize).copied().unwrap_or(b'A');
    (0..16).map(|place| char::from(digit(place))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        let log = "AWSLogs/111122223333/CloudTrail/eu-central-1/2026/03/04/\
                   111122223333_CloudTrail_eu-central-1_20260304T0920Z_GAYTEMZUGU3DOOBZ.json.gz";
        let digest = "a/b/AWSLogs/111122223333/CloudTrail-Digest/eu-central-1/2026/03/05/\
                      111122223333_CloudTrail-Digest_eu-central-1_hsm_bridge_eu-central-1_20260305T000000Z.json.gz";
        let unique = "GAYTEMZUGU3DOOBZ".to_owned();
        assert_eq!(Kind::of(log), Kind::Log { minute: "20260304T0920".into(), unique });
        assert_eq!(Kind::of(digest), Kind::Digest { second: "20260305T000000".into() });
        assert_eq!(Kind::of(&format!("{digest}.meta")), Kind::Sidecar);
        for name in ["manifest.json", "digests/d.json.gz.meta"] {
            assert_eq!(Kind::of(&format!("AWSLogs/1/CloudTrail-Lake/Query/2026/01/01/x/{name}")), Kind::Export);
        }
        for other in [
            &log.replace("/04/", "/05/"),
            &log.replace("GAY", "gay"),
            &format!("{log}.meta"),
            &digest.replace("20260305T", "20260306T"),
            &digest.replace(".json.gz", "_backfill.json.gz"),
            "x",
            "",
        ] {
            assert_eq!(Kind::of(other), Kind::Unknown, "{other}");
        }
        assert_eq!(super::unique(b"0123456789abcdef0123456789abcdef"), "GAYTEMZUGU3DOOBZ");
        assert_eq!(compact("2026-03-04T09:20:00Z"), "20260304T092000");
    }
}
