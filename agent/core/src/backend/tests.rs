use super::*;
use crate::secret::Secret;
use proptest::prelude::*;

fn chain(text: &str) -> Chain {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn names(text: &str) -> Vec<String> {
    chain(text).tiers.iter().map(|tier| tier.name().to_string()).collect()
}

fn redis(text: &str) -> RedisServer {
    match chain(text).tiers.remove(0).place {
        Place::Redis(server) => server,
        Place::S3(bucket) => panic!("{bucket}"),
    }
}

#[test]
fn chains_are_read_as_they_are_written() {
    assert_eq!(chain(""), Chain::default());
    assert_eq!(chain("memory://").local, Some(Local::Memory));
    let both = chain("local://.cache+s3://bucket");
    assert_eq!(both.local, Some(Local::Directory(".cache".into())));
    assert_eq!(both.tiers[0].name().to_string(), "s3://bucket");
    assert_eq!(both.tiers[0].position, 2);
    assert_eq!(
        names("redis://host:6379+s3://bucket/prefix"),
        ["redis://host:6379", "s3://bucket/prefix"]
    );
    assert_eq!(names("s3://one/a/b/+s3://two"), ["s3://one/a/b", "s3://two"]);
    assert_eq!(names("redis://a,b:7,[::1]:8/2"), ["redis://a:6379,b:7,[::1]:8/2"]);
    assert_eq!(names("rediss://host"), ["rediss://host:6379"]);
    assert!(redis("redis://").hosts.is_empty());
}

#[test]
fn a_password_is_understood_and_shown_nowhere() {
    let server = redis("redis://me:p+w%40x@y:1@host:7/3+s3://bucket");
    assert_eq!(server.user.as_deref(), Some("me"));
    assert_eq!(server.password, Some(Secret::new("p+w@x@y:1")));
    assert_eq!((server.hosts[0].clone(), server.database), (("host".into(), 7), 3));
    assert_eq!(redis("redis://:only@host").password, Some(Secret::new("only")));
    assert_eq!(redis("redis://:only@host").user, None);
    let shown = format!("{server:?} {server}");
    assert!(!shown.contains("p+w"), "{shown}");
    for wrong in [
        "redis://me:geheim@host:port",
        "redis://me:geheim@host/x",
        "redis://me:geheim%4@host",
        "rdis://me:geheim@host",
        "me:geheim@host",
        "redis://me:geheim@host?polcy=x",
        "s3://AKIA:geheim@bucket",
        "redis://host:geheim",
    ] {
        let error = wrong.parse::<Chain>().unwrap_err();
        let text = format!("{error} {error:?}");
        let only_place = wrong == "redis://host:geheim";
        assert!(only_place || !text.contains("geheim"), "{text}");
    }
}

#[test]
fn what_stands_behind_the_question_mark_is_checked() {
    let tier = chain("s3://bucket/p?endpoint=http%3A%2F%2F[::1]:9000&policy=read-only").tiers;
    assert_eq!(tier[0].options["endpoint"], "http://[::1]:9000");
    assert_eq!(tier[0].options["policy"], "read-only");
    assert_eq!(tier[0].name().to_string(), "s3://bucket/p");
}

#[test]
fn an_error_says_which_entry_and_what_would_be_right() {
    for (text, parts) in [
        ("redis://h+s4://b", ["entry 2 of 2, `s4://b`", "did you mean `s3`?"]),
        ("ftp://h", ["entry 1 of 1", "there are local, memory, redis, rediss and s3"]),
        ("s3://", ["a bucket is missing", "s3://BUCKET/PREFIX"]),
        ("s3://b", ["`b` is not the name of a bucket", "3 to 63"]),
        ("s3://bucket/a/../b", ["prefix", "`..`"]),
        ("s3://key:secret@bucket", ["`s3://***@bucket`", "AWS_ACCESS_KEY_ID"]),
        ("redis://h:0", ["port", "65535"]),
        ("redis://h/x", ["number of a database", "entry 1"]),
        ("redis://h+redis://h:6379", ["entry 2 of 2", "already"]),
        ("local://a+memory://", ["entry 2 of 2", "only one"]),
        ("local://", ["directory is missing", "local://.cache"]),
        ("memory://x", ["nothing behind it", "entry 1"]),
        ("s3://bucket+", ["entry 2 of 2", "SCHEME://PLACE"]),
        ("s3://bucket?polic=x", ["no option `polic`", "did you mean `policy`?"]),
        ("redis://h?endpoint=x", ["no option `endpoint`", "policy, min_size, max_size"]),
        ("s3://bucket?policy=a&policy=b", ["`policy` is said twice", "entry 1"]),
    ] {
        let error = text.parse::<Chain>().unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
    }
    let many: Vec<String> = (0..9).map(|n| format!("s3://bucket/{n}")).collect();
    assert_eq!(many.join("+").parse::<Chain>(), Err(ChainError::TooMany { count: 9 }));
    assert_eq!("x".repeat(9000).parse::<Chain>(), Err(ChainError::TooLong));
}

proptest! {
    #[test]
    fn whatever_is_written_is_read_or_refused(text in "[a-z0-9:/@+?&=%.,\\[\\]-]{0,60}") {
        let _ = text.parse::<Chain>();
    }

    #[test]
    fn what_is_shown_is_read_as_the_same(
        host in "[a-z][a-z0-9.-]{0,20}", port in 1u16.., database in 0u32..99, tls: bool,
        bucket in "[a-z0-9.-]{3,20}", prefix in "([a-z0-9]{1,8}/?){0,3}",
    ) {
        let scheme = if tls { "rediss" } else { "redis" };
        let text = format!("{scheme}://{host}:{port}/{database}+s3://{bucket}/{prefix}");
        let shown = names(&text).join("+");
        prop_assert_eq!(names(&shown).join("+"), shown);
    }
}
