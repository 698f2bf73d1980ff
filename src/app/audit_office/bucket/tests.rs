use super::*;
use proptest::prelude::*;

fn bucket(keys: &[&str]) -> (tempfile::TempDir, Bucket) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("bucket");
    for key in keys {
        let path = root.join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, key.as_bytes()).unwrap();
    }
    (dir, Bucket::new(root))
}

/// All pages of a listing, keys and common prefixes (with a `*`) in the order told.
fn pages(bucket: &Bucket, request: &ListObjects) -> Vec<String> {
    let (mut shown, mut request) = (Vec::new(), request.clone());
    loop {
        let page = bucket.list(request.clone()).unwrap();
        assert!(page.objects.len() + page.common_prefixes.len() <= request.max_keys as usize);
        let mut items: Vec<String> = page.objects.into_iter().map(|object| object.key).collect();
        items.extend(page.common_prefixes.into_iter().map(|prefix| format!("{prefix}*")));
        items.sort_by(|a, b| a.trim_end_matches('*').cmp(b.trim_end_matches('*')));
        shown.extend(items);
        match page.next {
            Some(next) => request.after = next,
            None => return shown,
        }
    }
}

fn ask(prefix: &str, after: &str, delimiter: Option<&str>, max_keys: u32) -> ListObjects {
    let delimiter = delimiter.map(str::to_owned);
    ListObjects { prefix: prefix.into(), after: after.into(), delimiter, max_keys, ..ListObjects::default() }
}

#[test]
fn keys_come_in_the_order_of_their_bytes() {
    let (_dir, bucket) = bucket(&["A/C/x", "A/C-D/x", "A/C-D/x.meta", "A/C.d", "A/y.new", "B", ".hidden/x"]);
    std::fs::create_dir_all(bucket.root.join("empty/er")).unwrap();
    let all = ["A/C-D/x", "A/C.d", "A/C/x", "B"];
    for max_keys in [1, 2, 3, 4, 1000] {
        assert_eq!(pages(&bucket, &ask("", "", None, max_keys)), all, "{max_keys}");
        assert_eq!(pages(&bucket, &ask("", "", Some("/"), max_keys)), ["A/*", "B"], "{max_keys}");
        assert_eq!(pages(&bucket, &ask("A/", "", Some("/"), max_keys)), ["A/C-D/*", "A/C.d", "A/C/*"], "{max_keys}");
        assert_eq!(pages(&bucket, &ask("", "", Some("C"), max_keys)), ["A/C*", "B"], "{max_keys}");
    }
    assert_eq!(pages(&bucket, &ask("A/C", "A/C.", None, 2)), ["A/C.d", "A/C/x"]);
    assert_eq!(pages(&bucket, &ask("C", "", None, 2)), [""; 0]);
    let none = bucket.list(ask("", "", None, 0)).unwrap();
    assert!(none.objects.is_empty() && none.next.is_none());
    assert_eq!(bucket.last("A/").unwrap().unwrap().key, "A/C/x");
    assert_eq!(bucket.last("empty/").unwrap(), None);
    assert!(Bucket::new("/nowhere".into()).list(ask("", "", None, 5)).unwrap().objects.is_empty());
}

#[test]
fn a_page_looks_only_where_it_has_to() {
    let keys = ["2026/01/a", "2026/02/a", "2026/03/a"];
    let (_dir, bucket) = bucket(&keys);
    // What cannot be read was not looked at; root reads it all the same, so that a file stands in its place.
    std::fs::remove_dir_all(bucket.root.join("2026/01")).unwrap();
    std::os::unix::fs::symlink("/proc/self/mem", bucket.root.join("2026/01")).unwrap();
    assert_eq!(pages(&bucket, &ask("2026/0", "2026/02", None, 1)), ["2026/02/a", "2026/03/a"]);
    let page = |prefix: &str, after: &str| {
        let request = ask(prefix, after, None, 1000);
        let page = Page { request: &request, found: Vec::new() };
        let of = |key: &str| page.may_hold(&Entry { path: PathBuf::new(), key: key.to_owned(), is_folder: true });
        ["2026/01/", "2026/02/", "2026/03/", "2027/"].into_iter().filter(|key| of(key)).count()
    };
    assert_eq!((page("", ""), page("2026/02/", ""), page("", "2026/02/a"), page("2026/", "2026/03/b")), (4, 1, 3, 1));
}

