use std::collections::BTreeMap;

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
    let authz = Authz { hide_policy_type: false, grants_suffice_cross_account: true, allow_unknown_accounts: false };
    assert_eq!(config.authz, authz);
    assert!(config.operator.allows("doctor") && !config.operator.allows("Decrypt"));
}

#[test]
fn refusals() {
    let listener = "address = \"127.0.0.1:8443\"";
    let pin = "pin_file = \"pin\"";
    let label = "label = \"bridge\"";
    let custom = |lines: &str| format!("{MINIMAL}[[custom_token]]\n{lines}");
    let two = |first: &str, second: &str| format!("{MINIMAL}[[custom_token]]\n{first}\n[[custom_token]]\n{second}");
    let rotation = |line: &str| format!("{MINIMAL}[rotation]\n{line}");
    for (text, expected) in [
        (custom("label = 'c'"), "`custom_token[0].name` is missing"),
        (custom("name = 'c'"), "`custom_token[0].label` is missing: name the token by"),
        (custom("name = 'default'\nlabel = 'c'"), "`custom_token[0].name` at line 13 is `default`"),
        (custom("name = 'a b'\nlabel = 'c'"), "`custom_token[0].name`"),
        (two("name = 'c'\nlabel = 'c'", "name = 'c'\nlabel = 'd'"), "another token has the same"),
        (custom("name = 'c'\nlabel = 'bridge'"), "names the same token as `default`"),
        (two("name = 'c'\nlabel = 'c'", "name = 'd'\nuri = 'pkcs11:token=c'"), "names the same token as `c`"),
        (
            two("name = 'c'\nlabel = 'c'\nserial = '1'", "name = 'd'\nlabel = 'c'\nserial = '1'\nmodule = '/x.so'"),
            "names the same token as `c`",
        ),
        (
            two(
                "name = 'c'\nlabel = 'c'\ncluster_id = 'cluster-abcdefg2345'",
                "name = 'd'\nlabel = 'd'\ncluster_id = 'cluster-abcdefg2345'",
            ),
            "`custom_token[1].cluster_id` at line 19 is also that of the token `c`",
        ),
        (
            custom("name = 'c'\nlabel = 'c'\ncluster_id = 'cluster-1'"),
            "`custom_token[0].cluster_id` at line 15 `cluster-1`",
        ),
        (changed(label, "label = \"b\"\ncluster_id = \"x\""), "`token.cluster_id`"),
        (custom("name = 'c'\nlabel = 'c'\nuser = 'u:p'"), "`custom_token[0].user`"),
        (
            custom("name = 'c'\nlabel = 'c'\nisolation = 'in-process'\nenvironment = { A = 'x' }"),
            "`custom_token[0].environment` at line 16 needs `isolation = \"process\"`",
        ),
        (
            custom("name = 'c'\nlabel = 'c'\nisolation = 'process'\nenvironment = { 'A=B' = 'x' }"),
            "has `A=B`, which cannot be a variable",
        ),
        (rotation("decrypt_alias_mode = 'aws'"), "write `history` or `strict`"),
        (rotation("at_usage = 1.0"), "`rotation.at_usage` at line 13 is `1`: write a share from 0.01 to 0.99"),
        (rotation("at_usage = 0.001"), "from 0.01 to 0.99"),
        (rotation("at_usage = nan"), "from 0.01 to 0.99"),
        (rotation("at_usage = 75"), "write a share such as 0.75"),
        (rotation("max_age_days = 0"), "from 1 to 36500"),
        (
            format!("{MINIMAL}[key_stores]\ncustom_store_key_specs = ['RSA_2047']"),
            "has `RSA_2047`, which is no KeySpec of ours: did you mean `RSA_2048`?",
        ),
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
        (changed(label, "label = \"b\"\nuri = \"pkcs11:token=b\""), "stands beside `uri`"),
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
        (changed(pin, "pin_file = \"pin\"\nisolation = \"thread\""), "write `process` or `in-process`"),
        (
            changed(pin, "pin_file = \"pin\"\nisolation = \"process\"\nworker_command = [\"\", \"a\"]"),
            "`token.worker_command` at line 13 names no program",
        ),
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

    let isolated = |token: &str, custom: &str| {
        let text = changed("pin_file = \"pin\"", &format!("pin_file = \"pin\"\n{token}"));
        let config = parse(&format!("{text}\n[[custom_token]]\nname = 'c'\nlabel = 'c'\n{custom}")).unwrap();
        (config.token.isolation, config.custom_tokens[0].isolation.clone())
    };
    let process = |command: &[&str]| {
        let words: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        Isolation::Process { command: (!words.is_empty()).then_some(words) }
    };
    assert_eq!(isolated("", ""), (process(&[]), process(&[])));
    assert_eq!(isolated("", "isolation = 'in-process'"), (process(&[]), Isolation::InProcess));
    let here = "isolation = 'in-process'";
    assert_eq!(isolated(here, ""), (Isolation::InProcess, Isolation::InProcess));
    assert_eq!(isolated(here, "isolation = 'process'"), (Isolation::InProcess, process(&[])));
    let both = "worker_command = ['w', 'a']";
    assert_eq!(isolated(both, ""), (process(&["w", "a"]), process(&["w", "a"])));
    assert_eq!(isolated(both, "worker_command = []").1, process(&[]));
    assert_eq!(isolated(both, "isolation = 'in-process'").1, Isolation::InProcess);

    let uri = parse(&changed("label = \"bridge\"", "uri = \"pkcs11:serial=0a1b\"")).unwrap();
    assert_eq!(uri.token.selector.serial.as_deref(), Some("0a1b"));
}

#[test]
fn custom_tokens() {
    let text =
        changed("label = \"bridge\"", "label = \"bridge\"\nprofile = \"p.toml\"\ncluster_id = \"cluster-abcdefg2345\"");
    let config = parse(&format!(
        "{text}[[custom_token]]\nname = 'c'\nlabel = 'c'\n[[custom_token]]\nname = 'd'\nserial = '1'\nmodule = 'm.so'\n\
         cluster_id = 'cluster-ABCDEFGHIJK23456'\nuser = 'crypto'\nidentity_certificate = 'identity'\nworkers = 4\n\
         [[custom_token]]\nname = 'e'\nlabel = 'c'\nmodule = 'm.so'\n"
    ))
    .unwrap();
    assert_eq!(config.token.cluster.unwrap().as_str(), "cluster-abcdefg2345");
    let [c, d, _] = config.custom_tokens.try_into().unwrap();
    assert_eq!(
        (c.module.as_path(), c.profile.as_deref()),
        (config.token.module.as_path(), config.token.profile.as_deref())
    );
    assert_eq!((c.user.as_str(), c.cluster, c.identity_certificate), ("kmsuser", None, None));
    assert_eq!((c.workers, c.queue), (2, 1024));
    assert_eq!((c.deadline, c.generate_deadline), (Duration::from_secs(10), Duration::from_secs(60)));
    assert_eq!((d.module.as_path(), d.profile), (Path::new("/etc/hsm-bridge/m.so"), None));
    assert_eq!((d.user.as_str(), d.identity_certificate.as_deref(), d.workers), ("crypto", Some("identity"), 4));
    assert_eq!(d.cluster.unwrap().as_str(), "cluster-ABCDEFGHIJK23456");
}

#[test]
fn several_tokens_with_the_same_keys() {
    let none = parse(MINIMAL).unwrap().token.together;
    assert_eq!((none.members.len(), none.reads, none.require), (0, Reads::Preferred, 1));
    let text = "reads = 'spread'\nrequire_members = 2\n[[token.member]]\nname = 'b'\nserial = '02'\npin_env = 'B'\n\
                [[token.member]]\nname = 'c'\nmodule = 'm.so'\nlabel = 'x'\n\
                [[custom_token]]\nname = 'k'\nserial = '03'\n[[custom_token.member]]\nname = 'l'\nserial = '04'\n";
    let config = parse(&format!("{MINIMAL}{text}")).unwrap();
    let together = &config.token.together;
    assert_eq!((together.reads, together.require), (Reads::Spread, 2));
    let [b, c] = &together.members[..] else { panic!("two members") };
    assert_eq!((b.name.as_str(), &b.module), ("b", &config.token.module));
    assert_eq!((b.selector.serial.as_deref(), &b.pin), (Some("02"), &Some(PinSource::Environment("B".into()))));
    assert_eq!((c.module.as_path(), &c.pin), (Path::new("/etc/hsm-bridge/m.so"), &None));
    let custom = &config.custom_tokens[0].together;
    assert_eq!((custom.members.len(), custom.reads, custom.require), (1, Reads::Preferred, 1));
    for (text, told) in [
        ("reads = 'both'\n", "write `preferred` or `spread`"),
        ("require_members = 2\n", "write a number from 1 to 1"),
        ("[[token.member]]\nname = 'default'\nserial = '02'\n", "another member has the same"),
        ("[[token.member]]\nname = 'b'\nlabel = 'bridge'\n", "names the same token as `default`"),
        ("[[token.member]]\nname = 'b/c'\nserial = '02'\n", "is not a name"),
        ("[[token.member]]\nserial = '02'\n", "`token.member[0].name` is missing"),
        (
            "[[token.member]]\nname = 'b'\nserial = '02'\n[[custom_token]]\nname = 'k'\nserial = '02'\n",
            "names the same token as `b`",
        ),
    ] {
        let shown = parse(&format!("{MINIMAL}{text}")).unwrap_err().to_string();
        assert!(shown.contains(told), "{shown}");
    }
}

#[test]
fn rotation_and_key_stores() {
    let config = parse(MINIMAL).unwrap();
    let defaults = Rotation {
        decrypt_alias_mode: DecryptAliasMode::History,
        at_usage: None,
        max_age_days: 365,
        retire_unused_days: 30,
    };
    assert_eq!((config.rotation, config.key_stores.custom_store_key_specs), (defaults, vec![]));
    let text = "[rotation]\ndecrypt_alias_mode = 'strict'\nat_usage = 0.75\nmax_age_days = 90\nretire_unused_days = 1\n\
                [key_stores]\ncustom_store_key_specs = ['SYMMETRIC_DEFAULT', 'RSA_2048', 'HMAC_256']";
    let config = parse(&format!("{MINIMAL}{text}")).unwrap();
    let set = Rotation {
        decrypt_alias_mode: DecryptAliasMode::Strict,
        at_usage: Some(750),
        max_age_days: 90,
        retire_unused_days: 1,
    };
    assert_eq!(config.rotation, set);
    assert_eq!(config.key_stores.custom_store_key_specs, [KeySpec::Rsa2048, KeySpec::Hmac256]);
}

/// What may be allowed is what commands ask for.
#[test]
fn operator_actions_are_the_permissions_of_commands() {
    let sources =
        [include_str!("../ops/task/commands.rs"), include_str!("../ops/iam.rs"), include_str!("../ops/audit_keys.rs")];
    let bodies =
        sources.map(|source| source.split("pub fn permission").nth(1).unwrap().split("pub fn name").next().unwrap());
    let asked: BTreeSet<&str> = bodies.iter().flat_map(|body| body.split('"').skip(1).step_by(2)).collect();
    assert_eq!(asked, OPERATOR_ACTIONS.iter().copied().collect());
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
    assert_eq!(example.authz, minimal.authz);
    assert_eq!(example.operator, minimal.operator);
    assert_eq!(example.sweeper, minimal.sweeper);
    assert_eq!(example.limits, minimal.limits);
    assert_eq!(example.log, minimal.log);
    assert_eq!(example.custom_tokens, minimal.custom_tokens);
    assert_eq!(example.key_stores, minimal.key_stores);
    assert_eq!(example.rotation, minimal.rotation);
    let sizes = |token: Token| {
        (
            token.workers,
            token.queue,
            token.deadline,
            token.generate_deadline,
            token.retry_first,
            token.retry_longest,
            token.hang_grace,
        )
    };
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
        .chain(
            document::NESTED
                .iter()
                .flat_map(|(section, name, keys)| keys.iter().map(move |key| format!("{section}.{name}.{key}"))),
        )
        // Shown as sections of their own.
        .filter(|path| !document::NESTED.iter().any(|(section, name, _)| *path == format!("{section}.{name}")))
        .collect();
    assert_eq!(shown, known);
}

/// Each key that the example does not set is accepted when it is set, in place of those of its section that it excludes.
#[test]
fn what_the_example_leaves_out_is_valid_too() {
    const EXCLUDES: &[(&str, &[&str])] =
        &[("uri", &["label"]), ("pin_credential", &["pin_file"]), ("pin_env", &["pin_file"])];
    /// Keys that another one, or a section that is left out as a whole, needs beside it.
    const TOGETHER: &[&[&str]] = &[
        &["[[listener]]", "certificate", "key"],
        // `environment` is for worker processes alone.
        &["[[custom_token]]", "name", "label", "isolation"],
        &["[[audit_sink]]", "name", "kind", "address", "url", "secret_file", "certificate", "key"],
        &["[[token_log]]", "name", "file", "format"],
        &["[[token.member]]", "name", "label"],
        &["[[custom_token.member]]", "name", "label"],
    ];
    let unset = |line: &str| line.starts_with('#') && !line.starts_with("# ");
    let key_of = |line: &str| line.trim_start_matches('#').split(" = ").next().unwrap_or_default().to_owned();
    let mut section = String::new();
    let lines: Vec<(String, &str)> = EXAMPLE
        .lines()
        .map(|line| {
            if line.trim_start_matches('#').starts_with('[') {
                section = line.trim_start_matches('#').to_owned();
            }
            (section.clone(), line)
        })
        .collect();
    let mut count = 0;
    for (place, (section, line)) in lines.iter().enumerate().filter(|(_, (_, l))| unset(l) && l.contains(" = ")) {
        let key = key_of(line);
        let excluded = EXCLUDES.iter().find(|(name, _)| *name == key).map_or(&[][..], |(_, others)| others);
        let needed_of = |section: &str| TOGETHER.iter().find(|keys| keys[0] == section).map_or(&[][..], |keys| keys);
        // `[[custom_token.member]]` stands below `[[custom_token]]`.
        let above = section.replace(".member]]", "]]");
        let text: Vec<&str> = lines
            .iter()
            .enumerate()
            .filter(|(_, (s, l))| s != section || !excluded.contains(&key_of(l).as_str()))
            .map(|(at, (s, l))| {
                let set = at == place
                    || ((s == section || *s == above) && unset(l) && needed_of(s).contains(&key_of(l).as_str()));
                if set { l.trim_start_matches('#') } else { *l }
            })
            .collect();
        let text = text.join("\n").replace("isolation = \"in-process\"", "isolation = \"process\"");
        parse(&text).unwrap_or_else(|error| panic!("{line}: {error}"));
        count += 1;
    }
    assert_eq!(count, 85);
}

#[test]
fn each_worker_process_may_have_variables_of_its_own() {
    let own = |members: &str| {
        let pin = "pin_file = \"pin\"";
        let token = "isolation = 'process'\nenvironment = { A = '1', B = '2' }";
        parse(&(changed(pin, &format!("{pin}\n{token}")) + members)).unwrap()
    };
    let pairs = |environment: &BTreeMap<String, String>| {
        environment.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    };
    let config = own("[[token.member]]\nname = 'b'\nlabel = 'bridge'\nenvironment = { B = '3', C = '4' }\n\
         [[token.member]]\nname = 'c'\nlabel = 'other'\n\
         [[custom_token]]\nname = 'k'\nlabel = 'bridge'\nenvironment = { A = '5' }\n\
         [[custom_token.member]]\nname = 'l'\nlabel = 'bridge'\nenvironment = { B = '6' }\n");
    let [b, c] = &config.token.together.members[..] else { panic!("two members") };
    assert_eq!(pairs(&config.token.environment), "A=1 B=2");
    assert_eq!(pairs(&b.environment), "A=1 B=3 C=4", "one label in two places is two tokens");
    assert_eq!(pairs(&c.environment), "A=1 B=2");
    let custom = &config.custom_tokens[0];
    assert_eq!(pairs(&custom.environment), "A=5 B=2");
    assert_eq!(pairs(&custom.together.members[0].environment), "A=5 B=6");
    let pin = "pin_file = \"pin\"";
    let text = changed(pin, &format!("{pin}\nisolation = 'in-process'\nenvironment = {{ A = '1' }}"))
        + "[[token.member]]\nname = 'b'\nlabel = 'b'\nenvironment = { A = '2' }\n";
    let refused = parse(&text).unwrap_err().to_string();
    assert!(refused.contains("`token.member[0].environment`") && refused.contains("needs `isolation = "), "{refused}");
}

fn sinks(text: &str) -> Result<Vec<AuditSink>, ConfigError> {
    parse(&format!("{EXAMPLE}\n{text}")).map(|config| config.audit_sinks)
}

#[test]
fn sinks_of_the_log() {
    assert_eq!(sinks("").unwrap(), []);
    let target = |text: &str| sinks(&format!("[[audit_sink]]\nname = 'x'\n{text}")).unwrap().remove(0).target;
    for (address, tls, expected) in [
        ("siem.example.net", "true", ("siem.example.net", 6514)),
        ("siem.example.net:10514", "true", ("siem.example.net", 10514)),
        ("[2001:db8::1]", "true", ("2001:db8::1", 6514)),
        ("[::1]:601", "false", ("::1", 601)),
    ] {
        match target(&format!("kind = 'syslog'\naddress = '{address}'\ntls = {tls}")) {
            SinkTarget::Syslog { host, port, trust, .. } => {
                assert_eq!((host.as_str(), port), expected);
                assert_eq!(trust.is_some(), tls == "true");
            }
            other => panic!("{other:?}"),
        }
    }
    for (text, expected) in [
        ("name = 'A'\nkind = 'syslog'\naddress = 'x'", "is not a name"),
        ("name = '../x'\nkind = 'syslog'\naddress = 'x'", "is not a name"),
        ("name = 'x'\nkind = 'kafka'", "is `kafka`: write `syslog`, `webhook` or `otlp`"),
        ("name = 'x'\nkind = 'syslog'", "`audit_sink[0].address` is missing"),
        ("name = 'x'\nkind = 'syslog'\naddress = 'x'\ntls = false", "has no port"),
        ("name = 'x'\nkind = 'syslog'\naddress = 'x:0'", "write `host` or `host:port`"),
        ("name = 'x'\nkind = 'syslog'\naddress = 'x:99999'", "write `host` or `host:port`"),
        ("name = 'x'\nkind = 'syslog'\naddress = '[::1'", "write `host` or `host:port`"),
        ("name = 'x'\nkind = 'syslog'\naddress = 'x:1'\ntls = false\nca = 'y'", "certificates are for TLS"),
        ("name = 'x'\nkind = 'syslog'\naddress = 'x'\nurl = 'https://x/'", "is nothing for a sink of kind `syslog`"),
        ("name = 'x'\nkind = 'syslog'\naddress = 'x'\nmax_message_bytes = 100", "write a number from 2048"),
        ("name = 'x'\nkind = 'webhook'\nurl = 'https://x/'", "`audit_sink[0].secret_file` is missing"),
        ("name = 'x'\nkind = 'webhook'\nurl = 'http://x/'\nsecret_file = 's'", "write https"),
        ("name = 'x'\nkind = 'webhook'\nurl = 'https://a:b@x/'\nsecret_file = 's'", "holds credentials"),
        ("name = 'x'\nkind = 'webhook'\nurl = 'https://x/'\nsecret = 'canary'", "unknown key `audit_sink[0].secret`"),
        ("name = 'x'\nkind = 'otlp'\nurl = 'https://x/'\nsecret_file = 's'", "is nothing for a sink of kind `otlp`"),
        ("name = 'x'\nkind = 'otlp'\nurl = 'https://x/'\ncertificate = 's'", "`certificate` is set"),
        ("name = 'x'\nkind = 'otlp'\nurl = 'https://x/'\nstart = 'then'", "write `oldest` or `now`"),
        (
            "name = 'x'\nkind = 'otlp'\nurl = 'https://x/'\n[[audit_sink]]\nname = 'x'\nkind = 'otlp'\nurl = 'https://y/'",
            "another sink has the same",
        ),
    ] {
        let refused = sinks(&format!("[[audit_sink]]\n{text}")).unwrap_err().to_string();
        assert!(refused.contains(expected) && !refused.contains("canary"), "{text}: {refused}");
    }
}
