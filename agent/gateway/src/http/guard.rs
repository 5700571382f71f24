//! Whom the door answers.
//!
//! A page of a stranger in a browser of this machine may send requests to any address. It cannot read
//! answers of another origin, unless the name of that origin is made to lead here ("DNS rebinding"): so names
//! count that only the owner of this machine gives it, and addresses, which nobody can make lead elsewhere.

use hyper::{HeaderMap, Method, StatusCode, Uri, header};
use std::net::{IpAddr, SocketAddr};

/// Why a request is refused, with what to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) why: &'static str,
}

/// Knows by which names and addresses this agent may be called.
#[derive(Debug)]
pub(super) struct Guard {
    bound: IpAddr,
    names: Vec<String>,
}

impl Guard {
    pub(super) fn new(bound: SocketAddr, names: Vec<String>) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let names = names.into_iter().chain([host]);
        let names = names.map(|name| name.trim_end_matches('.').to_lowercase());
        Self { bound: bound.ip().to_canonical(), names: names.collect() }
    }

    pub(super) fn check(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            let why = "a request names its host once\n";
            return Err(Refusal { status: StatusCode::BAD_REQUEST, why });
        };
        let named =
            |host: &str| uri.host().is_none_or(|told| self.answers(told)) && self.answers(host);
        if !host.to_str().is_ok_and(named) {
            let why = "this agent does not answer to that name; use its address, or add the name to [http] names \
                       in its configuration\n";
            return Err(Refusal { status: StatusCode::FORBIDDEN, why });
        }
        let said = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let strange = matches!(said("sec-fetch-site"), Some("cross-site" | "same-site"));
        if strange && said("sec-fetch-mode") != Some("navigate") {
            let why = "pages of other sites may link to this one, and nothing else\n";
            return Err(Refusal { status: StatusCode::FORBIDDEN, why });
        }
        if method != Method::GET {
            let why = "this door only shows things: GET\n";
            return Err(Refusal { status: StatusCode::METHOD_NOT_ALLOWED, why });
        }
        Ok(())
    }

    /// Whether this is a name or an address of this agent, with or without a port.
    fn answers(&self, host: &str) -> bool {
        let Some(name) = without_port(host) else { return false };
        if let Ok(address) = name.trim_matches(['[', ']']).parse::<IpAddr>() {
            let address = address.to_canonical();
            return address.is_loopback() || self.bound.is_unspecified() || address == self.bound;
        }
        let name = name.trim_end_matches('.').to_lowercase();
        name == "localhost" || name.ends_with(".localhost") || self.names.contains(&name)
    }
}

/// The host of `HOST[:PORT]`; `None` when it is neither.
fn without_port(host: &str) -> Option<&str> {
    let rest =
        host.strip_prefix('[').map_or(Some(0), |inside| inside.find(']').map(|at| at + 2))?;
    let (name, port) = match host[rest..].find(':') {
        Some(at) => (&host[..rest + at], &host[rest + at + 1..]),
        None => (host, ""),
    };
    let good =
        !name.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    good.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(bound: &str) -> Guard {
        Guard::new(bound.parse().unwrap(), vec!["Agent.Example".to_owned()])
    }

    fn checked(guard: &Guard, headers: &[(&'static str, &str)]) -> Result<(), StatusCode> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let uri = Uri::from_static("/");
        guard.check(&Method::GET, &uri, &map).map_err(|refusal| refusal.status)
    }

    #[test]
    fn names_that_others_can_give_this_machine_are_refused() {
        let on_loopback = guard("127.0.0.1:7717");
        for (host, good) in [
            ("127.0.0.1:7717", true),
            ("127.0.0.1", true),
            ("127.3.2.1:80", true),
            ("[::1]:7717", true),
            ("[::ffff:127.0.0.1]", true),
            ("localhost:7717", true),
            ("LOCALHOST.", true),
            ("agent.example:7717", true),
            ("x.localhost", true),
            ("agent.example.evil.example", false),
            ("evil.example:7717", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("192.0.2.1", false),
            ("0.0.0.0", false),
            ("127.0.0.1:7717:7717", false),
            ("127.0.0.1:x", false),
            ("[::1", false),
            ("[::1]x", false),
            ("", false),
            (":7717", false),
            ("user@127.0.0.1", false),
        ] {
            assert_eq!(checked(&on_loopback, &[("host", host)]).is_ok(), good, "{host}");
        }
        let everywhere = guard("0.0.0.0:7717");
        assert_eq!(checked(&everywhere, &[("host", "192.0.2.1:7717")]), Ok(()));
        assert_eq!(checked(&everywhere, &[("host", "evil.example")]), Err(StatusCode::FORBIDDEN));
        let at_one = guard("192.0.2.1:7717");
        assert_eq!(checked(&at_one, &[("host", "192.0.2.1")]), Ok(()));
        assert_eq!(checked(&at_one, &[("host", "192.0.2.2")]), Err(StatusCode::FORBIDDEN));
    }

    #[test]
    fn a_request_names_its_host_once() {
        let guard = guard("127.0.0.1:7717");
        assert_eq!(checked(&guard, &[]), Err(StatusCode::BAD_REQUEST));
        let twice = [("host", "127.0.0.1"), ("host", "evil.example")];
        assert_eq!(checked(&guard, &twice), Err(StatusCode::BAD_REQUEST));
        let mut headers = HeaderMap::new();
        headers.insert("host", "127.0.0.1".parse().unwrap());
        let uri = Uri::from_static("http://evil.example/metrics");
        let refused = guard.check(&Method::GET, &uri, &headers).unwrap_err();
        assert_eq!(refused.status, StatusCode::FORBIDDEN);
    }

    #[test]
    fn pages_of_other_sites_may_link_here_and_nothing_else() {
        let guard = guard("127.0.0.1:7717");
        let from = |site: &str, mode: &str| {
            checked(
                &guard,
                &[("host", "127.0.0.1"), ("sec-fetch-site", site), ("sec-fetch-mode", mode)],
            )
        };
        assert_eq!(from("cross-site", "navigate"), Ok(()));
        assert_eq!(from("same-origin", "cors"), Ok(()));
        assert_eq!(from("none", "navigate"), Ok(()));
        assert_eq!(from("cross-site", "no-cors"), Err(StatusCode::FORBIDDEN));
        assert_eq!(from("same-site", "cors"), Err(StatusCode::FORBIDDEN));
    }
}
