//! Values of conditions that are not text: numbers, dates, networks.

use std::cmp::Ordering;
use std::net::IpAddr;

use time::{Date, Month, Time, UtcOffset};

/// A decimal number of any length, compared exactly: the digits without the zeros that say nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decimal {
    negative: bool,
    whole: String,
    fraction: String,
}

impl Decimal {
    pub fn parse(text: &str) -> Option<Decimal> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
            return None;
        }
        let (whole, fraction) = (whole.trim_start_matches('0').to_owned(), fraction.trim_end_matches('0').to_owned());
        let zero = whole.is_empty() && fraction.is_empty();
        Some(Decimal { negative: negative && !zero, whole, fraction })
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let size = |a: &Decimal, b: &Decimal| {
            a.whole
                .len()
                .cmp(&b.whole.len())
                .then_with(|| a.whole.cmp(&b.whole))
                .then_with(|| a.fraction.cmp(&b.fraction))
        };
        match (self.negative, other.negative) {
            (false, false) => size(self, other),
            (true, true) => size(other, self),
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
        }
    }
}

/// An instant in nanoseconds since 1970: an ISO 8601 date, a date with time (UTC where no offset is given), or seconds.
pub fn instant(text: &str) -> Option<i128> {
    const NANOS: i128 = 1_000_000_000;
    let looks_like_seconds = text.bytes().all(|b| b.is_ascii_digit() || b == b'.') && !text.is_empty();
    if looks_like_seconds {
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        let seconds: u64 = seconds.parse().ok()?;
        return Some(i128::from(seconds) * NANOS + i128::from(nanos(fraction)?));
    }
    let (date, time) = text.split_once(['T', 't']).map_or((text, None), |(d, t)| (d, Some(t)));
    let [year, month, day] = numbers::<3>(date, '-', [4, 2, 2])?;
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?).ok()?;
    let (clock, offset) = match time {
        Some(time) => clock(time)?,
        None => (Time::MIDNIGHT, UtcOffset::UTC),
    };
    Some(date.with_time(clock).assume_offset(offset).unix_timestamp_nanos())
}

/// `hh:mm`, `hh:mm:ss` or `hh:mm:ss.fff`, then `Z`, `±hh:mm`, `±hhmm`, `±hh` or nothing.
fn clock(text: &str) -> Option<(Time, UtcOffset)> {
    let (clock, offset) = match text.find(['Z', 'z', '+', '-']) {
        Some(at) => text.split_at_checked(at)?,
        None => (text, "Z"),
    };
    let offset = match offset {
        "Z" | "z" => UtcOffset::UTC,
        offset => {
            let sign = if offset.starts_with('-') { -1 } else { 1 };
            let digits: String = offset.get(1..)?.chars().filter(|c| *c != ':').collect();
            let (hours, minutes) = match digits.len() {
                2 => (digits.parse::<i8>().ok()?, 0),
                4 => (digits.get(..2)?.parse::<i8>().ok()?, digits.get(2..)?.parse::<i8>().ok()?),
                _ => return None,
            };
            UtcOffset::from_hms(sign * hours, sign * minutes, 0).ok()?
        }
    };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let [hour, minute, second] = match clock.matches(':').count() {
        1 => {
            let [hour, minute] = numbers::<2>(clock, ':', [2, 2])?;
            [hour, minute, 0]
        }
        _ => numbers::<3>(clock, ':', [2, 2, 2])?,
    };
    let part = |n: u32| u8::try_from(n).ok();
    Some((Time::from_hms_nano(part(hour)?, part(minute)?, part(second)?, nanos(fraction)?).ok()?, offset))
}

fn numbers<const N: usize>(text: &str, between: char, lengths: [usize; N]) -> Option<[u32; N]> {
    let mut parts = text.split(between);
    let mut found = [0; N];
    for (slot, length) in found.iter_mut().zip(lengths) {
        let part = parts.next().filter(|p| p.len() == length && p.bytes().all(|b| b.is_ascii_digit()))?;
        *slot = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

/// The digits after the point, as nanoseconds; what is finer is dropped.
fn nanos(fraction: &str) -> Option<u32> {
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let padded: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    padded.parse().ok()
}

/// An address or a network in CIDR form. IPv4-mapped IPv6 is IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    pub fn parse(text: &str) -> Option<Network> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) if prefix.bytes().all(|b| b.is_ascii_digit()) => {
                (address.parse::<IpAddr>().ok()?, Some(prefix.parse::<u32>().ok()?))
            }
            Some(_) => return None,
            None => (text.parse::<IpAddr>().ok()?, None),
        };
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(longest);
        if prefix > longest {
            return None;
        }
        match address.to_canonical() {
            mapped if mapped.is_ipv4() && address.is_ipv6() && prefix >= 96 => {
                Some(Network { address: mapped, prefix: prefix - 96 })
            }
            _ => Some(Network { address, prefix }),
        }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |a: u128, b: u128, bits: u32| match bits.checked_sub(self.prefix) {
            Some(host) => a.checked_shr(host).unwrap_or(0) == b.checked_shr(host).unwrap_or(0),
            None => false,
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(asked)) => same(own.to_bits().into(), asked.to_bits().into(), 32),
            (IpAddr::V6(own), IpAddr::V6(asked)) => same(own.to_bits(), asked.to_bits(), 128),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals() {
        let number = |t: &str| Decimal::parse(t).unwrap();
        for (small, large) in [
            ("-2", "-1"),
            ("-0.5", "0"),
            ("9", "10"),
            ("1.05", "1.5"),
            ("007", "8"),
            ("9007199254740992", "9007199254740993"),
        ] {
            assert!(number(small) < number(large), "{small} {large}");
        }
        for (a, b) in [("1", "1.0"), ("-0", "0"), ("+7", "07"), (".5", "0.50")] {
            assert_eq!(number(a), number(b));
        }
        for bad in ["", ".", "-", "1e3", "0x1", "1.2.3", "NaN", "inf", " 1", "--1"] {
            assert_eq!(Decimal::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn instants() {
        for (a, b) in [
            ("2026-01-01", "2026-01-01T00:00:00Z"),
            ("2026-01-01T01:00:00+01:00", "2026-01-01T00:00Z"),
            ("2026-01-01T01:00:00+0100", "2026-01-01T00:00:00.000Z"),
            ("1970-01-02T00:00:00", "86400"),
            ("1970-01-01T00:00:01.5Z", "1.5"),
            ("2025-12-31T19:30:00-04:30", "2026-01-01T00:00:00Z"),
        ] {
            assert_eq!(instant(a).unwrap(), instant(b).unwrap(), "{a} {b}");
        }
        for bad in ["", "yesterday", "2026-02-30", "2026-13-01", "2026-1-1", "2026-01-01T25:00Z", "2026-01-01T", "é"] {
            assert_eq!(instant(bad), None, "{bad}");
        }
    }

    #[test]
    fn networks() {
        let rows = [
            ("10.1.0.0/16", "10.1.255.255", true),
            ("10.1.0.0/16", "10.2.0.0", false),
            ("10.1.2.3/16", "10.1.9.9", true),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("10.1.0.0/16", "::ffff:10.1.2.3", true),
            ("::ffff:10.1.0.0/112", "10.1.2.3", true),
        ];
        for (network, address, expected) in rows {
            let network = Network::parse(network).unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), expected, "{network:?} {address}");
        }
        for bad in ["10.1.0.0/33", "10.1.0.0/", "10.1.0.0/+8", "10.1", "::/129", "", "*", "10.*.0.0"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }
}
