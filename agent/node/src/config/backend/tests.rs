use super::*;
use crate::config::{Flags, Settings, resolve};

fn settings(variables: &[(&str, &str)], file: &str) -> Result<Settings, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("my.toml");
    std::fs::write(&path, file).unwrap();
    let flags = Flags { config: Some(path), ..Flags::default() };
    let environment = |name: &str| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).into()).or((name == "HOME").then(|| "/home/me".into()))
    };
    resolve(&flags, &environment).map_err(|error| error.to_string())
}

fn cache(variables: &[(&str, &str)], file: &str) -> CacheSettings {
    settings(variables, file).unwrap().cache
}

fn s3(cache: &CacheSettings) -> &S3Settings {
    let s3 = |tier: &TierSettings| matches!(tier.backend, Backend::S3(_));
    match cache.tiers.iter().find(|tier| s3(tier)).map(|tier| &tier.backend) {
        Some(Backend::S3(s3)) => s3,
        other => panic!("{other:?}"),
    }
}

fn redis(cache: &CacheSettings) -> &RedisSettings {
    match &cache.tiers[0].backend {
        Backend::Redis(redis) => redis,
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_word_nothing_is_shared() {
    let cache = cache(&[], "");
    assert_eq!((cache.local, cache.tiers.len()), (None, 0));
    assert_eq!(cache.exit_budget, Duration::from_secs(3));
    assert_eq!(cache.write_through, Duration::from_secs(60));
}

#[test]
fn one_variable_is_enough_and_says_more_than_the_file() {
    let file = "[cache]\nbackend = \"s3://of-the-file\"\nexit_budget_seconds = 0.5\nwrite_through_seconds = 7\n";
    let of_file = cache(&[], file);
    assert_eq!(of_file.tiers[0].name.to_string(), "s3://of-the-file");
    assert_eq!(of_file.exit_budget, Duration::from_millis(500));
    assert_eq!(of_file.write_through, Duration::from_secs(7));
    let chain = "redis://host+s3://bucket/prefix";
    let both = cache(&[("CACHE_BACKEND", chain)], file);
    let names: Vec<_> = both.tiers.iter().map(|tier| tier.name.to_string()).collect();
    assert_eq!(names, ["redis://host:6379", "s3://bucket/prefix"]);
    assert_eq!(both.tiers[0].terms.max_size, REDIS_BESIDE, "the bucket has the large ones");
    assert_eq!(both.tiers[1].terms.max_size, u64::MAX);
    assert_eq!(cache(&[("CACHE_BACKEND", "redis://h")], "").tiers[0].terms.max_size, REDIS_ALONE);
}

#[test]
fn the_data_directory_may_stand_in_the_chain() {
    let dir = |variables: &[(&str, &str)], file| settings(variables, file).unwrap().data_dir;
    let local = ("CACHE_BACKEND", "local:///srv/cache+s3://bucket");
    let file = "[agent]\ndata_dir = \"/of/the/file\"\n";
    assert_eq!(dir(&[local], file), PathBuf::from("/srv/cache"));
    assert_eq!(dir(&[local, ("NETBUILD_DATA_DIR", "/named")], file), PathBuf::from("/named"));
    let chained = "[cache]\nbackend = \"local:///of/the/chain\"\n";
    assert_eq!(dir(&[], chained), PathBuf::from("/of/the/chain"));
    assert_eq!(dir(&[], &format!("{file}{chained}")), PathBuf::from("/of/the/file"));
}

#[test]
fn the_variables_of_aws_and_redis_are_taken() {
    let file = "[s3]\nendpoint = \"https://file\"\nregion = \"eu-west-1\"\n";
    let chain = ("CACHE_BACKEND", "s3://bucket");
    let plain = cache(&[chain], "");
    assert_eq!((s3(&plain).endpoint.clone(), s3(&plain).path_style), (None, false));
    let of_file = cache(&[chain], file);
    assert_eq!(s3(&of_file).endpoint.as_deref(), Some("https://file"));
    assert_eq!(
        (s3(&of_file).region.as_deref(), s3(&of_file).path_style),
        (Some("eu-west-1"), true)
    );
    let url = ("AWS_ENDPOINT_URL", "http://127.0.0.1:8333/");
    let of_env = cache(&[chain, url, ("AWS_REGION", "us-east-2")], file);
    assert_eq!(s3(&of_env).endpoint.as_deref(), Some("http://127.0.0.1:8333"));
    assert_eq!(s3(&of_env).region.as_deref(), Some("us-east-2"));
    let in_chain = ("CACHE_BACKEND", "s3://bucket?endpoint=http://other&path_style=false");
    let of_chain = cache(&[in_chain, url], file);
    assert_eq!(s3(&of_chain).endpoint.as_deref(), Some("http://other"));
    assert!(!s3(&of_chain).path_style);

    let bare = ("CACHE_BACKEND", "redis://");
    let here = cache(&[bare], "");
    assert_eq!(here.tiers[0].name.to_string(), "redis://localhost:6379");
    let url = ("REDIS_URL", "rediss://me:geheim@far:7/2");
    let far = cache(&[bare, url], "[redis]\nuser = \"other\"\n");
    assert_eq!(far.tiers[0].name.to_string(), "rediss://far:7/2");
    assert_eq!(redis(&far).server.user.as_deref(), Some("me"));
    let named = cache(
        &[("CACHE_BACKEND", "redis://a"), ("REDIS_PASSWORD", "geheim")],
        "[redis]\nuser = \"other\"\nprefix = \"team\"\n",
    );
    assert_eq!(redis(&named).server.user.as_deref(), Some("other"));
    assert_eq!(redis(&named).server.password.as_ref().map(Secret::reveal), Some("geheim"));
    assert_eq!(redis(&named).prefix, "team");
    for cache in [far, named] {
        assert!(!format!("{cache:?}").contains("geheim"));
    }
}

#[test]
fn policies_and_sizes_are_of_the_section_or_of_the_entry() {
    let chain = ("CACHE_BACKEND", "redis://h?policy=read-only+s3://bucket?min_size=64%20KiB");
    let file =
        "[redis]\npolicy = \"write-through\"\nmax_size = \"2 MiB\"\n[s3]\nmax_size = \"1GB\"\n";
    let cache = cache(&[chain], file);
    let terms = |at: usize| cache.tiers[at].terms;
    assert_eq!((terms(0).writing, terms(0).max_size), (Writing::Never, 2 << 20));
    assert_eq!((terms(1).writing, terms(1).min_size), (Writing::Back, 64 << 10));
    assert_eq!(terms(1).max_size, 1_000_000_000);
    assert!(terms(1).takes(64 << 10) && !terms(1).takes(100));
}

#[test]
fn what_cannot_be_is_named_with_its_place_and_no_password() {
    let chain = |text| [("CACHE_BACKEND", text), ("REDIS_URL", "redis://x:geheim@")];
    for (text, file, parts) in [
        ("redis://h+s4://b", "", vec!["CACHE_BACKEND: entry 2 of 2", "did you mean `s3`?"]),
        ("redis://u:geheim@h?policy=back", "", vec!["entry 1", "policy: `back`", "write-back"]),
        ("s3://bucket", "[s3]\npolicy = \"back\"\n", vec!["my.toml`, s3.policy", "`back`"]),
        ("s3://bucket?max_size=many", "", vec!["entry 1", "max_size: `many`", "64 KiB"]),
        (
            "s3://bucket?min_size=9&max_size=8",
            "",
            vec!["min_size 9 is above max_size 8", "entry 1"],
        ),
        ("s3://bucket?endpoint=host:8333", "", vec!["entry 1", "https://s3.example.com"]),
        ("s3://bucket?endpoint=http://k:geheim@h", "", vec!["AWS_ACCESS_KEY_ID", "entry 1"]),
        ("s3://bucket?path_style=maybe", "", vec!["`maybe`", "`auto`"]),
        ("redis://", "", vec!["REDIS_URL", "redis://HOST"]),
        ("redis://a,b", "", vec!["mode = \"sentinel\"", "entry 1"]),
        ("redis://a", "[redis]\nmode = \"sentinel\"\n", vec!["redis.master", "redis.mode"]),
        ("redis://a", "[redis]\npassword_file = \"/no/such\"\n", vec!["password_file", "/no/such"]),
        ("s3://bucket", "[s3]\nregon = \"x\"\n", vec!["regon", "line 2"]),
        ("s3://bucket", "[s3]\nexpire_days = -1\n", vec!["s3.expire_days", "`-1`"]),
        ("s3://bucket", "[cache]\nexit_budget_seconds = -1\n", vec!["exit_budget_seconds", "`-1`"]),
        ("s3://bucket", "[cache]\nwrite_through_seconds = 3601\n", vec!["write_through_seconds"]),
    ] {
        let error = settings(&chain(text), file).unwrap_err();
        assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
        assert!(!error.contains("geheim"), "{error}");
    }
}
