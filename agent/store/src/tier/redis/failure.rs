//! What an error of Redis means.

use crate::tier::Class;
use redis::{ErrorKind, RedisError, ServerErrorKind};

/// The class of an error.
pub(super) fn class(error: &RedisError) -> Class {
    match error.kind() {
        ErrorKind::AuthenticationFailed
        | ErrorKind::InvalidClientConfig
        | ErrorKind::EmptySentinelList
        | ErrorKind::Server(ServerErrorKind::NoPerm) => return Class::Refused,
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => return Class::Corrupt,
        _ => {}
    }
    match error.code() {
        // Written where it may not be, for want of memory or of disk.
        Some("OOM" | "MISCONF") => Class::Full,
        Some("NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED") => Class::Refused,
        // A key of ours that somebody else uses for something else.
        Some("WRONGTYPE") => Class::Corrupt,
        _ if error.detail().is_some_and(|text| text.contains("max number of clients")) => {
            Class::Throttled
        }
        // The client wraps what TLS says into an error without a kind.
        _ if error.to_string().contains("invalid peer certificate") => Class::Refused,
        // A master that no Sentinel knows, too: while they choose another one, that is so.
        _ => Class::Unreachable,
    }
}

/// Whether another connection, perhaps to another server, may do better at once.
pub(super) fn wants_other_connection(error: &RedisError) -> bool {
    let elsewhere = matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
    );
    elsewhere || error.is_connection_dropped() || (error.is_io_error() && !error.is_timeout())
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::make_extension_error;

    #[test]
    fn errors_have_the_class_that_says_what_to_do() {
        for (code, detail, expected) in [
            ("OOM", "command not allowed when used memory > 'maxmemory'.", Class::Full),
            ("MISCONF", "Redis is configured to save RDB snapshots", Class::Full),
            ("NOAUTH", "Authentication required.", Class::Refused),
            ("WRONGPASS", "invalid username-password pair", Class::Refused),
            ("WRONGTYPE", "Operation against a key", Class::Corrupt),
            ("ERR", "max number of clients reached", Class::Throttled),
            ("ERR", "unknown", Class::Unreachable),
        ] {
            let error = make_extension_error(code.into(), Some(detail.into()));
            assert_eq!(class(&error), expected, "{code} {detail}");
        }
        let dropped = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(class(&dropped.into()), Class::Unreachable);
    }
}
