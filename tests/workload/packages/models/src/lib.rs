//! The nouns of the shop and their text form: what the services say to one another.

mod message;
mod notation;
mod order;
mod quote;
mod sample;

pub use message::{Request, Response, Stats};
pub use notation::{DecodeError, Value};
pub use order::{Line, MAX_LINES, MAX_QUANTITY, Order, Refusal};
pub use quote::{Cents, Quote, QuotedLine};
pub use sample::{Samples, fingerprint};

/// A type with a text form.
pub trait Model: Sized {
    /// The value as a tree of notation.
    fn to_value(&self) -> Value;

    /// Reads the value back, or says which field is missing or of the wrong kind.
    fn from_value(value: &Value) -> Result<Self, DecodeError>;

    /// The text form, as bytes for a frame.
    fn encode(&self) -> Vec<u8> {
        self.to_value().to_string().into_bytes()
    }

    /// Reads the text form back; anything may have sent it.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_value(&Value::parse(bytes)?)
    }
}
