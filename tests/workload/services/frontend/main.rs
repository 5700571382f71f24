//! The frontend: reads a file of orders, has each quoted by the api and prints the page.

mod page;

use models::{Line, Model, Order, Quote, Request, Response, Samples, fingerprint};
use network::Endpoint;
use std::error::Error;
use std::process::ExitCode;

const USAGE: &str = "usage: frontend --api ENDPOINT ORDERS-FILE
       frontend --self-test | --version
ENDPOINT is tcp:HOST:PORT or exec:PROGRAM.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let page = match arguments[..] {
        ["--version"] => Ok(settings::version_line("frontend") + "\n"),
        ["--self-test"] => self_test(),
        ["--api", endpoint, file] => quote_all(endpoint, file),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match page {
        Ok(page) => {
            print!("{page}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("frontend: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Sends every order of the file to the api, then asks what it has done.
fn quote_all(endpoint: &str, file: &str) -> Result<String, Box<dyn Error>> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let orders = parse_orders(&text).map_err(|error| format!("{file}: {error}"))?;
    let mut api = endpoint.parse::<Endpoint>()?.connect()?;
    let mut ask = |request: Request| -> Result<Response, Box<dyn Error>> {
        Ok(Response::decode(&network::call(&mut api, &request.encode())?)?)
    };
    let mut page = String::new();
    for order in orders {
        let heading = page::heading(&order);
        page += &heading;
        page += &page::response(&ask(Request::Quote(order))?);
    }
    page += &page::response(&ask(Request::Stats)?);
    Ok(page)
}

/// Reads lines of `NUMBER CUSTOMER SKU*QUANTITY...`; blank lines and comments are skipped.
fn parse_orders(text: &str) -> Result<Vec<Order>, String> {
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|(index, line)| {
            let mut words = line.split_whitespace();
            let id = words.next().and_then(|id| id.parse().ok());
            let customer = words.next().map(str::to_owned);
            let lines = words.map(parse_line).collect::<Option<_>>();
            match (id, customer, lines) {
                (Some(id), Some(customer), Some(lines)) => Ok(Order { id, customer, lines }),
                _ => Err(format!("line {} is not an order: {line}", index + 1)),
            }
        })
        .collect()
}

fn parse_line(word: &str) -> Option<Line> {
    let (sku, quantity) = word.split_once('*')?;
    Some(Line { sku: sku.to_owned(), quantity: quantity.parse().ok()? })
}

/// Prints a page for many sample orders and names it by a fingerprint.
fn self_test() -> Result<String, Box<dyn Error>> {
    let mut hash = 0;
    for order in Samples::new(1906).take(20_000) {
        let quote = Quote::for_order(&order).map_err(|refusal| refusal.to_string())?;
        hash = fingerprint(hash, page::heading(&order).as_bytes());
        let response = Response::Quote { order: order.id, quote };
        hash = fingerprint(hash, page::response(&response).as_bytes());
    }
    Ok(format!("frontend: 20000 quotes, {hash:016x}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_and_comments_skipped() {
        let orders = parse_orders("# orders\n\n7 Ada tea*2 mug*1\n8 Alan\n").unwrap();
        let line = |sku: &str, quantity| Line { sku: sku.to_owned(), quantity };
        assert_eq!(orders[0].lines, [line("tea", 2), line("mug", 1)]);
        assert_eq!((orders[1].id, orders[1].lines.len()), (8, 0));
    }

    #[test]
    fn a_line_that_is_no_order_is_named() {
        for bad in ["x Ada tea*1", "1", "1 Ada tea", "1 Ada tea*", "1 Ada tea*-1"] {
            let error = parse_orders(&format!("1 Ada tea*1\n{bad}")).unwrap_err();
            assert_eq!(error, format!("line 2 is not an order: {bad}"));
        }
    }
}