#[test]
fn nothing_outside_is_read() {
    let (dir, bucket) = bucket(&["A/x", "A/x.meta", "A/.x"]);
    std::fs::write(dir.path().join("secret"), "s").unwrap();
    std::os::unix::fs::symlink(dir.path().join("secret"), bucket.root.join("link")).unwrap();
    std::os::unix::fs::symlink(dir.path(), bucket.root.join("folder")).unwrap();
    std::os::unix::fs::symlink("x", bucket.root.join("A/inside")).unwrap();
    for key in [
        "../secret",
        "A/../../secret",
        "/etc/passwd",
        "A//x",
        "A/./x",
        "A",
        "A/",
        "link",
        "folder/secret",
        "A/inside",
        "A/x.meta",
        "A/.x",
        "",
        "A/x/y",
        "A/x\0",
    ] {
        let error = bucket.object(key, None, false).unwrap_err();
        assert_eq!(error, OpError::Trail(TrailRefusal::NoSuchKey(key.to_owned())), "{key}");
    }
    assert_eq!(pages(&bucket, &ask("", "", None, 100)), ["A/x"]);
}

#[test]
fn objects_and_ranges() {
    let (_dir, bucket) = bucket(&["A/0123456789.gz"]);
    let path = bucket.root.join("A/0123456789.gz");
    std::fs::write(path.with_extension("gz.meta"), r#"{"signature":"ab","x y":"1","b":"\n"}"#).unwrap();
    std::fs::write(&path, "0123456789").unwrap();
    let read = |range: Option<&str>| bucket.object("A/0123456789.gz", range, false);
    let whole = read(None).unwrap();
    assert_eq!((whole.body.as_deref(), whole.range, whole.facts.size), (Some(&b"0123456789"[..]), None, 10));
    assert_eq!(whole.metadata, [("signature".to_owned(), "ab".to_owned())]);
    for (range, body) in [
        ("bytes=0-0", "0"),
        ("bytes=8-", "89"),
        ("bytes=-3", "789"),
        ("bytes=-30", "0123456789"),
        ("bytes=5-100", "56789"),
        ("bytes=0-1,3-4", "0123456789"),
        ("bytes=4-3", "0123456789"),
        ("lines=0-1", "0123456789"),
        ("bytes=+1-2", "0123456789"),
    ] {
        assert_eq!(read(Some(range)).unwrap().body.unwrap(), body.as_bytes(), "{range}");
    }
    for range in ["bytes=10-", "bytes=10-20", "bytes=-0"] {
        assert_eq!(read(Some(range)).unwrap_err(), OpError::Trail(TrailRefusal::InvalidRange(10)), "{range}");
    }
    let head = bucket.object("A/0123456789.gz", Some("bytes=1-2"), true).unwrap();
    assert_eq!((head.body, head.range, head.facts.size), (None, Some((1, 2)), 10));
}

proptest! {
    /// As a flat list of keys would be paged.
    #[test]
    fn pages_are_those_of_a_flat_list(
        keys in proptest::collection::btree_set("[ab-]{1,2}(/[ab-]{1,2}){0,2}", 0..12),
        prefix in "[ab/-]{0,3}", after in "[ab/-]{0,3}", max_keys in 1u32..5,
    ) {
        // A key cannot be the folder of another one.
        let keys: Vec<&str> = keys.iter().map(String::as_str)
            .filter(|key| !keys.iter().any(|other| other.starts_with(&format!("{key}/")))).collect();
        let (_dir, bucket) = bucket(&keys);
        let mut expected: Vec<&str> =
            keys.into_iter().filter(|key| key.starts_with(&prefix) && *key > after.as_str()).collect();
        expected.sort_unstable();
        prop_assert_eq!(pages(&bucket, &ask(&prefix, &after, None, max_keys)), expected);
    }
}
