//! Checkpoints as signed notes: the log's size and root as a text that is signed by the trail's key and may be signed by
//! others too. Source: C2SP signed-note and tlog-checkpoint. Strict: what a writer of ours would not have written does not parse.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::tree::Hash;

/// Beyond any checkpoint with its cosignatures.
const MAX_NOTE: usize = 64 * 1024;
/// RULE signed-note: an em dash and a space begin a signature line.
const DASH: &str = "\u{2014} ";

/// A checkpoint with its signatures. Nothing is checked against a key here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub origin: String,
    pub size: u64,
    pub root: Hash,
    /// At least one, in their order.
    pub signatures: Vec<NoteSignature>,
    /// What is signed, with its last newline.
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    pub name: String,
    pub key_id: [u8; 4],
    pub signature: Vec<u8>,
}

impl Note {
    pub fn parse(note: &str) -> Result<Note, String> {
        if note.len() > MAX_NOTE {
            return Err("it is too long for a signed note".into());
        }
        if note.chars().any(|char| char < ' ' && char != '\n') {
            return Err("it holds a control character".into());
        }
        // RULE signed-note: the last empty line divides text and signatures.
        let (text, signed) = note.rsplit_once("\n\n").ok_or("no empty line stands before its signatures")?;
        let text = format!("{text}\n");
        let signed = signed.strip_suffix('\n').ok_or("it does not end in a newline")?;
        let signatures = signed.split('\n').map(NoteSignature::parse).collect::<Result<Vec<_>, _>>()?;
        let mut lines = text.lines();
        let origin = lines.next().filter(|origin| !origin.is_empty()).ok_or("it has no origin")?;
        let size = lines.next().and_then(decimal).ok_or("its size is not a decimal number")?;
        let root = lines
            .next()
            .and_then(|root| STANDARD.decode(root).ok())
            .and_then(|root| Hash::try_from(root).ok())
            .ok_or("its root is not a hash")?;
        if lines.any(str::is_empty) {
            return Err("an empty line stands in its text".into());
        }
        Ok(Note { origin: origin.to_owned(), size, root, signatures, text })
    }
}

impl NoteSignature {
    fn parse(line: &str) -> Result<NoteSignature, String> {
        let wrong = || "a signature line is not one".to_string();
        let (name, encoded) = line.strip_prefix(DASH).and_then(|line| line.split_once(' ')).ok_or_else(wrong)?;
        if !is_name(name) {
            return Err("a signature line names no signer".into());
        }
        let bytes = STANDARD.decode(encoded).map_err(|_| wrong())?;
        match bytes.split_first_chunk::<4>() {
            Some((key_id, signature)) if !signature.is_empty() => {
                Ok(NoteSignature { name: name.to_owned(), key_id: *key_id, signature: signature.to_vec() })
            }
            _ => Err("a signature line has no signature".into()),
        }
    }
}

/// RULE signed-note: not empty, no white space, no plus.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|char: char| char.is_whitespace() || char == '+')
}

/// RULE tlog-checkpoint: no leading zeros.
fn decimal(text: &str) -> Option<u64> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

/// The text that is signed.
pub fn body(origin: &str, size: u64, root: &Hash) -> String {
    format!("{origin}\n{size}\n{}\n", STANDARD.encode(root))
}

/// One line with its newline, to stand after the text and an empty line.
pub fn signature_line(name: &str, key_id: [u8; 4], signature: &[u8]) -> String {
    let bytes = [key_id.as_slice(), signature].concat();
    format!("{DASH}{name} {}\n", STANDARD.encode(bytes))
}

/// RULE signed-note, type 0x02 (ECDSA): the first four bytes of SHA-256 over the SubjectPublicKeyInfo.
pub fn key_id(spki: &[u8]) -> [u8; 4] {
    let mut id = [0; 4];
    for (to, from) in id.iter_mut().zip(digest::digest(&digest::SHA256, spki).as_ref()) {
        *to = *from;
    }
    id
}

/// What the checkpoints of a trail call it: `hsm-bridge/<account>/<region>/<trail>`. `None`: not the ARN of a trail.
pub fn origin(trail_arn: &str) -> Option<String> {
    let mut parts = trail_arn.split(':').skip(3);
    let (region, account, resource) = (parts.next()?, parts.next()?, parts.next()?);
    let trail = resource.strip_prefix("trail/")?;
    Some(format!("hsm-bridge/{account}/{region}/{trail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: &str = "hsm-bridge/111122223333/eu-central-1/hsm-bridge";

    fn written() -> String {
        let text = body(ORIGIN, 42, &[7; 32]);
        let first = signature_line(ORIGIN, [1, 2, 3, 4], b"signature");
        format!("{text}\n{first}{}", signature_line("witness.example", [5, 6, 7, 8], b"other"))
    }

    #[test]
    fn what_is_written_parses() {
        let written = written();
        assert_eq!(
            written,
            "hsm-bridge/111122223333/eu-central-1/hsm-bridge\n42\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n\n\
             — hsm-bridge/111122223333/eu-central-1/hsm-bridge AQIDBHNpZ25hdHVyZQ==\n— witness.example BQYHCG90aGVy\n"
        );
        let note = Note::parse(&written).unwrap();
        assert_eq!((note.origin.as_str(), note.size, note.root), (ORIGIN, 42, [7; 32]));
        assert_eq!(note.text, body(ORIGIN, 42, &[7; 32]));
        assert_eq!(note.signatures.len(), 2);
        assert_eq!(note.signatures[0].name, ORIGIN);
        assert_eq!(note.signatures[1].key_id, [5, 6, 7, 8]);
        assert_eq!(note.signatures[1].signature, b"other");
        assert_eq!(origin("arn:aws:cloudtrail:eu-central-1:111122223333:trail/hsm-bridge").as_deref(), Some(ORIGIN));
        assert_eq!(origin("arn:aws:kms:eu-central-1:111122223333:key/x"), None);
    }

    #[test]
    fn anything_else_does_not() {
        let written = written();
        let wrong: [(&str, &str); 9] = [
            ("\n42\n", "\n042\n"),
            ("\n42\n", "\n+42\n"),
            ("\n42\n", "\n42\r\n"),
            ("Bwc=", "Bwd="),
            ("Bwc=\n", "Bwc\n"),
            ("\n\n", "\n"),
            ("— w", "- w"),
            ("BQYHCG90aGVy", "BQYHCA=="),
            ("witness.example", "wit+ness"),
        ];
        for (from, to) in wrong {
            assert!(written.contains(from));
            assert!(Note::parse(&written.replacen(from, to, 1)).is_err(), "{from:?} {to:?}");
        }
        assert!(Note::parse(written.trim_end()).is_err());
        assert!(Note::parse("").is_err());
        // No flipped bit goes by as the same note.
        for (index, bit) in (0..written.len()).flat_map(|index| (0..8).map(move |bit| (index, bit))) {
            let mut bytes = written.clone().into_bytes();
            bytes[index] ^= 1 << bit;
            if let Ok(text) = String::from_utf8(bytes)
                && let Ok(note) = Note::parse(&text)
            {
                assert_ne!(note, Note::parse(&written).unwrap(), "bit {bit} of byte {index}");
            }
        }
    }
}
