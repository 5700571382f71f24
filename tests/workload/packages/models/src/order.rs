//! Orders and the rules by which one is refused.

use crate::{DecodeError, Model, Value, quote};
use std::fmt;

/// The longest order. A shop of this size never sees more, and it bounds the work of one request.
pub const MAX_LINES: usize = 100;

/// The most of one product in an order; keeps every total far below what 64 bits hold.
pub const MAX_QUANTITY: u32 = 10_000;

/// What a customer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub id: u32,
    pub customer: String,
    pub lines: Vec<Line>,
}

/// So many of one product.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    pub sku: String,
    pub quantity: u32,
}

/// Why an order is not quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Empty,
    TooLong,
    UnknownProduct(String),
    Quantity { sku: String, quantity: u32 },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Empty => write!(f, "an order needs at least one line"),
            Refusal::TooLong => write!(f, "an order has at most {MAX_LINES} lines"),
            Refusal::UnknownProduct(sku) => write!(f, "no product is called `{sku}`"),
            Refusal::Quantity { sku, quantity } => {
                write!(f, "{quantity} of `{sku}` is not between 1 and {MAX_QUANTITY}")
            }
        }
    }
}

impl Order {
    /// Checks everything that a quote relies on.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.lines.is_empty() {
            return Err(Refusal::Empty);
        }
        if self.lines.len() > MAX_LINES {
            return Err(Refusal::TooLong);
        }
        for Line { sku, quantity } in &self.lines {
            if quote::product(sku).is_none() {
                return Err(Refusal::UnknownProduct(sku.clone()));
            }
            if !(1..=MAX_QUANTITY).contains(quantity) {
                return Err(Refusal::Quantity { sku: sku.clone(), quantity: *quantity });
            }
        }
        Ok(())
    }
}

impl Model for Order {
    fn to_value(&self) -> Value {
        Value::map([
            ("id", Value::Number(self.id.into())),
            ("customer", Value::Text(self.customer.clone())),
            ("lines", Value::List(self.lines.iter().map(Model::to_value).collect())),
        ])
    }

    fn from_value(value: &Value) -> Result<Self, DecodeError> {
        Ok(Order {
            id: value.number("id")?,
            customer: value.text("customer")?.to_owned(),
            lines: value.list("lines")?.iter().map(Line::from_value).collect::<Result<_, _>>()?,
        })
    }
}

impl Model for Line {
    fn to_value(&self) -> Value {
        Value::map([
            ("sku", Value::Text(self.sku.clone())),
            ("quantity", Value::Number(self.quantity.into())),
        ])
    }

    fn from_value(value: &Value) -> Result<Self, DecodeError> {
        Ok(Line { sku: value.text("sku")?.to_owned(), quantity: value.number("quantity")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(lines: &[(&str, u32)]) -> Order {
        let lines = lines.iter().map(|&(sku, quantity)| Line { sku: sku.to_owned(), quantity });
        Order { id: 1, customer: "Ada".to_owned(), lines: lines.collect() }
    }

    #[test]
    fn a_good_order_passes() {
        assert_eq!(order(&[("tea", 1), ("mug", MAX_QUANTITY)]).check(), Ok(()));
    }

    #[test]
    fn each_rule_refuses_with_its_own_reason() {
        let unknown = Refusal::UnknownProduct("samovar".to_owned());
        let none = Refusal::Quantity { sku: "tea".to_owned(), quantity: 0 };
        assert_eq!(order(&[]).check(), Err(Refusal::Empty));
        assert_eq!(order(&[("tea", 1); MAX_LINES + 1]).check(), Err(Refusal::TooLong));
        assert_eq!(order(&[("tea", 1), ("samovar", 1)]).check(), Err(unknown));
        assert_eq!(order(&[("tea", 0)]).check(), Err(none));
    }

    #[test]
    fn a_number_out_of_range_names_its_field() {
        let error = Line::decode(br#"{"sku":"tea","quantity":4294967296}"#).unwrap_err();
        assert_eq!(error.to_string(), "field `quantity` is not a number in range");
    }
}
