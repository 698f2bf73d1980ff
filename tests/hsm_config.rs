//! The files under `hsm-config/` that are not the bridge's own configuration.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::path::{Path, PathBuf};

use hsm_bridge::token::Profile;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("hsm-config")
}

#[test]
fn profiles_parse_and_are_named_for_their_file() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory().join("profiles")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let profile: Profile = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(Some(profile.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
        if let Some(contract) = &profile.gcm_iv {
            let known = ["caller", "zeroed-writeback", "luna-append16", "prepended"];
            assert!(known.contains(&contract.as_str()), "{}: gcm_iv `{contract}`", path.display());
        }
        names.push(profile.name);
    }
    names.sort();
    assert_eq!(
        names,
        ["cloudhsm", "kryoptic", "luna", "nshield", "nss", "opencryptoki", "softhsm2", "tpm2", "utimaco", "yubihsm2"]
    );
}

/// Each profile has a page that says where its facts come from, and the table over all names it.
#[test]
fn each_profile_has_a_page() {
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tokens");
    let overview = std::fs::read_to_string(pages.join("README.md")).unwrap();
    for entry in std::fs::read_dir(directory().join("profiles")).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
        let page = std::fs::read_to_string(pages.join(format!("{name}.md"))).unwrap_or_default();
        for part in ["## Least privilege", "[[custom_token]]", "## Limits", "## Known errors", "## Tested"] {
            assert!(page.contains(part), "docs/tokens/{name}.md has no `{part}`");
        }
        assert!(overview.contains(&format!("({name}.md)")), "docs/tokens/README.md does not name {name}");
    }
}

/// What keeps a restart loop from burning PIN tries, and secrets from core files.
#[test]
fn the_unit_keeps_its_promises() {
    let unit = std::fs::read_to_string(directory().join("hsm-bridge.service")).unwrap();
    let value = |key: &str| {
        let mut values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        values.next().unwrap_or_else(|| panic!("no {key}=")).to_owned()
    };
    assert_eq!(value("Restart"), "on-failure");
    assert!(value("RestartPreventExitStatus").split(' ').any(|status| status == "77"));
    assert!(value("StartLimitBurst").parse::<u32>().unwrap() <= 3);
    assert_eq!(value("StartLimitIntervalSec"), "15min");
    assert_eq!(value("LimitCORE"), "0");
    assert_eq!(value("User"), "hsm-bridge");
    assert!(value("LoadCredential").starts_with("pin:"));
}
