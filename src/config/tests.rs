use super::*;

const MINIMAL: &str = r#"
[server]
state_dir = "state"
account = "111122223333"
region = "eu-central-1"
[[listener]]
address = "127.0.0.1:8443"
[token]
module = "/usr/lib/softhsm/libsofthsm2.so"
label = "bridge"
pin_file = "pin"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/hsm-bridge"))
}

/// `MINIMAL` with one line replaced, or with lines added to its end.
fn changed(from: &str, to: &str) -> String {
    assert!(MINIMAL.contains(from), "{from}");
    MINIMAL.replace(from, to)
}

fn refusal(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

#[test]
fn defaults() {
    let config = parse(MINIMAL).unwrap();
    assert_eq!(config.server.state_dir, Path::new("/etc/hsm-bridge/state"));
    assert_eq!(config.audit.dir, Path::new("/etc/hsm-bridge/state/audit"));
    assert_eq!(config.token.module, Path::new("/usr/lib/softhsm/libsofthsm2.so"));
    assert_eq!(config.token.pin, PinSource::File("/etc/hsm-bridge/pin".into()));
    assert_eq!(config.listeners, [Listener { address: "127.0.0.1:8443".parse().unwrap(), tls: None }]);
    assert_eq!(config.metrics, Some("127.0.0.1:9464".parse().unwrap()));
    assert_eq!((config.token.workers, config.token.queue), (2, 1024));
    assert_eq!(config.http.drain, Duration::from_secs(25));
    assert_eq!(config.limits.gcm_encryptions, 4_294_967_296);
    assert!(!config.http.danger_plain_http_beyond_loopback && !config.authn.debug_signature_errors);
    assert!(config.operator.allows("doctor") && !config.operator.allows("Decrypt"));
}

#[test]
fn refusals() {
    let listener = "address = \"127.0.0.1:8443\"";
    let pin = "pin_file = \"pin\"";
    let label = "label = \"bridge\"";
    for (text, expected) in [
        (
            changed("account = \"111122223333\"", "account = \"11112222333\""),
            "`server.account` at line 4 `11112222333` is not a 12-digit",
        ),
        (changed("account = \"111122223333\"", ""), "`server.account` is missing"),
        (
            changed("account = \"111122223333\"", "account = 111122223333"),
            "`server.account` at line 4 is of type integer",
        ),
        (changed("region = \"eu-central-1\"", "region = \"EU\""), "`server.region`"),
        (
            changed("region = \"eu-central-1\"", "region = \"eu-central-1\"\naccepted_regions = [\"X\"]"),
            "`server.accepted_regions`",
        ),
        (changed("state_dir = \"state\"", ""), "`server.state_dir` is missing"),
        (changed("[[listener]]\naddress = \"127.0.0.1:8443\"", ""), "at least one `[[listener]]`"),
        (changed(listener, "address = \"localhost:8443\""), "write an IP address and a port"),
        (changed(listener, "address = \"127.0.0.1:8443\"\nkey = \"k\""), "`listener[0].certificate` is missing"),
        (changed(listener, "address = \"127.0.0.1:8443\"\ncertificate = \"c\""), "`listener[0].key` is missing"),
        (changed(listener, "address = \"0.0.0.0:8443\""), "danger_plain_http_beyond_loopback"),
        (
            changed(listener, "address = \"127.0.0.1:8443\"\n[[listener]]\naddress = \"127.0.0.1:8443\""),
            "another listener has the same",
        ),
        (changed(label, ""), "name the token by"),
        (changed(label, "model = \"x\""), "name the token by"),
        (changed(label, "label = \"b\"\nuri = \"pkcs11:token=b\""), "stands beside `token.uri`"),
        (changed(label, "uri = \"pkcs11:model=b\""), "`token.uri` at line 10 names no token"),
        (changed(label, "label = \" \""), "`token.label` at line 10 is empty"),
        (changed(pin, ""), "set `pin_file`, `pin_credential` or `pin_env`"),
        (changed(pin, "pin_file = \"p\"\npin_env = \"P\""), "keep one of"),
        (changed(pin, "pin_credential = \"../p\""), "a name and no path"),
        (changed(pin, "pin_env = \"P=1\""), "and not its value"),
        (changed(pin, "pin = \"12345\""), "a secret never stands in this file"),
        (changed(pin, "pin_file = \"pin\"\nworkers = 65"), "from 1 to 64"),
        (changed(pin, "pin_file = \"pin\"\nworkers = 0"), "from 1 to 64"),
        (changed(pin, "pin_file = \"pin\"\nenvironment = { A = 1 }"), "`token.environment`"),
        (changed(pin, "pin_file = \"pin\"\n[http]\ndrain_seconds = 0"), "`http.drain_seconds` at line 13 is `0`"),
        (
            changed(pin, "pin_file = \"pin\"\n[audit]\nrefuse_below_free_percent = 101"),
            "`audit.refuse_below_free_percent`",
        ),
        (changed(pin, "pin_file = \"pin\"\n[audit]\ntrail = \"a/b\""), "`audit.trail`"),
        (changed(pin, "pin_file = \"pin\"\n[metrics]\naddress = \"on\""), "`metrics.address`"),
        (changed(pin, "pin_file = \"pin\"\n[operator]\nallow = [\"key:lst\"]"), "did you mean `key:list`?"),
        (changed(pin, "pin_file = \"pin\"\n[limits]\ngcm_encryptions = 4294967297"), "from 1 to 4294967296"),
        (changed(pin, "pin_file = \"pin\"\n[log]\nformat = \"xml\""), "write `text` or `json`"),
        (changed(pin, "pin_file = \"pin\"\n[log]\nlevel = \"INFO\""), "`log.level`"),
    ] {
        let shown = refusal(&text);
        assert!(shown.contains(expected), "{expected:?} not in {shown:?}");
    }
}

#[test]
fn what_may_be_said() {
    let tls = changed(
        "address = \"127.0.0.1:8443\"",
        "address = \"0.0.0.0:8443\"\ncertificate = \"c.pem\"\nkey = \"/k.pem\"",
    );
    let listeners = parse(&tls).unwrap().listeners;
    let files = TlsFiles { certificate: "/etc/hsm-bridge/c.pem".into(), key: "/k.pem".into() };
    assert_eq!(listeners[0].tls, Some(files));

    let danger = changed(
        "address = \"127.0.0.1:8443\"",
        "address = \"0.0.0.0:8443\"\n[http]\ndanger_plain_http_beyond_loopback = true",
    );
    assert!(parse(&danger).unwrap().http.danger_plain_http_beyond_loopback);

    let more = "pin_credential = \"pin\"\nenvironment = { SOFTHSM2_CONF = \"x.conf\" }\n[metrics]\naddress = \"off\"\n[operator]\nallow = []";
    let config = parse(&changed("pin_file = \"pin\"", more)).unwrap();
    assert_eq!(config.token.pin, PinSource::Credential("pin".into()));
    assert_eq!(config.token.environment["SOFTHSM2_CONF"], "x.conf");
    assert_eq!(config.metrics, None);
    assert!(!config.operator.allows("doctor"));

    let uri = parse(&changed("label = \"bridge\"", "uri = \"pkcs11:serial=0a1b\"")).unwrap();
    assert_eq!(uri.token.selector.serial.as_deref(), Some("0a1b"));
}

#[test]
fn an_error_names_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bridge.toml");
    assert!(Config::load(&path).unwrap_err().to_string().contains("bridge.toml`: cannot be read"));
    std::fs::write(&path, "[tokn]\n").unwrap();
    assert!(
        Config::load(&path)
            .unwrap_err()
            .to_string()
            .ends_with("bridge.toml`: unknown key `tokn` at line 1: did you mean `token`?")
    );
    std::fs::write(&path, MINIMAL).unwrap();
    assert_eq!(Config::load(&path).unwrap().server.state_dir, directory.path().join("state"));
}

