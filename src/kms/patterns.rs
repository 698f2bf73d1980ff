//! Matchers for the patterns of the service model, keyed by the pattern's text. The few that occur need no regular
//! expressions. A pattern must match the whole value.

pub type Matcher = fn(&str) -> bool;

/// The matcher of a pattern that a served operation uses; a test walks the model.
pub fn matcher(pattern: &str) -> Option<Matcher> {
    Some(match pattern {
        "^[a-zA-Z0-9:/_-]+$" => |t| some(t, |c| c.is_ascii_alphanumeric() || matches!(c, ':' | '/' | '_' | '-')),
        r"[\w]+" => |t| some(t, word),
        r"^[\w+=,.@:/-]+$" => |t| some(t, |c| word(c) || matches!(c, '+' | '=' | ',' | '.' | '@' | ':' | '/' | '-')),
        "^[a-zA-Z0-9-_.]+$" => |t| some(t, |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')),
        r"[\u0020-\u00FF]*" => |t| t.chars().all(latin),
        r"[\u0009\u000A\u000D\u0020-\u00FF]+" => |t| some(t, |c| matches!(c, '\t' | '\n' | '\r') || latin(c)),
        r"^([A-Za-z0-9\-]+)\.([A-Za-z0-9\-]+)(\.[A-Za-z0-9\-]+)+$" => |t| {
            let label = |l: &str| some(l, |c| c.is_ascii_alphanumeric() || c == '-');
            t.split('.').count() >= 3 && t.split('.').all(label)
        },
        "cluster-[2-7a-zA-Z]{11,16}" => |t| {
            let base32 = |c: char| c.is_ascii_alphabetic() || ('2'..='7').contains(&c);
            t.strip_prefix("cluster-").is_some_and(|rest| (11..=16).contains(&rest.len()) && some(rest, base32))
        },
        r"^([a-z]+-){2,3}\d+$" => |t| {
            let parts: Vec<&str> = t.split('-').collect();
            matches!(parts.len(), 3 | 4)
                && parts.split_last().is_some_and(|(number, words)| {
                    some(number, |c| c.is_ascii_digit()) && words.iter().all(|w| some(w, |c| c.is_ascii_lowercase()))
                })
        },
        r"^arn:aws[a-z0-9-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]{12}:.+$" => |t| {
            let name = |text: &str| text.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-'));
            // `.` is no line break, as in Java.
            let breaks = |c| matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
            let parts: Vec<&str> = t.splitn(6, ':').collect();
            matches!(parts.as_slice(), ["arn", partition, service, region, account, resource]
                if partition.strip_prefix("aws").is_some_and(name)
                    && !service.is_empty() && name(service) && name(region)
                    && account.len() == 12 && some(account, |c| c.is_ascii_digit())
                    && !resource.is_empty() && !resource.contains(breaks))
        },
        "^[a-f0-9]+$" => |t| some(t, |c| matches!(c, 'a'..='f' | '0'..='9')),
        r"^[a-zA-Z0-9:/_\s.-]+$" => |t| {
            // Java's `\s`.
            let space = |c| matches!(c, ' ' | '\t'..='\r');
            some(t, |c| c.is_ascii_alphanumeric() || matches!(c, ':' | '/' | '_' | '.' | '-') || space(c))
        },
        _ => return None,
    })
}

fn some(text: &str, accept: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(accept)
}

/// `\w` without its Unicode meaning, as in Java.
fn word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn latin(c: char) -> bool {
    ('\u{20}'..='\u{ff}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let alias = "^[a-zA-Z0-9:/_-]+$";
        let principal = r"^[\w+=,.@:/-]+$";
        let service = r"^([A-Za-z0-9\-]+)\.([A-Za-z0-9\-]+)(\.[A-Za-z0-9\-]+)+$";
        let policy = r"[\u0009\u000A\u000D\u0020-\u00FF]+";
        let cluster = "cluster-[2-7a-zA-Z]{11,16}";
        let hex = "^[a-f0-9]+$";
        let region = r"^([a-z]+-){2,3}\d+$";
        let source = r"^arn:aws[a-z0-9-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]{12}:.+$";
        let imported = r"^[a-zA-Z0-9:/_\s.-]+$";
        let marker = r"[\u0020-\u00FF]*";
        for (pattern, text, expected) in [
            (alias, "alias/a:b_c-1", true),
            (alias, "alias/a b", false),
            (alias, "alias/é", false),
            (alias, "", false),
            (r"[\w]+", "default_1", true),
            (r"[\w]+", "de-fault", false),
            (r"[\w]+", "é", false),
            (principal, "arn:aws:iam::111122223333:user/a@b", true),
            (principal, "a b", false),
            ("^[a-zA-Z0-9-_.]+$", "a-b_c.d", true),
            ("^[a-zA-Z0-9-_.]+$", "a/b", false),
            (marker, "", true),
            (marker, "aÿ", true),
            (marker, "aĀ", false),
            (marker, "a\n", false),
            (policy, "{\n\t}\r", true),
            (policy, "\u{b}", false),
            (policy, "", false),
            (service, "s3.eu-central-1.amazonaws", true),
            (service, "s3.amazonaws", false),
            (service, "s3..amazonaws", false),
            (cluster, "cluster-abcDEF23456", true),
            (cluster, "cluster-abcDEF2345", false),
            (cluster, "cluster-abcDEF23456789ab", false),
            (cluster, "cluster-abcDEF23451", false),
            (cluster, "abcDEF23456", false),
            (region, "eu-west-1", true),
            (region, "us-gov-west-12", true),
            (region, "eu-west", false),
            (region, "eu-west-1a", false),
            (region, "a-b-c-d-1", false),
            (region, "EU-west-1", false),
            (source, "arn:aws:s3:eu-central-1:111122223333:bucket/a:b", true),
            (source, "arn:aws-cn:iam::111122223333:role/a", true),
            (source, "arn:aws:s3:::bucket", false),
            (source, "arn:aws:s3::111122223333:", false),
            (source, "arn:aws:s3::111122223333:a\nb", false),
            (source, "arn:aws::eu-central-1:111122223333:a", false),
            (source, "arn:gcp:s3::111122223333:a", false),
            (hex, "0af", true),
            (hex, "0AF", false),
            (imported, "2026: a/b_c.d-e\t", true),
            (imported, "a,b", false),
        ] {
            assert_eq!(matcher(pattern).unwrap()(text), expected, "{pattern} on {text:?}");
        }
        assert!(matcher("^[a-e]+$").is_none());
    }
}
