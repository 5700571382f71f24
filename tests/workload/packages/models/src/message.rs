//! Requests and responses between the services.

use crate::{DecodeError, Model, Order, Quote, Value};

/// What one service asks of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// What does this order cost?
    Quote(Order),
    /// What have you done so far?
    Stats,
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    Quote {
        order: u32,
        quote: Quote,
    },
    Refused {
        order: u32,
        reason: String,
    },
    Stats(Stats),
    /// The request could not be understood, or a service behind this one failed.
    Failed {
        reason: String,
    },
}

/// Counters since the service started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub quoted: u64,
    pub refused: u64,
    /// How many of `quoted` came out of the cache.
    pub cached: u64,
}

fn kind(name: &str) -> (&'static str, Value) {
    ("kind", Value::Text(name.to_owned()))
}

impl Model for Request {
    fn to_value(&self) -> Value {
        match self {
            Request::Quote(order) => Value::map([kind("quote"), ("order", order.to_value())]),
            Request::Stats => Value::map([kind("stats")]),
        }
    }

    fn from_value(value: &Value) -> Result<Self, DecodeError> {
        match value.text("kind")? {
            "quote" => Ok(Request::Quote(Order::from_value(value.field("order")?)?)),
            "stats" => Ok(Request::Stats),
            _ => Err(DecodeError::Field { name: "kind", expected: "a kind of request" }),
        }
    }
}

impl Model for Response {
    fn to_value(&self) -> Value {
        let number = |id: &u32| Value::Number((*id).into());
        let text = |text: &str| Value::Text(text.to_owned());
        match self {
            Response::Quote { order, quote } => {
                Value::map([kind("quote"), ("order", number(order)), ("quote", quote.to_value())])
            }
            Response::Refused { order, reason } => {
                Value::map([kind("refused"), ("order", number(order)), ("reason", text(reason))])
            }
            Response::Stats(stats) => Value::map([
                kind("stats"),
                ("quoted", Value::Number(stats.quoted)),
                ("refused", Value::Number(stats.refused)),
                ("cached", Value::Number(stats.cached)),
            ]),
            Response::Failed { reason } => Value::map([kind("failed"), ("reason", text(reason))]),
        }
    }

    fn from_value(value: &Value) -> Result<Self, DecodeError> {
        let reason = || value.text("reason").map(str::to_owned);
        match value.text("kind")? {
            "quote" => Ok(Response::Quote {
                order: value.number("order")?,
                quote: Quote::from_value(value.field("quote")?)?,
            }),
            "refused" => Ok(Response::Refused { order: value.number("order")?, reason: reason()? }),
            "stats" => Ok(Response::Stats(Stats {
                quoted: value.number("quoted")?,
                refused: value.number("refused")?,
                cached: value.number("cached")?,
            })),
            "failed" => Ok(Response::Failed { reason: reason()? }),
            _ => Err(DecodeError::Field { name: "kind", expected: "a kind of response" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Samples;

    #[test]
    fn requests_survive_the_wire() {
        for order in Samples::new(1).take(200) {
            let request = Request::Quote(order);
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
        assert_eq!(Request::decode(&Request::Stats.encode()), Ok(Request::Stats));
    }

    #[test]
    fn responses_survive_the_wire() {
        let reason = "it said \"no\"".to_owned();
        let stats = Stats { quoted: 3, refused: 2, cached: 1 };
        for response in [
            Response::Refused { order: u32::MAX, reason: reason.clone() },
            Response::Stats(stats),
            Response::Failed { reason },
        ] {
            assert_eq!(Response::decode(&response.encode()), Ok(response));
        }
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        let error = Request::decode(br#"{"kind":"refund"}"#).unwrap_err();
        assert_eq!(error, DecodeError::Field { name: "kind", expected: "a kind of request" });
    }
}