const EXAMPLE: &str = include_str!("../../hsm-config/hsm-bridge.example.toml");

#[test]
fn the_example_loads_and_shows_the_defaults() {
    let example = parse(EXAMPLE).unwrap();
    let minimal = parse(MINIMAL).unwrap();
    assert_eq!(example.server.state_dir, Path::new("/var/lib/hsm-bridge"));
    assert_eq!(example.audit.dir, example.server.state_dir.join("audit"));
    assert_eq!(Audit { dir: minimal.audit.dir.clone(), ..example.audit }, minimal.audit);
    assert_eq!(example.server.accepted_regions, minimal.server.accepted_regions);
    assert_eq!(example.http, minimal.http);
    assert_eq!(example.metrics, minimal.metrics);
    assert_eq!(example.store, minimal.store);
    assert_eq!(example.authn, minimal.authn);
    assert_eq!(example.operator, minimal.operator);
    assert_eq!(example.sweeper, minimal.sweeper);
    assert_eq!(example.limits, minimal.limits);
    assert_eq!(example.log, minimal.log);
    let sizes = |token: Token| (token.workers, token.queue, token.deadline, token.generate_deadline);
    assert_eq!(sizes(example.token), sizes(minimal.token));
}

#[test]
fn the_example_has_every_key_and_no_other() {
    let mut section = String::new();
    let mut shown = BTreeSet::new();
    for line in EXAMPLE.lines() {
        // `#key = …` is a key that is not set; `# text` is prose.
        let line = line.strip_prefix('#').unwrap_or(line);
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, _)) = line.split_once(" = ")
            && !key.starts_with(' ')
        {
            shown.insert(format!("{section}.{key}"));
        }
    }
    let known: BTreeSet<String> = document::KNOWN
        .iter()
        .flat_map(|(section, keys)| keys.iter().map(move |key| format!("{section}.{key}")))
        .collect();
    assert_eq!(shown, known);
}

/// Each key that the example does not set is accepted when it is set, in place of those that it excludes.
#[test]
fn what_the_example_leaves_out_is_valid_too() {
    const EXCLUDES: &[(&str, &[&str])] = &[
        ("uri", &["label"]),
        ("pin_credential", &["pin_file"]),
        ("pin_env", &["pin_file"]),
        ("certificate", &[]),
        ("key", &[]),
    ];
    let key_of = |line: &str| line.split(" = ").next().unwrap_or_default().to_owned();
    let unset = EXAMPLE.lines().filter(|l| l.starts_with('#') && !l.starts_with("# ") && l.contains(" = "));
    let mut count = 0;
    for line in unset {
        let key = key_of(line.trim_start_matches('#'));
        let excluded = EXCLUDES.iter().find(|(name, _)| *name == key).map_or(&[][..], |(_, others)| others);
        let pair = ["certificate", "key"].contains(&key.as_str());
        let text: Vec<&str> = EXAMPLE
            .lines()
            .filter(|l| !excluded.contains(&key_of(l).as_str()))
            .map(|l| {
                let with_it = l == line || (pair && (l.starts_with("#certificate =") || l.starts_with("#key =")));
                if with_it { l.trim_start_matches('#') } else { l }
            })
            .collect();
        parse(&text.join("\n")).unwrap_or_else(|error| panic!("{line}: {error}"));
        count += 1;
    }
    assert_eq!(count, 10);
}
