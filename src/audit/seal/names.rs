//! Names of sealed objects. RULE audit.md §2.1: the stock AWS CLI slices the time out of a digest's name by position.

/// What lies in the bucket, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Log,
    Digest,
}

/// A sealed object's name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name<'a> {
    pub kind: Kind,
    /// `YYYYMMDDTHHMM` of a log file, `YYYYMMDDTHHMMSS` of a digest: in the order of time as texts.
    pub time: &'a str,
    /// Of a log file.
    pub unique: &'a str,
}

/// Where the objects of one trail lie. All of it is in the objects' names.
#[derive(Debug, Clone)]
pub struct Place {
    pub account: String,
    pub region: String,
    pub trail: String,
    /// Before `AWSLogs/`.
    pub prefix: Option<String>,
}

impl Place {
    /// `time`: of the last line in the file, `2026-03-04T09:20:00.103417Z`; `leaf`: hash of its first line.
    pub fn log_file(&self, time: &str, leaf: &[u8; 32]) -> String {
        let (account, region) = (&self.account, &self.region);
        let (folder, unique) = (self.folder("CloudTrail", time), unique(leaf));
        let minute = compact(time.get(..16).unwrap_or(time));
        format!("{folder}{account}_CloudTrail_{region}_{minute}Z_{unique}.json.gz")
    }

    /// `end`: `2026-03-04T10:00:00Z`. RULE audit.md §2.1: the directories are those of the end.
    pub fn digest(&self, end: &str) -> String {
        let (account, region, trail) = (&self.account, &self.region, &self.trail);
        let folder = self.folder("CloudTrail-Digest", end);
        let second = compact(end.get(..19).unwrap_or(end));
        // The home region is this one: a trail has no other.
        format!("{folder}{account}_CloudTrail-Digest_{region}_{trail}_{region}_{second}Z.json.gz")
    }

    fn folder(&self, kind: &str, time: &str) -> String {
        let prefix = self.prefix.as_ref().map_or(String::new(), |prefix| format!("{prefix}/"));
        let day = time.get(..10).unwrap_or(time).replace('-', "/");
        format!("{prefix}AWSLogs/{}/{kind}/{}/{day}/", self.account, self.region)
    }
}

/// Without `-` and `:`.
pub fn compact(time: &str) -> String {
    time.chars().filter(|char| !matches!(char, '-' | ':')).collect()
}

/// Of an object of ours; nothing for what is neither log file nor digest.
pub fn parse(object: &str) -> Option<Name<'_>> {
    let name = object.rsplit('/').next()?.strip_suffix(".json.gz")?;
    let (rest, last) = name.rsplit_once('_')?;
    let digits = |text: &str, length: usize| {
        text.len() == length
            && text.bytes().enumerate().all(|(at, byte)| if at == 8 { byte == b'T' } else { byte.is_ascii_digit() })
    };
    if name.contains("_CloudTrail-Digest_") {
        let time = last.strip_suffix('Z').filter(|time| digits(time, 15))?;
        return Some(Name { kind: Kind::Digest, time, unique: "" });
    }
    let time = rest.rsplit_once('_')?.1.strip_suffix('Z').filter(|time| digits(time, 13))?;
    (name.contains("_CloudTrail_") && last.len() == 16).then_some(Name { kind: Kind::Log, time, unique: last })
}

/// The first 16 characters of the hash in base32 (RFC 4648 §6).
pub fn unique(leaf: &[u8; 32]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    // 16 characters of 5 bits: the first 10 bytes.
    let bits = leaf.iter().take(10).fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
    let digit = |place: u32| ALPHABET.get((bits >> (75 - 5 * place) & 31) as usize).copied().unwrap_or(b'A');
    (0..16).map(|place| char::from(digit(place))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(prefix: Option<&str>) -> Place {
        Place {
            account: "111122223333".into(),
            region: "eu-central-1".into(),
            trail: "hsm-bridge".into(),
            prefix: prefix.map(str::to_owned),
        }
    }

    #[test]
    fn names_are_cloudtrails() {
        let leaf = [0xff; 32];
        assert_eq!(
            place(None).log_file("2026-03-04T09:20:59.999999Z", &leaf),
            "AWSLogs/111122223333/CloudTrail/eu-central-1/2026/03/04/\
             111122223333_CloudTrail_eu-central-1_20260304T0920Z_7777777777777777.json.gz"
        );
        let digest = place(Some("a/b")).digest("2026-03-05T00:00:00Z");
        assert_eq!(
            digest,
            "a/b/AWSLogs/111122223333/CloudTrail-Digest/eu-central-1/2026/03/05/\
             111122223333_CloudTrail-Digest_eu-central-1_hsm-bridge_eu-central-1_20260305T000000Z.json.gz"
        );
        // As the CLI slices it.
        assert_eq!(&digest[digest.len() - 24..digest.len() - 8], "20260305T000000Z");
    }

    #[test]
    fn names_are_taken_apart() {
        let leaf = *b"0123456789abcdef0123456789abcdef";
        let log = place(None).log_file("2026-03-04T09:20:59.999999Z", &leaf);
        // printf 0123456789 | base32
        let expected = Name { kind: Kind::Log, time: "20260304T0920", unique: "GAYTEMZUGU3DOOBZ" };
        assert_eq!(parse(&log), Some(expected));
        let digest = place(None).digest("2026-03-05T00:00:00Z");
        assert_eq!(parse(&digest), Some(Name { kind: Kind::Digest, time: "20260305T000000", unique: "" }));
        for other in ["", "x.json.gz", "a_CloudTrail_b_20260304T0920_GAYTEMZUGU3DOOBZ.json.gz", &format!("{log}.meta")]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
