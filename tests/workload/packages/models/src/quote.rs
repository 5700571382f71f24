//! What an order costs.

use crate::{DecodeError, Line, Model, Order, Refusal, Value};
use settings::price_list::PRODUCTS;
use std::fmt;

/// Subtotals from which a discount is given, the highest first, and its percentage.
const DISCOUNTS: [(Cents, u64); 2] = [(Cents(50_000), 10), (Cents(10_000), 5)];

/// An amount of money, in hundredths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cents(pub u64);

impl fmt::Display for Cents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{:02}", self.0 / 100, self.0 % 100))
    }
}

/// The price of an order, line by line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    pub lines: Vec<QuotedLine>,
    pub subtotal: Cents,
    pub discount: Cents,
    pub total: Cents,
}

/// The price of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotedLine {
    pub name: String,
    pub quantity: u32,
    pub price: Cents,
}

/// Name and price of a product, if there is one with this sku.
pub(crate) fn product(sku: &str) -> Option<(&'static str, Cents)> {
    let index = PRODUCTS.binary_search_by_key(&sku, |(sku, ..)| sku).ok()?;
    let (_, cents, name) = PRODUCTS[index];
    Some((name, Cents(cents)))
}

impl Quote {
    /// Prices an order, or refuses it. Discounts are rounded down, in favour of the shop.
    pub fn for_order(order: &Order) -> Result<Quote, Refusal> {
        order.check()?;
        let lines = order.lines.iter().map(QuotedLine::new).collect::<Result<Vec<_>, _>>()?;
        let subtotal = Cents(lines.iter().map(|line| line.price.0).sum());
        let percent =
            DISCOUNTS.iter().find(|(from, _)| subtotal >= *from).map_or(0, |(_, percent)| *percent);
        let discount = Cents(subtotal.0 * percent / 100);
        Ok(Quote { lines, subtotal, discount, total: Cents(subtotal.0 - discount.0) })
    }
}

impl QuotedLine {
    fn new(line: &Line) -> Result<QuotedLine, Refusal> {
        let (name, each) =
            product(&line.sku).ok_or_else(|| Refusal::UnknownProduct(line.sku.clone()))?;
        let price = Cents(each.0 * u64::from(line.quantity));
        Ok(QuotedLine { name: name.to_owned(), quantity: line.quantity, price })
    }
}

impl Model for Quote {
    fn to_value(&self) -> Value {
        Value::map([
            ("lines", Value::List(self.lines.iter().map(Model::to_value).collect())),
            ("subtotal", Value::Number(self.subtotal.0)),
            ("discount", Value::Number(self.discount.0)),
            ("total", Value::Number(self.total.0)),
        ])
    }

    fn from_value(value: &Value) -> Result<Self, DecodeError> {
        let lines = value.list("lines")?.iter().map(QuotedLine::from_value);
        Ok(Quote {
            lines: lines.collect::<Result<_, _>>()?,
            subtotal: Cents(value.number("subtotal")?),
            discount: Cents(value.number("discount")?),
            total: Cents(value.number("total")?),
        })
    }
}

impl Model for QuotedLine {
    fn to_value(&self) -> Value {
        Value::map([
            ("name", Value::Text(self.name.clone())),
            ("quantity", Value::Number(self.quantity.into())),
            ("price", Value::Number(self.price.0)),
        ])
    }

    fn from_value(value: &Value) -> Result<Self, DecodeError> {
        Ok(QuotedLine {
            name: value.text("name")?.to_owned(),
            quantity: value.number("quantity")?,
            price: Cents(value.number("price")?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MAX_LINES, MAX_QUANTITY, Samples};

    fn quote(sku: &str, quantity: u32) -> Quote {
        let lines = vec![Line { sku: sku.to_owned(), quantity }];
        Quote::for_order(&Order { id: 1, customer: "Ada".to_owned(), lines }).unwrap()
    }

    #[test]
    fn the_price_list_is_sorted_so_that_binary_search_works() {
        assert!(PRODUCTS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn discounts_start_at_their_thresholds() {
        let each = product("mug").unwrap().1.0;
        for quantity in 1..200 {
            let quote = quote("mug", quantity);
            let subtotal = each * u64::from(quantity);
            let percent = match subtotal {
                0..=9_999 => 0,
                10_000..=49_999 => 5,
                _ => 10,
            };
            assert_eq!(quote.subtotal, Cents(subtotal));
            assert_eq!(quote.discount, Cents(subtotal * percent / 100));
        }
    }

    #[test]
    fn no_order_that_passes_can_overflow() {
        let dearest = PRODUCTS.iter().map(|(_, cents, _)| *cents).max().unwrap();
        let lines = u64::try_from(MAX_LINES).unwrap();
        let total = dearest.checked_mul(u64::from(MAX_QUANTITY)).and_then(|t| t.checked_mul(lines));
        assert!(total.and_then(|t| t.checked_mul(100)).is_some());
    }

    #[test]
    fn every_sample_is_quoted_and_survives_the_wire() {
        for order in Samples::new(7).take(500) {
            let quote = Quote::for_order(&order).unwrap();
            assert_eq!(quote.total.0 + quote.discount.0, quote.subtotal.0);
            assert_eq!(Quote::decode(&quote.encode()), Ok(quote));
        }
    }

    #[test]
    fn amounts_print_with_two_places_and_align() {
        assert_eq!(format!("{:>8}", Cents(1_205)), "   12.05");
    }
}
