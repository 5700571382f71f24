//! What an error of the S3 client means.
//!
//! The client keeps its type for refused requests to itself, so the status and the code of the
//! server are taken from its text.

use crate::tier::Class;
use object_store::client::HttpError;
use std::error::Error;

/// The class of an error.
pub(super) fn class(error: &object_store::Error) -> Class {
    let mut texts = Vec::new();
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut transport = false;
    while let Some(error) = cause {
        texts.push(error.to_string());
        transport |= error.is::<HttpError>();
        cause = error.source();
    }
    let text = texts.join("\n");
    if text.contains("169.254.") {
        // The end of the chain of credentials: there is nothing before the instance, and no instance.
        return Class::Refused;
    }
    by_code(code(&text)).or_else(|| status(&text).map(by_status)).unwrap_or(match error {
        object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. }
        | object_store::Error::NotFound { .. }
        | object_store::Error::InvalidPath { .. } => Class::Refused,
        _ if transport => Class::Unreachable,
        _ => Class::Corrupt,
    })
}

/// What to do about it, where the class alone does not say it.
pub(super) fn advice(error: &object_store::Error) -> Option<&'static str> {
    let text = error.to_string();
    if text.contains("169.254.") {
        return Some("there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY");
    }
    match code(&text)? {
        "RequestTimeTooSkewed" => {
            Some("the clock of this machine is wrong by more than the server takes")
        }
        "NoSuchBucket" => Some("there is no such bucket"),
        "AccessDenied" => Some("these credentials may not do that"),
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" => {
            Some("the server does not know these credentials")
        }
        _ => None,
    }
}

fn code(text: &str) -> Option<&str> {
    let (code, _) = text.split_once("<Code>")?.1.split_once("</Code>")?;
    Some(code.trim())
}

fn status(text: &str) -> Option<u16> {
    text.split_once("status code: ")?.1.get(..3)?.parse().ok()
}

fn by_code(code: Option<&str>) -> Option<Class> {
    Some(match code? {
        "SlowDown"
        | "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "TooManyRequests" => Class::Throttled,
        "QuotaExceeded" | "InsufficientCapacity" | "XMinioStorageFull" | "ServiceQuotaExceeded" => {
            Class::Full
        }
        "NoSuchBucket" | "RequestTimeTooSkewed" => Class::Refused,
        _ => return None,
    })
}

fn by_status(status: u16) -> Class {
    match status {
        // With the second S3 says that too, and an answer to HEAD has no code.
        429 | 503 => Class::Throttled,
        507 => Class::Full,
        // A piece that is shorter than it was listed.
        416 => Class::Corrupt,
        408 | 500.. => Class::Unreachable,
        _ => Class::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(text: &str) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: text.into() }
    }

    #[test]
    fn errors_have_the_class_that_says_what_to_do() {
        let said = "Server returned non-2xx status code: ";
        for (text, expected) in [
            ("503 Service Unavailable: <Error><Code>SlowDown</Code></Error>", Class::Throttled),
            ("429 Too Many Requests: ", Class::Throttled),
            ("503 Service Unavailable: ", Class::Throttled),
            ("500 Internal Server Error: <Code>InternalError</Code>", Class::Unreachable),
            ("507 Insufficient Storage: ", Class::Full),
            ("403 Forbidden: <Code>QuotaExceeded</Code>", Class::Full),
            ("403 Forbidden: <Code>RequestTimeTooSkewed</Code>", Class::Refused),
            ("404 Not Found: <Code>NoSuchBucket</Code>", Class::Refused),
            ("400 Bad Request: ", Class::Refused),
            ("416 Range Not Satisfiable: ", Class::Corrupt),
        ] {
            assert_eq!(class(&failed(&format!("{said}{text}"))), expected, "{text}");
        }
        assert_eq!(class(&failed("unexpected content range")), Class::Corrupt);
        assert_eq!(class(&failed("GET http://169.254.169.254/latest")), Class::Refused);
        let skewed = failed("status code: 403: <Code>RequestTimeTooSkewed</Code>");
        assert!(advice(&skewed).unwrap().contains("clock"));
    }
}
