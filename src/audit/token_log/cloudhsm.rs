//! AWS CloudHSM's audit log as CloudWatch Logs has it (log group `/aws/cloudhsm/<cluster>`, one stream per HSM): blocks of
//! `Name: value` lines, each beginning with `Time:`. Written from AWS's description and samples, not from a real cluster.

use super::{Kind, TokenEvent};

/// Longest line that is looked at; longer ones are no lines of this log.
const MAX_LINE: usize = 4096;

/// Puts blocks together, line by line.
#[derive(Debug, Default)]
pub struct Parser {
    block: Block,
    /// Lines that were no part of any event.
    pub not_understood: u64,
}

#[derive(Debug, Default)]
struct Block {
    time: Option<i64>,
    sequence: Option<u64>,
    reboot_counter: Option<u64>,
    opcode: Option<String>,
    session: String,
    response: Option<String>,
    user_name: Option<String>,
    user_type: Option<String>,
    key_handles: Vec<String>,
}

impl Parser {
    /// Takes one line; the event that it completes, which is the one before.
    pub fn line(&mut self, line: &str) -> Option<TokenEvent> {
        let line = line.trim();
        if line.is_empty() {
            return None;
        }
        let Some((name, value)) = line.split_once(':').filter(|_| line.len() <= MAX_LINE) else {
            self.not_understood += 1;
            return None;
        };
        let (name, value) = (name.trim(), value.trim());
        let mut done = None;
        if name == "Time" {
            done = self.end();
        }
        let block = &mut self.block;
        match name {
            "Time" => block.time = micros(value),
            "Sequence No" => block.sequence = number(value),
            "Reboot counter" => block.reboot_counter = number(value),
            "Opcode" => block.opcode = Some(value.split_whitespace().next().unwrap_or_default().to_owned()),
            "Session Handle" => block.session = value.to_owned(),
            "Response" => block.response = Some(value.to_owned()),
            "User Name" => block.user_name = Some(value.to_owned()),
            "User Type" => block.user_type = Some(value.split_whitespace().next().unwrap_or_default().to_owned()),
            _ if name.ends_with("Key Handle") => block.key_handles.push(value.to_owned()),
            "Command Type(hex)" | "Log type" => {}
            _ => self.not_understood += 1,
        }
        done
    }

    /// The event of the lines so far, when no more of it will come. What lacks a time, a sequence number, an opcode or a response is
    /// none.
    pub fn end(&mut self) -> Option<TokenEvent> {
        let block = std::mem::take(&mut self.block);
        let begun = block.time.is_some() || block.opcode.is_some();
        let event = block.event();
        if event.is_none() && begun {
            self.not_understood += 1;
        }
        event
    }

    /// Nothing of an event was read since the last one ended.
    pub fn is_between(&self) -> bool {
        self.block.time.is_none() && self.block.opcode.is_none()
    }
}

impl Block {
    fn event(self) -> Option<TokenEvent> {
        let (opcode, response) = (self.opcode?, self.response?);
        // `0:HSM Return: SUCCESS`, `163:HSM Error: RET_USER_LOGIN_FAILURE`
        let told = response.rsplit(':').next().unwrap_or_default().trim().to_owned();
        Some(TokenEvent {
            kind: kind(&opcode),
            time: self.time?,
            sequence: self.sequence?,
            reboot_counter: self.reboot_counter.unwrap_or_default(),
            opcode,
            session: self.session,
            succeeded: told == "SUCCESS",
            response: told,
            user_name: self.user_name,
            user_type: self.user_type,
            key_handles: self.key_handles,
        })
    }
}

fn kind(opcode: &str) -> Kind {
    match opcode {
        "CN_LOGIN" => Kind::Login,
        "CN_GENERATE_KEY" | "CN_GENERATE_KEY_PAIR" => Kind::Generate,
        "CN_DESTROY_OBJECT" | "CN_TOMBSTONE_OBJECT" => Kind::Destroy,
        "CN_LOGOUT" | "CN_CLOSE_SESSION" => Kind::Other,
        _ => Kind::NotOurs,
    }
}

/// `12/13/17 23:09:04.761594, usecs:1513206544761594`
fn micros(value: &str) -> Option<i64> {
    value.rsplit_once("usecs:")?.1.trim().parse().ok()
}

/// `0x29` or decimal.
fn number(value: &str) -> Option<u64> {
    match value.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => value.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
Time: 12/13/17 23:09:04.761594, usecs:1513206544761594
Sequence No: 0x29
Reboot counter: 0xe8
Command Type(hex): CN_MGMT_CMD (0x0)
Opcode: CN_GENERATE_KEY_PAIR (0x19)
Session Handle: 0x2014004
Response: 0:HSM Return: SUCCESS
Log type: MGMT_KEY_DETAILS_LOG (1)
Priv/Secret Key Handle: 131079
Public Key Handle: 131078

Time: 12/13/17 23:10:00.000001, usecs:1513206600000001
Sequence No : 0x2a
Reboot counter : 0xe8
Command Type(hex) : CN_MGMT_CMD (0x0)
Opcode : CN_LOGIN (0xd)
Session Handle : 0x2014005
Response : 163:HSM Error: RET_USER_LOGIN_FAILURE
Log type : MGMT_USER_DETAILS_LOG (2)
User Name : crypto_user
User Type : CN_CRYPTO_USER (1)
";

    fn events(text: &str) -> (Vec<TokenEvent>, u64) {
        let mut parser = Parser::default();
        let mut events: Vec<_> = text.lines().filter_map(|line| parser.line(line)).collect();
        events.extend(parser.end());
        (events, parser.not_understood)
    }

    #[test]
    fn the_documented_blocks() {
        let (events, not_understood) = events(SAMPLE);
        assert_eq!((events.len(), not_understood), (2, 0));
        let made = &events[0];
        assert_eq!((made.kind, made.sequence, made.reboot_counter), (Kind::Generate, 0x29, 0xe8));
        assert_eq!((made.time, made.succeeded), (1_513_206_544_761_594, true));
        assert_eq!(made.key_handles, ["131079", "131078"]);
        let login = &events[1];
        assert_eq!(
            (login.kind, login.succeeded, login.response.as_str()),
            (Kind::Login, false, "RET_USER_LOGIN_FAILURE")
        );
        assert_eq!(login.user_name.as_deref(), Some("crypto_user"));
        assert_eq!(login.user_type.as_deref(), Some("CN_CRYPTO_USER"));
    }

    #[test]
    fn what_the_bridge_never_does_is_not_ours() {
        for opcode in [
            "CN_CREATE_USER",
            "CN_CHANGE_PSWD",
            "CN_WRAP_KEY",
            "CN_EXTRACT_MASKED_OBJECT_USER",
            "CN_INIT_TOKEN",
            "CN_NEW",
        ] {
            assert_eq!(kind(opcode), Kind::NotOurs, "{opcode}");
        }
    }

    #[test]
    fn half_a_block_is_counted_and_no_event() {
        let (events, not_understood) = events("Time: x, usecs:1\nOpcode: CN_LOGIN (0xd)\nwithout a colon\n");
        assert!(events.is_empty());
        assert_eq!(not_understood, 2);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(?s).{0,400}") {
            events(&text);
        }
    }
}
