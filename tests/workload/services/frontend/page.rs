//! How orders and responses look on the page: plain text in columns.

use models::{Order, Quote, Response, Stats};
use std::fmt::Write as _;

/// The line above an order.
pub(crate) fn heading(order: &Order) -> String {
    format!("Order {} for {}\n", order.id, order.customer)
}

/// A response as the lines below its order.
pub(crate) fn response(response: &Response) -> String {
    match response {
        Response::Quote { quote, .. } => table(quote),
        Response::Refused { reason, .. } => format!("  refused: {reason}\n\n"),
        Response::Failed { reason } => format!("  failed: {reason}\n\n"),
        Response::Stats(Stats { quoted, refused, cached }) => {
            format!("{quoted} quoted ({cached} from the cache), {refused} refused\n")
        }
    }
}

fn table(quote: &Quote) -> String {
    let mut text = String::new();
    let mut row = |label: &str, amount: &dyn std::fmt::Display| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {label:<28}{amount:>12}");
    };
    for line in &quote.lines {
        row(&format!("{:>5} x {}", line.quantity, line.name), &line.price);
    }
    if quote.discount.0 > 0 {
        row("discount", &format!("-{}", quote.discount));
    }
    row("total", &quote.total);
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use models::{Cents, QuotedLine};

    #[test]
    fn amounts_stand_in_one_column() {
        let line =
            QuotedLine { name: "Stoneware mug".to_owned(), quantity: 20, price: Cents(17_000) };
        let (subtotal, discount, total) = (Cents(17_000), Cents(850), Cents(16_150));
        let quote = Quote { lines: vec![line], subtotal, discount, total };
        let expected = concat!(
            "     20 x Stoneware mug             170.00\n",
            "  discount                           -8.50\n",
            "  total                             161.50\n\n",
        );
        assert_eq!(response(&Response::Quote { order: 1, quote }), expected);
    }

    #[test]
    fn a_refusal_gives_its_reason() {
        let refused = Response::Refused { order: 1, reason: "sold out".to_owned() };
        assert_eq!(response(&refused), "  refused: sold out\n\n");
    }
}
