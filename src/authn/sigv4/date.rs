//! The time at which a request says that it was signed.

use std::fmt::Write;

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

use super::echo;
use crate::authn::AuthnError;

/// A moment with its text in ISO 8601 basic format, as the string to sign has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timestamp {
    /// Seconds since the epoch.
    pub epoch: i64,
    text: String,
}

impl Timestamp {
    pub fn new(epoch: i64) -> Self {
        // Outside the years 1 to 9999 no time can be written; a clock that says so is wrong in any case.
        let moment = OffsetDateTime::from_unix_timestamp(epoch).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (date, time) = (moment.date(), moment.time());
        let mut text = String::with_capacity(16);
        let _ = write!(
            text,
            "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
            date.year(),
            u8::from(date.month()),
            date.day(),
            time.hour(),
            time.minute(),
            time.second()
        );
        Self { epoch, text }
    }

    /// RULE authorization.md §3.1.4: `YYYYMMDDTHHMMSSZ`; a `Date` header may also have the form of RFC 1123.
    pub fn parse(text: &str) -> Result<Self, AuthnError> {
        if let Some(epoch) = basic(text) {
            return Ok(Self { epoch, text: text.to_owned() });
        }
        match rfc1123(text) {
            Some(epoch) => Ok(Self::new(epoch)),
            None => Err(AuthnError::IncompleteSignature(format!(
                "Date must be in ISO-8601 'basic format'. Got '{}'. See http://en.wikipedia.org/wiki/ISO_8601",
                echo(text)
            ))),
        }
    }

    /// `YYYYMMDDTHHMMSSZ`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `YYYYMMDD`.
    pub fn day(&self) -> &str {
        self.text.get(..8).expect("the text is ASCII and has 16 characters")
    }

    /// YYYYMMDD as a number, which sorts as the days do.
    pub fn day_number(&self) -> u32 {
        self.day().parse().expect("the first eight characters are digits")
    }
}

fn basic(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let well_formed = bytes.len() == 16
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            8 => *byte == b'T',
            15 => *byte == b'Z',
            _ => byte.is_ascii_digit(),
        });
    if !well_formed {
        return None;
    }
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u16>().ok();
    let byte = |from: usize| u8::try_from(number(from, from + 2)?).ok();
    epoch(number(0, 4)?.into(), Month::try_from(byte(4)?).ok()?, byte(6)?, byte(9)?, byte(11)?, byte(13)?)
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn rfc1123(text: &str) -> Option<i64> {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    if text.len() != 29 || !text.is_ascii() {
        return None;
    }
    let (weekday, rest) = text.split_once(", ")?;
    if !DAYS.contains(&weekday) || rest.get(11..12)? != " " || rest.get(20..)? != " GMT" {
        return None;
    }
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u16>().ok())?;
    let byte = |from: usize| u8::try_from(digits(rest.get(from..from + 2)?)?).ok();
    let spaced = |at: usize, what: &str| rest.get(at..at + 1) == Some(what);
    if !(spaced(2, " ") && spaced(6, " ") && spaced(14, ":") && spaced(17, ":")) {
        return None;
    }
    let month = MONTHS.iter().position(|name| rest.get(3..6) == Some(*name))?;
    let month = Month::try_from(u8::try_from(month).ok()? + 1).ok()?;
    epoch(digits(rest.get(7..11)?)?.into(), month, byte(0)?, byte(12)?, byte(15)?, byte(18)?)
}

fn epoch(year: i32, month: Month, day: u8, hour: u8, minute: u8, second: u8) -> Option<i64> {
    let date = Date::from_calendar_date(year, month, day).ok()?;
    let time = Time::from_hms(hour, minute, second).ok()?;
    Some(PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_forms() {
        for text in ["20150830T123600Z", "Sun, 30 Aug 2015 12:36:00 GMT"] {
            let time = Timestamp::parse(text).unwrap();
            assert_eq!((time.epoch, time.as_str(), time.day_number()), (1_440_938_160, "20150830T123600Z", 20_150_830));
        }
        assert_eq!(Timestamp::parse("20240229T000000Z").unwrap().epoch, 1_709_164_800);
    }

    #[test]
    fn refusals() {
        for text in [
            "",
            "2015-08-30T12:36:00Z",
            "20150830T123600",
            "20150830t123600z",
            "20150830T123600+",
            "20150230T123600Z",
            "20151330T123600Z",
            "20150830T243600Z",
            "20150830T126000Z",
            "20150830T123660Z",
            "2015083éT12360Z",
            "20150830T123600Z,20150830T123600Z",
            "Sun, 30 Aug 2015 12:36:00 CET",
            "Sun, 30 aug 2015 12:36:00 GMT",
            "Sun, 31 Feb 2015 12:36:00 GMT",
            "Sun, +3 Aug 2015 12:36:00 GMT",
            "Sun,  30 Aug 2015 12:36:0 GMT",
            "Sunday, 30-Aug-15 12:36:00 GMT",
        ] {
            let error = Timestamp::parse(text).unwrap_err();
            assert!(
                matches!(&error, AuthnError::IncompleteSignature(t) if t.starts_with("Date must be in ISO-8601")),
                "{text}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_no_harm(text in any::<String>()) {
            let _ = Timestamp::parse(&text);
        }

        #[test]
        fn nearly_dates_do_no_harm(text in "[0-9 :,TZAugSnéGM+]{16}|[A-Z][a-z]{2}, [0-9+é]{2} [A-Za-z]{3} [0-9]{4} [0-9:é]{8} GMT") {
            let _ = Timestamp::parse(&text);
        }

        #[test]
        fn what_is_written_is_read(epoch in 0i64..253_402_300_800) {
            let time = Timestamp::new(epoch);
            prop_assert_eq!(Timestamp::parse(time.as_str()).unwrap(), time);
        }
    }
}
